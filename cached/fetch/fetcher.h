// The one way bytes come from a store into the cache and to a reader.
//
// Single flight: a chunk on its way is never asked for twice, whoever wants it. Streaming: a reader gets its bytes as
// soon as they have arrived, not when their chunk is whole, and before they are on disk. Demand has workers of its own;
// prefetch and warm-up wait in a priority queue and are promoted when a reader asks. Thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "cached/cache/object_cache.h"
#include "cached/fetch/fetch_observer.h"
#include "cached/store/object_store.h"
#include "common/clock.h"
#include "common/status.h"

namespace mlcache {
class Metrics;
}

namespace mlcache::fetch {

// An object version ready to be read: where it comes from and where it is kept.
struct Source {
  std::shared_ptr<store::ObjectStore> store;
  store::ObjectRef ref;
  std::shared_ptr<cache::CachedObject> object;
  cache::AccessHints hints;
  std::string pattern = "unknown";  // metrics label
  bool outsized = false;            // larger than the cache: what is fetched beside what was asked for only takes room
  std::shared_ptr<FetchObserver> observer = nullptr;  // of the mount that reads; may be null
};

struct FetchOptions {
  size_t demand_workers = 16;
  size_t background_workers = 8;
  size_t disk_workers = 4;                // reads that must wait for the disk
  uint64_t in_flight_bytes = 256 * kMiB;  // buffers of all fetches together; demand may always have one chunk
  Nanos request_timeout = std::chrono::seconds(60);
};

using ReadDone = std::move_only_function<void(Status)>;

class Fetcher {
 public:
  virtual ~Fetcher() = default;  // cancels what runs, answers every waiter kCancelled, joins

  // Fills all of `out` (within the object) with the bytes at `offset`, or fails. `done` is called exactly once, inline
  // when the cache has the bytes at hand, otherwise on one of the fetcher's threads; `out` must live until then.
  // context.stop ends the wait within 100 ms with kCancelled; the fetch goes on if others wait for it.
  virtual void Read(const Source& source, uint64_t offset, std::span<std::byte> out, const store::CallContext& context,
                    ReadDone done) = 0;

  // Brings the missing parts of the range into the cache at context.priority; `done` may be null. An error when they
  // could not be fetched or not be kept.
  virtual void Ensure(const Source& source, cache::ByteRange range, const store::CallContext& context,
                      ReadDone done) = 0;

  // A reader got the range some other way, as when its file was lent: what was fetched ahead of it was of use.
  virtual void Used(const Source& source, cache::ByteRange range) = 0;
};

std::unique_ptr<Fetcher> MakeFetcher(const FetchOptions& options, const Clock& clock, Metrics& metrics);

}  // namespace mlcache::fetch
