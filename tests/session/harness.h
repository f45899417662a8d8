// A session server over a store, a cache and maps in memory, and clients for it: what the tests of sessions share.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "cached/fetch/fetcher.h"
#include "cached/metrics/metrics.h"
#include "cached/session/session_server.h"
#include "tests/fakes/eventually.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/fake_key_value.h"
#include "tests/fakes/fake_object_cache.h"
#include "tests/fakes/fake_object_store.h"
#include "tests/fakes/session_client.h"

namespace mlcache::testing {

// The URL file:///data/sets names the whole fake store, file:///data/sets/DIR its directory DIR.
inline constexpr char kUrl[] = "file:///data/sets";

// Shows one directory of another store as a store of its own.
class SubtreeStore final : public store::ObjectStore {
 public:
  SubtreeStore(std::shared_ptr<FakeObjectStore> whole, std::string root)
      : whole_(std::move(whole)), root_(std::move(root)) {}

  Result<store::ObjectInfo> Stat(const std::string& path, const store::CallContext& context) override {
    return whole_->Stat(Whole(path), context);
  }
  Result<store::ListPage> List(const std::string& path, const std::string& token,
                               const store::CallContext& context) override {
    return whole_->List(Whole(path), token, context);
  }
  Status ReadRange(const store::ObjectRef& ref, uint64_t offset, uint64_t length, const store::ByteSink& sink,
                   const store::CallContext& context) override {
    store::ObjectRef whole = ref;
    whole.path = Whole(ref.path);
    return whole_->ReadRange(whole, offset, length, sink, context);
  }
  Result<store::StoreCapacity> Capacity(const store::CallContext& context) override {
    return whole_->Capacity(context);
  }
  Status Watch(const std::string& path, const store::ChangeSink& sink, const store::CallContext& context) override {
    return whole_->Watch(Whole(path), sink, context);
  }

 private:
  std::string Whole(const std::string& path) const {
    return root_.empty() || path.empty() ? root_ + path : root_ + "/" + path;
  }

  const std::shared_ptr<FakeObjectStore> whole_;
  const std::string root_;
};

class SessionTest : public ::testing::Test {
 protected:
  SessionTest() {
    // glog asks for the time zone; without TZ libc works it out anew each time, under a lock that tsan does not know.
    setenv("TZ", "UTC", 0);
    std::string pattern = (std::filesystem::temp_directory_path() / "session.XXXXXX").string();
    socket_dir_ = mkdtemp(pattern.data());
    options_.socket_dir = socket_dir_;
    options_.open_store = [this](const store::StoreUrl& url,
                                 const store::CallContext&) -> Result<std::shared_ptr<store::ObjectStore>> {
      const std::string root = "data/sets";
      if (!url.path.starts_with(root)) return Fail(Code::kNotFound, url.Canonical() + ": no such directory");
      return std::make_shared<SubtreeStore>(store_,
                                            url.path.size() > root.size() ? url.path.substr(root.size() + 1) : "");
    };
  }

  ~SessionTest() override {
    server_.reset();
    fetcher_.reset();
    std::filesystem::remove_all(socket_dir_);
  }

  void Start() {
    if (fetcher_ == nullptr) fetcher_ = fetch::MakeFetcher(fetch_options_, SystemClock(), metrics_);
    auto server = session::StartSessionServer(options_, {.cache = cache_,
                                                         .metadata = metadata_,
                                                         .nodes = nodes_,
                                                         .fetcher = *fetcher_,
                                                         .metrics = metrics_,
                                                         .clock = clock_});
    ASSERT_TRUE(server.has_value()) << server.error();
    server_ = *std::move(server);
  }

  // A restart of the daemon with its maps and cache kept.
  void Restart() {
    server_.reset();
    Start();
  }

  std::unique_ptr<SessionClient> Mount(const session::Hello& hello) {
    auto client = SessionClient::Connect(socket_dir_, hello);
    EXPECT_TRUE(client.has_value()) << client.error();
    return client.has_value() ? *std::move(client) : nullptr;
  }
  std::unique_ptr<SessionClient> Mount(const std::string& url = kUrl) { return Mount(SessionClient::HelloFor(url)); }

  Error Refusal(const session::Hello& hello) {
    auto client = SessionClient::Connect(socket_dir_, hello);
    EXPECT_FALSE(client.has_value()) << "the mount was let in";
    return client.has_value() ? Error(Code::kUnknown, "let in") : client.error();
  }

  bool AllIdle() {
    return Eventually([this] { return metrics_.mounts.Value() == 0 && metrics_.slots_in_use.Value() == 0; });
  }

  std::string socket_dir_;
  FakeClock clock_;
  std::shared_ptr<FakeObjectStore> store_ = std::make_shared<FakeObjectStore>();
  cache::FakeObjectCache cache_;
  cache::FakeKeyValue metadata_;
  cache::FakeKeyValue nodes_;
  Metrics metrics_;
  fetch::FetchOptions fetch_options_;
  session::SessionServerOptions options_;
  std::unique_ptr<fetch::Fetcher> fetcher_;
  std::unique_ptr<session::SessionServer> server_;
};

}  // namespace mlcache::testing
