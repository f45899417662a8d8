// The object cache over its tiers: which objects there are, where each lives, what leaves, and when rows are written.
//
// Threads: callers', and one that commits. Locks: mutex_ and queue_mutex_ are leaves (no I/O, no entry lock under
// them); commit_mutex_ is outermost.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "cached/cache/admission_policy.h"
#include "cached/cache/entry.h"
#include "cached/cache/eviction_policy.h"
#include "cached/cache/object_cache.h"
#include "cached/cache/object_links.h"
#include "cached/cache/tier.h"
#include "common/clock.h"

namespace mlcache::cache {

class TieredCache final : public ObjectCache, public ObjectLinks, private EntryHost {
 public:
  struct Options {
    Nanos commit_interval{};
    uint64_t commit_bytes = 0;
    uint64_t boot = 0;
  };
  struct Level {
    std::unique_ptr<Tier> tier;
    std::unique_ptr<EvictionPolicy> eviction;
  };

  TieredCache(const Options& options, std::vector<Level> levels, std::unique_ptr<AdmissionPolicy> admission,
              const Clock& clock);
  // Commits what is not yet. No entry may outlive the cache.
  ~TieredCache() override;

  // Adopts what the tiers hold, once, before anything else.
  Status Load();

  Result<std::shared_ptr<CachedObject>> Acquire(const ObjectKey& key) override;
  std::shared_ptr<CachedObject> Find(const ObjectKey& key) override;
  uint64_t Evict(const ObjectKey& key) override;
  Status Flush() override;
  std::vector<TierReport> Tiers() const override;
  void Touch(const ObjectId& id, const AccessHints& hints) override { Accessed(id, 0, 0, hints); }
  std::vector<ObjectsDirectory> ObjectsDirectories() const override;
  void TellOfLeaving(ObjectCache::Left left) override {
    const std::scoped_lock lock(left_mutex_);
    left_ = std::move(left);
  }

  // ObjectLinks (tiered_cache_links.cc):
  Result<ObjectLink> Link(const ObjectKey& key, std::span<const int> directories) override;
  Result<ObjectLink> Adopt(const ObjectId& id, size_t tier, int directory) override;
  void Unlink(ObjectLink link, int directory) override;
  Result<std::unique_ptr<Reservation>> Hold(size_t tier, uint64_t bytes) override;
  void OnContention(std::function<void()> called) override { contention_ = std::move(called); }

  // Evicts until the tier is within its budget again.
  void Relieve(size_t tier) { static_cast<void>(MakeRoom(levels_[tier], 0, false)); }

 private:
  struct Record {
    ObjectState state;
    std::weak_ptr<Entry> entry;
    Tier* tier = nullptr;
    int64_t last_access_ns = 0;              // wall clock
    bool touched = false;                    // since that became a row
    std::shared_ptr<FilePin> pin = nullptr;  // while the file has links; then no policy knows the object
    uint32_t links = 0;
  };
  struct Pending {
    std::shared_ptr<Entry> entry;
    Tier* tier;
  };
  struct Loading;

  // EntryHost:
  Result<Tier*> ChargeRoom(const ObjectKey& key, Tier* current, uint64_t bytes, const AccessHints& hints) override;
  std::shared_ptr<FilePin> Changed(const ObjectId& id, const ObjectState& state, Tier* tier,
                                   std::span<const ChunkSpace> chunks, const AccessHints& hints) override;
  void Dirty(std::shared_ptr<Entry> entry, Tier* tier, uint64_t bytes) override;
  void Accessed(const ObjectId& id, uint32_t first_chunk, uint32_t last_chunk, const AccessHints& hints) override;
  void Left(const ObjectId& id) override {
    const std::scoped_lock lock(left_mutex_);
    if (left_) left_(id);
  }
  void Closed(const ObjectId& id) override;
  uint64_t Boot() const override { return options_.boot; }

  void Used(const ObjectId& id, Record& record);  // mutex_ held
  Level& LevelOf(const Tier* tier);
  std::vector<Level*> Candidates(uint64_t object_size, Tier* current, uint64_t bytes);
  bool MakeRoom(Level& level, uint64_t bytes, bool charge);
  bool NoRoom();
  void Displaced(const Level& level, uint64_t bytes);
  std::shared_ptr<FilePin> Pin(const ObjectId& id, Tier& tier);
  void Unpin(const ObjectLink& link);
  uint64_t EvictUnits(const std::vector<EvictionUnit>& units);
  uint64_t EvictSome(Level& level, uint64_t bytes);
  static bool AwaitReturns(Tier& tier, uint64_t bytes);
  std::shared_ptr<Entry> EntryOf(const ObjectId& id);               // null when nothing is known of it
  std::shared_ptr<Entry> Open(const ObjectId& id, Record& record);  // mutex_ held

  Status LoadLevel(Level& level, std::vector<Loading>& found);
  bool LoadChunks(Level& level, Loading& object);

  void Run(const std::stop_token& stop);
  Status CommitRound(bool final);
  Status CommitGroup(Tier& tier, const std::vector<std::shared_ptr<Entry>>& entries);
  Status CommitTouched(Tier& tier);
  void Tend();

  const Options options_;
  const Clock& clock_;
  std::mutex left_mutex_;      // held while left_ runs: once TellOfLeaving returns, the one before is not called
  ObjectCache::Left left_;     // guarded by left_mutex_
  std::vector<Level> levels_;  // the policies are guarded by mutex_
  std::function<void()> contention_;

  mutable std::mutex mutex_;
  std::unordered_map<ObjectId, Record, ObjectIdHash> records_;
  std::unique_ptr<AdmissionPolicy> admission_;
  std::vector<ObjectId> touched_;
  size_t linked_ = 0;             // records with a pin
  uint64_t displaced_bytes_ = 0;  // evicted while there were such
  std::unordered_map<const Tier*, uint64_t> objects_;

  std::mutex commit_mutex_;
  Nanos touched_written_{0};  // guarded by commit_mutex_

  std::mutex queue_mutex_;
  std::condition_variable_any queue_changed_;
  std::vector<Pending> queue_;
  uint64_t queue_bytes_ = 0;

  std::jthread committer_;  // last: joins first
};

}  // namespace mlcache::cache
