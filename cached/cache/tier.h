// One tier: a directory with a hard budget, locked against other daemons.
//   DIR/LOCK              flock'ed; holds the pid of its owner
//   DIR/objects/ab/<id>   object files: bytes at their own offsets, sparse until complete
//   DIR/index             the rows that make them trusted after a restart
// Thread-safe. Knows files and space; what is present where is the entries' business.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cached/cache/budget.h"
#include "cached/cache/file_ops.h"
#include "cached/cache/graveyard.h"
#include "cached/cache/object_file.h"
#include "cached/cache/object_index.h"
#include "cached/cache/overhead_meter.h"
#include "cached/metrics/metrics.h"
#include "common/clock.h"
#include "common/status.h"

namespace mlcache::cache {

inline constexpr uint64_t kMinTierBytes = 32 * kMiB;

enum class TierHealth : uint8_t {
  kOk,
  kFull,    // its file system takes no more; what is there is served
  kFailed,  // errors: nothing is written or served until a probe succeeds
};

class Tier {
 public:
  struct Options {
    std::string directory;
    uint64_t capacity_bytes = 0;
    uint64_t free_space_floor_bytes = 0;
    size_t open_files = 0;        // limit of the descriptor cache
    size_t number = 0;            // of the tiers, and so of LendingRoots::directories
    bool keeps_state = false;     // DIR/state counts into the budget
    FileOps* file_ops = nullptr;  // not owned
  };

  // Takes the lock, makes what is missing. Errors as OpenCache.
  static Result<std::unique_ptr<Tier>> Open(const Options& options, const Clock& clock, Metrics& metrics);

  const std::string& directory() const { return options_.directory; }
  std::string StateDirectory() const { return options_.directory + "/state"; }
  bool in_memory() const { return in_memory_; }
  const char* kind() const { return in_memory_ ? "memory" : "disk"; }
  Budget& budget() { return budget_; }
  const Budget& budget() const { return budget_; }
  OverheadMeter& meter() { return *meter_; }
  ObjectIndex& index() { return *index_; }
  FileOps& ops() { return *options_.file_ops; }
  DescriptorCache& descriptors() { return descriptors_; }

  struct Counters {
    prometheus::Counter& evicted_bytes;
    prometheus::Counter& verified_bytes;
    prometheus::Counter& corrupt_blocks;
  };
  Counters counters() const;
  void PublishGauges(uint64_t objects) const;

  // Bytes (at most `bytes`) that have to leave before `bytes` more may be written, because of the free-space floor: one
  // for one, since another user's growth is not to be answered by emptying the cache.
  uint64_t FloorShortage(uint64_t bytes) const;

  // From the descriptor cache, or opened; kNotFound when there is no such file. A complete file is never opened
  // writable.
  Result<std::shared_ptr<ObjectFile>> OpenObject(const ObjectId& id, bool writable);
  Result<std::shared_ptr<ObjectFile>> CreateObject(const ObjectId& id, uint64_t size);

  // Removes the name; `charged_bytes` go back to the budget when no descriptor of ours is left, or, of a file that
  // `may_be_lent`, when nobody's is.
  void RemoveObject(const ObjectId& id, uint64_t charged_bytes, bool may_be_lent);
  Graveyard& graveyard() { return graveyard_; }

  ObjectsDirectory Objects() const;
  // kFailedPrecondition when `roots` have no directory for this tier, or not a read-only one of this tier's.
  Result<UniqueFd> OpenForLending(const ObjectId& id, const LendingRoots& roots) const;

  // A hard link to the object file in `directory` of the same file system, under the same name.
  Status LinkObject(const ObjectId& id, int directory);

  // Makes written bytes and new names durable: the given files, or everything when they are many.
  Status SyncFiles(const std::vector<ObjectId>& files);

  // The names of all object files, and removal of one that belongs to nothing.
  Result<std::vector<ObjectId>> ListObjects() const;
  void RemoveLeftover(const ObjectId& id) { static_cast<void>(ops().Unlink(objects_.get(), PathOf(id))); }

  // An operation failed: decides what that means for the tier and logs it once. Returns the error for the caller:
  // kResourceExhausted or kUnavailable.
  Error Failed(int error_number, const std::string& what);
  Error Failed(const Error& error);  // of the index

  TierHealth health() const { return health_.load(std::memory_order_acquire); }
  std::string StateText() const;

  // Once the tier has been isolated for a while: tries to write, and takes it back if that works. True when it was
  // taken back.
  bool ProbeIfDue();

 private:
  Tier(Options options, const Clock& clock, Metrics& metrics);
  Status Lock();
  Status MakeDirectories();
  static std::string PathOf(const ObjectId& id);
  Error Isolate(TierHealth health, const std::string& why);
  bool Probe();
  void NoteDirectory(const ObjectId& id);

  const Options options_;
  const Clock& clock_;
  Metrics& metrics_;
  bool in_memory_ = false;
  UniqueFd root_;
  UniqueFd lock_;
  UniqueFd objects_;
  Budget budget_;
  DescriptorCache descriptors_;
  Graveyard graveyard_;
  std::unique_ptr<OverheadMeter> meter_;
  std::unique_ptr<ObjectIndex> index_;

  std::atomic<TierHealth> health_ = TierHealth::kOk;
  mutable std::mutex mutex_;  // the rest
  std::string why_;
  Nanos probe_at_{0};
};

}  // namespace mlcache::cache
