// What the fetcher's tests share: a fake store and cache, a fetcher over them, and reads whose ends can be waited for.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "cached/fetch/fetcher.h"
#include "cached/metrics/metrics.h"
#include "tests/fakes/fake_object_cache.h"
#include "tests/fakes/fake_object_store.h"

namespace mlcache::fetch {

using cache::kBlockBytes;
using cache::kChunkBytes;
using testing::FakeObjectStore;

// A fake whose every byte is certain when it is handed over, as S3's are.
class PinnedStore final : public FakeObjectStore {
 public:
  bool PinsVersion() const override { return true; }
};

// One asynchronous call: its buffer, and its end.
class Call {
 public:
  explicit Call(size_t bytes) : bytes_(bytes, '\xee') {}

  std::span<std::byte> out() { return std::as_writable_bytes(std::span(bytes_)); }
  const std::string& bytes() const { return bytes_; }

  ReadDone Done() {
    return [this](Status status) {
      const std::scoped_lock lock(mutex_);
      ASSERT_FALSE(status_.has_value()) << "done was called twice";
      status_ = std::move(status);
      changed_.notify_all();
    };
  }
  bool ended() {
    const std::scoped_lock lock(mutex_);
    return status_.has_value();
  }
  // Fails the test rather than hang it.
  Status Wait() {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, std::chrono::seconds(30), [this] { return status_.has_value(); })) {
      ADD_FAILURE() << "a call did not end within 30 s";
      return Fail(Code::kInternal, "did not end");
    }
    return *status_;
  }

 private:
  std::string bytes_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<Status> status_;
};

// Bytes that tell their place and their seed.
inline std::string Content(size_t size, uint64_t seed) {
  std::string bytes(size, '\0');
  uint64_t state = seed * 0x9e3779b97f4a7c15ULL + 1;
  for (size_t at = 0; at < size; at += sizeof(state)) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    std::memcpy(bytes.data() + at, &state, std::min(sizeof(state), size - at));
  }
  return bytes;
}

inline double Total(prometheus::Family<prometheus::Counter>& family) {
  double total = 0;
  for (const auto& collected : family.Collect()) {
    for (const auto& metric : collected.metric) total += metric.counter.value;
  }
  return total;
}

struct FetchWorld {
  explicit FetchWorld(const FetchOptions& options = {}, bool pinned = true, uint64_t cache_bytes = UINT64_MAX / 2)
      : cache(cache_bytes) {
    store = pinned ? std::make_shared<PinnedStore>() : std::make_shared<FakeObjectStore>();
    fetcher = MakeFetcher(options, SystemClock(), metrics);
  }

  Source Open(const std::string& path) {
    Source source;
    source.store = store;
    source.ref = store->Ref(path);
    auto object =
        cache.Acquire({.store = "fake://store", .path = path, .version = source.ref.version, .size = source.ref.size});
    source.object = *object;
    return source;
  }

  // Puts a file with Content(size, seed) and opens it.
  Source Make(const std::string& path, size_t size, uint64_t seed = 1) {
    store->Put(path, Content(size, seed));
    return Open(path);
  }

  Status ReadNow(const Source& source, uint64_t offset, size_t length, std::string* bytes = nullptr) {
    Call call(length);
    fetcher->Read(source, offset, call.out(), {}, call.Done());
    Status status = call.Wait();
    if (bytes != nullptr) *bytes = call.bytes();
    return status;
  }

  // Waits until no flight of the file is left, so that what was fetched is kept. Asks for what is still missing.
  Status Settle(const Source& source) {
    Call call(0);
    fetcher->Ensure(source, {0, source.ref.size}, {.priority = store::Priority::kWarmup}, call.Done());
    return call.Wait();
  }

  Metrics metrics;
  cache::FakeObjectCache cache;
  std::shared_ptr<FakeObjectStore> store;
  std::unique_ptr<Fetcher> fetcher;  // last: it goes first
};

}  // namespace mlcache::fetch
