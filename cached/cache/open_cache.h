// Opens the tiers and what they hold: the cache of the programs.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cached/cache/eviction_policy.h"
#include "cached/cache/key_value.h"
#include "cached/cache/object_cache.h"
#include "cached/cache/object_links.h"
#include "common/clock.h"
#include "common/status.h"

namespace mlcache {
class Metrics;
}

namespace mlcache::cache {

class FileOps;

struct TierOptions {
  std::string directory;
  uint64_t capacity_bytes = 0;  // hard: object files, index and reservations together never pass it
};

struct CacheOptions {
  std::vector<TierOptions> tiers;              // the first one also keeps the daemon's state
  uint64_t free_space_floor_bytes = 1 * kGiB;  // of each file system; a tier stops growing there
  Nanos commit_interval = std::chrono::seconds(1);
  uint64_t commit_bytes = 64 * kMiB;

  // What leaves a full tier with that budget; null: a size-aware LRU.
  std::function<std::unique_ptr<EvictionPolicy>(uint64_t capacity_bytes)> make_eviction;

  // For tests: what the files are worked with (not owned; null: the kernel), and the host's boot ("": the kernel's).
  FileOps* file_ops = nullptr;
  std::string boot_id;
};

// "DIR:SIZE[,DIR:SIZE…]". kInvalidArgument names the bad part and the form.
Result<std::vector<TierOptions>> ParseTiers(std::string_view text);

// Destroyed in reverse: the stores of the state before the cache, whose first tier they lie in. All entries must have
// been let go before.
struct OpenedCache {
  std::unique_ptr<ObjectCache> cache;
  std::unique_ptr<KeyValue> metadata;  // in the first tier
  std::unique_ptr<KeyValue> nodes;     // in the first tier; emptied when the host has booted since
  ObjectLinks* links = nullptr;        // the cache's
};

// Locks each tier (kAlreadyExists names the daemon that holds it), adopts what earlier runs left, drops what cannot be
// trusted. Missing directory, no permission, a full disk, a capacity too small: each a message that says how to mend
// it.
Result<OpenedCache> OpenCache(const CacheOptions& options, const Clock& clock, Metrics& metrics);

}  // namespace mlcache::cache
