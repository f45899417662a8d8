// What is known of a store's names: listings of whole directories and answers about single paths, each with the time
// its request began. A question is answered from memory when what is there is young enough, else from the persistent
// map (listings only), else by the store: one request for all who wait. Where many names of one directory are asked
// for, the directory is listed instead. Where attributes cost more than names, a listing asked for its names has only
// those until somebody wants the attributes: of a few entries one by one, of many by another listing. What is not
// settled (ObjectInfo::settled) is handed on and never served again.
// Memory is bounded by directories used least recently. Thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "cached/cache/key_value.h"
#include "cached/session/listing.h"
#include "cached/session/metadata_flights.h"
#include "cached/store/object_store.h"
#include "common/clock.h"
#include "common/status.h"

namespace mlcache::session {

struct MetadataOptions {
  size_t max_entries = 1'000'000;
  Nanos negative_ttl = std::chrono::seconds(1);
  // How many entries a listing brings at the price of one single request: what decides when a directory is listed
  // because many of its names are asked for.
  uint64_t entries_per_request = 1000;
  std::string persistent_prefix;  // of this store's keys in the persistent map
  std::string persistent_root;    // path of the store's root below it
};

class MetadataCache {
 public:
  // Borrows all but the options.
  MetadataCache(MetadataOptions options, store::ObjectStore& store, cache::KeyValue& persistent, const Clock& clock);

  // The answer of Stat, if memory has it.
  std::optional<Known> Peek(std::string_view path, Nanos max_age);

  // The answer of List, if memory has it; else null.
  std::shared_ptr<const Listing> PeekListing(std::string_view path, Nanos max_age, ListDetail detail);

  // What is at `path`, known since at most `max_age` (Nanos::max(): ever; absence: at most negative_ttl, unless
  // max_age is Nanos::max()). An absent path is an answer, not an error. May block.
  Result<Known> Stat(const std::string& path, Nanos max_age, const store::CallContext& context);

  // The whole directory; kNotFound when there is none. May block.
  Result<std::shared_ptr<const Listing>> List(const std::string& path, Nanos max_age, ListDetail detail,
                                              const store::CallContext& context);

  // Forgets `path` and all below it, in memory and in the persistent map; the number of entries dropped from memory.
  uint64_t Invalidate(const std::string& path);

  size_t entries_in_memory() const;

 private:
  struct NameHash {
    using is_transparent = void;
    size_t operator()(std::string_view name) const { return std::hash<std::string_view>{}(name); }
  };
  struct Directory {
    std::shared_ptr<const Listing> listing;
    bool contradicted = false;      // a later answer about a name differs from the listing
    bool wants_attributes = false;  // they were asked for, so the next listing brings them at once
    std::unordered_map<std::string, Known, NameHash, std::equal_to<>> singles;
    bool persistent_checked = false;
    uint64_t persisted_hash = 0;
    Nanos persisted_at{};
    Nanos misses_since{};
    uint64_t misses = 0;
    uint64_t known_size = 0;  // entries when last listed, or twice what a listing given up had brought
    std::list<std::string>::iterator used;
  };
  // Answers are young enough when they were asked for at these times or later.
  struct Threshold {
    Nanos exists;
    Nanos absent;
  };
  using Kind = Question::Kind;
  using Flight = MetadataFlights::Flight;
  using FlightPtr = MetadataFlights::FlightPtr;

  Threshold ThresholdOf(Nanos max_age) const;
  static std::optional<Known> Look(const Directory& directory, std::string_view name, const Threshold& threshold);
  Directory& Touch(const std::string& path);
  static bool Serves(const Directory& directory, const Threshold& threshold, ListDetail detail);
  Kind Choose(Directory& directory, const Threshold& threshold, Nanos max_age);
  uint64_t StormLimit(const Directory& directory) const;

  // `dropped` takes what left the cache: it is to be destroyed without the lock.
  using Dropped = std::vector<std::shared_ptr<const Listing>>;
  void Land(const Question& question, const FlightPtr& flight, Dropped* dropped);

  void RunStat(const std::string& path, Flight& flight, const store::CallContext& context);
  void RunList(const std::string& path, ListDetail detail, uint64_t limit, Flight& flight,
               const store::CallContext& context);
  void RunLoad(const std::string& path, Flight& flight);
  void KeepSingle(const Question& question, const Flight& flight);
  void KeepListing(const Question& question, const Flight& flight);
  // `invalidations`: before the listing was asked for.
  void Persist(const Question& question, uint64_t invalidations, const Listing& listing);
  void Shrink();
  void Drop(Directory& directory);
  std::string PersistentKey(std::string_view path) const;

  const MetadataOptions options_;
  store::ObjectStore& store_;
  cache::KeyValue& persistent_;
  const Clock& clock_;

  mutable std::mutex mutex_;
  // All guarded by mutex_. The parent of the root is the directory "/", whose one name is "".
  std::map<std::string, Directory, std::less<>> directories_;
  std::list<std::string> used_;  // paths of directories_; the front was used last
  size_t weight_ = 0;            // entries of all directories
  MetadataFlights flights_;
  Dropped dropped_;  // listings to be destroyed by whoever lets go of the lock
};

}  // namespace mlcache::session
