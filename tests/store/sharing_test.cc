// Eight daemons that start cold on one store with less than they want: no storm of retries, and to each his share.
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <latch>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "cached/metrics/metrics.h"
#include "cached/store/breaker_store.h"
#include "cached/store/call.h"
#include "cached/store/metered_store.h"
#include "cached/store/retry_store.h"
#include "cached/store/window_store.h"
#include "tests/fakes/fake_object_store.h"

namespace mlcache::store {
namespace {

using mlcache::testing::FakeObjectStore;

constexpr size_t kClients = 8;
constexpr size_t kReadersOfEach = 16;

// The limits of one server for all its clients: it works on so many requests at once, keeps a short queue, and refuses
// the rest as S3 does.
class Server {
 public:
  static constexpr size_t kAtOnce = 8;
  static constexpr size_t kQueue = 24;
  static constexpr auto kServiceTime = std::chrono::microseconds(500);

  explicit Server(uint64_t requests) : left_(requests) {}

  // False once the server has done what it was made for.
  bool open() const { return left_.load() > 0; }
  uint64_t refused() const { return refused_.load(); }

  Status Serve(std::atomic<uint64_t>& served_of_client) {
    std::unique_lock lock(mutex_);
    if (inside_ >= kAtOnce + kQueue) {
      ++refused_;
      return Fail(Code::kUnavailable, "503 SlowDown");
    }
    ++inside_;
    changed_.wait(lock, [&] { return working_ < kAtOnce; });
    ++working_;
    lock.unlock();
    std::this_thread::sleep_for(kServiceTime);  // the work itself
    lock.lock();
    --working_;
    --inside_;
    changed_.notify_one();
    if (left_ == 0) return {};
    --left_;
    ++served_of_client;
    return {};
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  size_t inside_ = 0;
  size_t working_ = 0;
  std::atomic<uint64_t> left_;
  std::atomic<uint64_t> refused_ = 0;
};

// What one daemon sees of it.
class Connection : public ForwardingStore {
 public:
  Connection(std::shared_ptr<ObjectStore> inner, Server& server) : ForwardingStore(std::move(inner)), server_(server) {}
  Result<ObjectInfo> Stat(const std::string& path, const CallContext& context) override {
    MLCACHE_RETURN_IF_ERROR(server_.Serve(served_));
    return inner_->Stat(path, context);
  }
  uint64_t served() const { return served_.load(); }

 private:
  Server& server_;
  std::atomic<uint64_t> served_ = 0;
};

// As OpenStore stacks it, with a daemon's default options.
struct Client {
  explicit Client(Server& server, uint64_t seed) {
    auto fake = std::make_shared<FakeObjectStore>();
    fake->Put("file", "x");
    connection = std::make_shared<Connection>(fake, server);
    auto breaker = std::make_shared<CircuitBreaker>(BreakerOptions{}, "s", metrics, SystemClock(), seed);
    auto window = std::make_shared<CongestionWindow>(WindowOptions{}, SystemClock());
    store = std::make_shared<MeteredStore>(connection, "s", metrics, SystemClock());
    store = std::make_shared<BreakerStore>(store, breaker);
    store = std::make_shared<WindowStore>(store, window, SystemClock());
    store = std::make_shared<RetryStore>(store, RetryOptions{}, "s", metrics, &Pause, seed);
  }
  double Retries() { return metrics.store_retries.Add({{"store", "s"}, {"op", "stat"}}).Value(); }

  Metrics metrics;
  std::shared_ptr<Connection> connection;
  std::shared_ptr<ObjectStore> store;
};

TEST(Sharing, EightColdClientsOfALimitedServerGetEqualSharesWithoutAStorm) {
  constexpr uint64_t kRequests = 20'000;
  Server server(kRequests);
  std::vector<std::unique_ptr<Client>> clients;
  for (size_t i = 0; i < kClients; ++i) clients.push_back(std::make_unique<Client>(server, i));
  std::atomic<uint64_t> failed = 0;
  std::latch all_there(kClients * kReadersOfEach);
  {
    std::vector<std::jthread> readers;
    for (const std::unique_ptr<Client>& client : clients) {
      for (size_t i = 0; i < kReadersOfEach; ++i) {
        readers.emplace_back([&] {
          all_there.arrive_and_wait();
          while (server.open()) {
            if (!client->store->Stat("file", {})) ++failed;
          }
        });
      }
    }
  }
  double retries = 0;
  std::string shares;
  for (const std::unique_ptr<Client>& client : clients) {
    const double share = static_cast<double>(client->connection->served()) * kClients / kRequests;
    // Within 0.2 on an idle machine; here others may take processors from one client's threads and not from another's.
    EXPECT_GE(share, 0.5);
    EXPECT_LE(share, 1.6);
    retries += client->Retries();
    shares += std::to_string(share) + " ";
  }
  RecordProperty("shares", shares);
  RecordProperty("refused", std::to_string(server.refused()));
  // 128 readers, room for 32: it did bite.
  EXPECT_GT(server.refused(), 100U);
  EXPECT_LT(server.refused(), kRequests / 4) << "a storm of requests in vain";
  EXPECT_LT(retries, kRequests / 4.0);
  EXPECT_EQ(failed, 0U) << "the readers were made to wait, not to fail";
}

}  // namespace
}  // namespace mlcache::store
