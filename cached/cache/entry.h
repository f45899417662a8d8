// One object of the cache: its blocks, its file, and the orders in which they come and go.
//
// Locks, in this order: io_mutex_ (shared by readers and fillers, exclusive to take bytes away, so that nobody reads a
// range that is being punched) → the index's lock → state_mutex_ → the host's.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "cached/cache/block_map.h"
#include "cached/cache/object_cache.h"
#include "cached/cache/object_links.h"
#include "cached/cache/object_state.h"
#include "cached/cache/tier.h"

namespace mlcache::cache {

class Entry;
class Room;

// The space that a chunk takes now; 0 when it is gone.
struct ChunkSpace {
  uint32_t chunk = 0;
  uint64_t bytes = 0;
};

// What an entry needs from the cache around it. Its methods may be called with the entry's locks held.
class EntryHost {
 public:
  virtual ~EntryHost() = default;

  // Charges `bytes` to a tier (to `current` if that is not null), evicting what is needed. No entry lock is held.
  virtual Result<Tier*> ChargeRoom(const ObjectKey& key, Tier* current, uint64_t bytes, const AccessHints& hints) = 0;

  // The entry holds this now, in `tier` (null: nothing); `chunks` are those that changed. Of a file that is no longer
  // the object's: its pin, if it has links.
  virtual std::shared_ptr<FilePin> Changed(const ObjectId& id, const ObjectState& state, Tier* tier,
                                           std::span<const ChunkSpace> chunks, const AccessHints& hints) = 0;

  // Its rows lag behind, by `bytes` more; the host commits it some time, and keeps it until then.
  virtual void Dirty(std::shared_ptr<Entry> entry, Tier* tier, uint64_t bytes) = 0;

  virtual void Accessed(const ObjectId& id, uint32_t first_chunk, uint32_t last_chunk, const AccessHints& hints) = 0;

  // A complete object's file is about to lose its name.
  virtual void Left(const ObjectId& id) = 0;

  // The last holder has let go.
  virtual void Closed(const ObjectId& id) = 0;

  // Hash of the host's boot id.
  virtual uint64_t Boot() const = 0;
};

class Entry final : public CachedObject, public std::enable_shared_from_this<Entry> {
 public:
  // With a tier: what a record says is kept there.
  Entry(EntryHost& host, const ObjectId& id, const ObjectState& state, Tier* tier);
  Entry(const Entry&) = delete;
  Entry& operator=(const Entry&) = delete;
  ~Entry() override;

  // Before the entry is given to a caller; the host serialises.
  void SetKey(const ObjectKey& key);
  bool has_key() const { return has_key_; }
  const ObjectId& id() const { return id_; }

  const ObjectKey& key() const override { return key_; }
  std::vector<ByteRange> Missing(uint64_t offset, uint64_t length) const override;
  Status Read(uint64_t offset, std::span<std::byte> out, Wait wait) override;
  Result<std::unique_ptr<Reservation>> Reserve(ByteRange range, const AccessHints& hints) override;
  Status Fill(Reservation& reservation, uint64_t offset, std::span<const std::byte> bytes) override;
  void Touch(ByteRange range, const AccessHints& hints) override;
  Result<UniqueFd> Lend(const LendingRoots& roots, Wait wait) override;
  void LetPagesGo() override;
  uint64_t CachedBytes() const override;
  std::string TierKind() const override;

  // Take bytes away; how many they were. EvictChunk leaves a complete object alone.
  uint64_t EvictAll();
  uint64_t EvictChunk(uint32_t chunk);

  // Links (entry_link.cc), as in object_links.h. kFailedPrecondition: complete, but to be verified first.
  // `pin` is called before the link is there, under the entry's locks.
  Status LinkTo(int directory, const std::function<void(Tier&)>& pin);
  Status AdoptLink(uint64_t inode, const std::function<void(Tier&)>& pin);
  void RemoveLink(int directory);

  // A commit: what is to become rows, then (its data being durable, the index's lock held) the rows themselves.
  struct Snapshot {
    uint64_t generation = 0;
    std::vector<std::pair<uint32_t, uint64_t>> chunks;  // dirty ones, with their present blocks
  };
  Snapshot BeginCommit();
  void FinishCommit(const Snapshot& snapshot, Tier& tier, IndexBatch& batch);
  // The rows could not be written: to be done again.
  void AbandonCommit(const Snapshot& snapshot);

 private:
  struct FillPlan;
  struct ReadPlan {
    Tier* tier = nullptr;
    std::shared_ptr<ObjectFile> file;
    std::vector<uint64_t> unverified;  // blocks
  };
  enum class Taken : uint8_t { kEvicted, kDamaged };

  // state_mutex_ held:
  Status Load() const;
  bool Present(uint64_t offset, uint64_t length) const;
  Result<std::shared_ptr<ObjectFile>> File();
  void Distrust(const FileIdentity& identity);
  void MarkDirty(uint64_t bytes);
  void Reset();
  Status KeepIdentity(const ObjectFile& file);
  bool HasLinks() const;

  bool MayBeLent();

  Result<UniqueFd> LendVerified(const LendingRoots& roots, Wait wait, std::vector<uint64_t>& damaged);
  Result<ReadPlan> PlanLending(Wait wait);
  Result<ReadPlan> PlanRead(uint64_t offset, uint64_t length, Wait wait);
  Status Verify(const ReadPlan& plan, std::vector<uint64_t>& damaged);
  void MarkVerified(std::span<const uint64_t> blocks);
  Status ReadBytes(const ReadPlan& plan, uint64_t offset, std::span<std::byte> out, Wait wait);
  Status Damaged(std::span<const uint64_t> blocks, bool even_if_verified);
  Status LostTier(const Error& error);
  Status CheckFill(uint64_t offset, std::span<const std::byte> bytes) const;
  Result<FillPlan> PlanFill(Room& room, uint64_t first, uint64_t last);
  Status Create(Tier& tier, FillPlan& plan);  // state_mutex_ held
  Status WriteBlocks(const FillPlan& plan, uint64_t offset, std::span<const std::byte> bytes);
  void FinishFill(const FillPlan& plan, std::span<const uint64_t> sums, const AccessHints& hints);
  void AbandonFill(const FillPlan& plan);
  void Scrap(const FillPlan& plan);
  uint64_t Take(uint32_t chunk, uint64_t mask, Taken why);
  uint64_t TakeAll();  // io_mutex_ held exclusively
  Status PunchBlocks(Tier& tier, uint32_t chunk, uint64_t mask);

  EntryHost& host_;
  const ObjectId id_;
  const uint64_t size_;  // as in state_, for those who hold no lock
  const uint64_t fingerprint_;
  ObjectKey key_;  // constant once has_key_
  bool has_key_ = false;

  std::shared_mutex io_mutex_;
  std::mutex write_mutex_;          // held while the object file is written; within io_mutex_, without the others
  mutable std::mutex state_mutex_;  // the rest
  std::condition_variable filled_;
  ObjectState state_;
  Tier* tier_;         // null: no file
  Tier* wanted_tier_;  // where reservations were made
  mutable BlockMap blocks_;
  mutable bool loaded_;   // blocks_ tells everything
  bool checked_ = false;  // the file's identity, by this entry
  bool dirty_ = false;
  bool key_row_ = false;  // is written
  bool read_only_ = false;
  bool let_pages_go_ = false;  // with the next commit
  int filling_ = 0;            // fills under way
  uint64_t generation_ = 0;    // counts TakeAll
};

}  // namespace mlcache::cache
