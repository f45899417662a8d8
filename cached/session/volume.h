// A store prefix with its metadata cache: what a mount shows and what the control service walks. One Volume serves all
// mounts of the same URL. Paths are relative to the URL, as in object_store.h. Thread-safe; calls may block on the
// store.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cached/cache/key_value.h"
#include "cached/cache/object_cache.h"
#include "cached/fetch/fetcher.h"
#include "cached/session/listing.h"
#include "cached/store/object_store.h"
#include "cached/store/store_url.h"
#include "common/clock.h"
#include "common/status.h"

namespace mlcache::session {

struct VolumeOptions {
  size_t max_cached_entries = 1'000'000;         // in memory, about 300 bytes each; the directories used last stay
  Nanos negative_ttl = std::chrono::seconds(1);  // at most; a mount's attr_ttl may be shorter
};

class Volume {
 public:
  virtual ~Volume() = default;

  virtual const store::StoreUrl& url() const = 0;

  // Metadata no older than `max_age` (Nanos::max(): any age will do). One request to the store for all who wait. Every
  // entry of a listing is described.
  virtual Result<store::ObjectInfo> Stat(const std::string& path, Nanos max_age, const store::CallContext& context) = 0;
  virtual Result<std::shared_ptr<const Listing>> List(const std::string& path, Nanos max_age,
                                                      const store::CallContext& context) = 0;

  // Forgets what is known of `path`, and of everything below it; the number of entries dropped.
  virtual uint64_t Invalidate(const std::string& path) = 0;

  // The regular file `path` in the version of `info`, ready for the fetcher.
  virtual Result<fetch::Source> Open(const std::string& path, const store::ObjectInfo& info) = 0;

  virtual store::ObjectStore& store() = 0;
};

// The cache's name for a file of that volume.
cache::ObjectKey KeyOf(const store::StoreUrl& url, const std::string& path, const store::ObjectInfo& info);

// `persistent` (borrowed) keeps listings over restarts. `cache` is borrowed.
std::shared_ptr<Volume> MakeVolume(const store::StoreUrl& url, std::shared_ptr<store::ObjectStore> store,
                                   cache::ObjectCache& cache, cache::KeyValue& persistent, const VolumeOptions& options,
                                   const Clock& clock);

}  // namespace mlcache::session
