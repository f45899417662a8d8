// Keeps the books of prefetching: which blocks were fetched ahead of any reader, and whether one came for them. A block
// is *used* when a reader first gets it, *wasted* when it is evicted, or its object let go of by everybody, unread. The
// observer of the source is told the same, and takes what was called off for wasted at once: it may still be read
// later, but was no good guess. Thread-safe; cheap while nothing is outstanding.
#pragma once

#include <prometheus/counter.h>

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <stop_token>
#include <unordered_map>
#include <vector>

#include "cached/cache/object_cache.h"
#include "cached/fetch/fetch_observer.h"

namespace mlcache::fetch {

class PrefetchLedger {
 public:
  // The counters are borrowed. Above `max_chunks` the oldest chunks are given up as wasted.
  PrefetchLedger(prometheus::Counter& used, prometheus::Counter& wasted, size_t max_chunks = 65536)
      : used_(used), wasted_(wasted), max_chunks_(max_chunks) {}

  // These blocks of one chunk are on their way and nobody has read them. `purpose` is requested when what they are
  // fetched for is called off; `observer` may be null.
  void Issue(const std::shared_ptr<cache::CachedObject>& object, uint64_t chunk,
             const std::vector<cache::ByteRange>& ranges, std::shared_ptr<FetchObserver> observer = nullptr,
             std::stop_token purpose = {});

  // They have come, as far as they could be kept.
  void Land(const cache::CachedObject& object, uint64_t chunk);

  // They did not come.
  void Withdraw(const cache::CachedObject& object, uint64_t chunk);

  // A reader got [begin, end).
  void Use(const cache::CachedObject& object, uint64_t begin, uint64_t end) {
    if (outstanding_.load(std::memory_order_relaxed) != 0) UseSlowly(object, begin, end);
  }

  // Looks at the `count` chunks not looked at for longest, for blocks that will not be used any more.
  void Sweep(size_t count);

 private:
  struct Key {
    const cache::CachedObject* object;
    uint64_t chunk;
    bool operator==(const Key&) const = default;
  };
  struct KeyHash {
    size_t operator()(const Key& key) const {
      return std::hash<const void*>()(key.object) ^ (key.chunk * 0x9e3779b97f4a7c15ULL);
    }
  };
  struct Entry {
    Key key;
    std::weak_ptr<cache::CachedObject> object;
    uint64_t object_bytes;
    uint64_t unread;                                    // a bit a block
    bool arriving = true;                               // absent because it is on its way
    std::shared_ptr<FetchObserver> observer = nullptr;  // null once it was told of the rest
    std::stop_token purpose = {};
  };
  using Entries = std::list<Entry>;

  void UseSlowly(const cache::CachedObject& object, uint64_t begin, uint64_t end);
  static void TellWaste(const Entry& entry, uint64_t blocks);
  void Waste(const Entry& entry, uint64_t blocks);  // mutex_ held
  void Erase(Entries::iterator entry);              // mutex_ held

  prometheus::Counter& used_;
  prometheus::Counter& wasted_;
  const size_t max_chunks_;
  std::atomic<size_t> outstanding_ = 0;
  std::mutex mutex_;
  Entries entries_;  // guarded by mutex_; the one to be swept next first
  std::unordered_map<Key, Entries::iterator, KeyHash> index_;
};

}  // namespace mlcache::fetch
