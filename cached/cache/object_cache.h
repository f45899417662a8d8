// The cache as the rest of the daemon sees it: entries of immutable objects that are filled block by block and read
// back.
//
// A *block* (64 KiB; the last one of an object may be shorter) is the unit of presence and checksum, a *chunk* (4 MiB)
// the unit of fetching and of eviction while an object is incomplete. Nothing here fetches. Thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/hash.h"
#include "common/status.h"
#include "common/unique_fd.h"
#include "common/units.h"

namespace mlcache::cache {

inline constexpr uint64_t kBlockBytes = 64 * kKiB;
inline constexpr uint64_t kChunkBytes = 4 * kMiB;
inline constexpr uint64_t kBlocksPerChunk = kChunkBytes / kBlockBytes;

// One immutable version of one file of one store.
struct ObjectKey {
  std::string store;  // the store's canonical URL, without credentials
  std::string path;
  std::string version;  // as ObjectInfo::version
  uint64_t size = 0;    // bytes

  bool operator==(const ObjectKey&) const = default;
};

// The short name of a key: 128-bit hash of its parts, the name of its object file.
using ObjectId = Hash128Bytes;
ObjectId IdOf(const ObjectKey& key);

enum class ObjectClass : uint8_t { kUnknown, kDataset, kModel, kCheckpoint, kOneOff };

// What eviction and admission may weigh. Unknown parts stay at their defaults.
struct AccessHints {
  std::string job;
  uint64_t stream = 0;  // the handle or stream the detector knows
  ObjectClass object_class = ObjectClass::kUnknown;
  int64_t plan_position = -1;  // of the next declared use; -1 when no plan names it
  bool keep = true;            // false: serve it, but do not admit it (an unsettled version)
  bool plain = false;          // recency alone counts: nothing is to be learned from it (ml.optimization=false)

  // Who reads what, as hashes, for policies that learn from it; 0 for nobody (prefetch of the daemon's own, a restart).
  uint64_t reader = 0;   // of the job, or of the mount where the job has no name
  uint64_t dataset = 0;  // of the store and the prefix that is mounted
  uint64_t folder = 0;   // of the first directory below that prefix
};

struct ByteRange {
  uint64_t offset = 0;
  uint64_t length = 0;
  bool operator==(const ByteRange&) const = default;
};

// Room set aside in a tier for a fill; what was not filled is given back on destruction.
class Reservation {
 public:
  virtual ~Reservation() = default;
};

enum class Wait : uint8_t {
  kMayBlock,  // may wait for the disk
  kNever,     // kUnavailable unless the page cache has the bytes
};

// The directory of one tier's object files.
struct ObjectsDirectory {
  std::string path;  // absolute
  uint64_t device = 0;
  uint64_t inode = 0;
};

// Read-only mounts of the objects directories, in the order of ObjectCache::ObjectsDirectories. What is opened through
// them cannot be opened for writing again, by whatever way.
struct LendingRoots {
  std::vector<UniqueFd> directories;
};

class CachedObject {
 public:
  virtual ~CachedObject() = default;

  virtual const ObjectKey& key() const = 0;

  // The parts of [offset, offset + length) that are not cached, merged, cut to whole blocks (so they may begin before
  // and end behind it, within the object). Empty when everything is there, or length is 0.
  virtual std::vector<ByteRange> Missing(uint64_t offset, uint64_t length) const = 0;

  // Copies bytes that are present; all of `out` (which lies within the object) or an error. Before the first read of a
  // block that this boot has not seen verified under the file's present identity, the block is read and checked.
  // kNotFound: something is missing; kDataLoss: a block did not match, was dropped and is missing from now on;
  // kUnavailable: see Wait, or the tier failed (the object is then missing from now on).
  virtual Status Read(uint64_t offset, std::span<std::byte> out, Wait wait) = 0;

  // Sets room aside for a range about to be filled, evicting others if that is needed. kResourceExhausted: it cannot
  // be kept (budget smaller than what is in use, not admitted, tier isolated); the caller serves it without keeping it.
  virtual Result<std::unique_ptr<Reservation>> Reserve(ByteRange range, const AccessHints& hints) = 0;

  // Keeps bytes of this object: `offset` on a block border, `bytes` whole blocks (or up to the object's end). On
  // return they are present and readable. An error leaves them missing; kResourceExhausted or kUnavailable when the
  // tier failed and was isolated.
  virtual Status Fill(Reservation& reservation, uint64_t offset, std::span<const std::byte> bytes) = 0;

  // An access, for the eviction policy. Cheap.
  virtual void Touch(ByteRange range, const AccessHints& hints) = 0;

  // A descriptor of the object's own file, for others to read and map without us, opened through `roots`. From then on
  // the file is never written or punched, and when it leaves the cache its space stays charged until nobody has it open
  // or mapped. Blocks that this boot has not seen verified are checked first. kNotFound: not complete (or empty);
  // kDataLoss, kUnavailable as Read.
  virtual Result<UniqueFd> Lend(const LendingRoots& roots, Wait wait) = 0;

  // Its readers keep pages of their own, so the page cache need not hold those of the object's file: they go as soon as
  // they are on the disk. A hint.
  virtual void LetPagesGo() = 0;

  virtual uint64_t CachedBytes() const = 0;

  // Of the tier that holds it: "memory" or "disk" ("" while nothing is kept).
  virtual std::string TierKind() const = 0;
};

struct TierReport {
  std::string directory;
  std::string kind;  // "memory" or "disk"
  uint64_t capacity_bytes = 0;
  uint64_t used_bytes = 0;  // with what is reserved and what the index takes
  uint64_t objects = 0;
  std::string state;  // "ok", or why it is isolated
};

class ObjectCache {
 public:
  virtual ~ObjectCache() = default;

  // The entry of `key`, made when absent (nothing is reserved or written by that). While any caller holds it, every
  // Acquire of the key gives the same entry; it is then not forgotten, but its bytes may be evicted.
  virtual Result<std::shared_ptr<CachedObject>> Acquire(const ObjectKey& key) = 0;

  // As Acquire, but null when nothing of the key is cached.
  virtual std::shared_ptr<CachedObject> Find(const ObjectKey& key) = 0;

  // Drops all bytes of the key now; the number of bytes that were cached.
  virtual uint64_t Evict(const ObjectKey& key) = 0;

  // Makes everything filled so far survive a crash. Called by the daemon on shutdown; the cache does it by itself
  // every second or 64 MiB.
  virtual Status Flush() = 0;

  virtual std::vector<TierReport> Tiers() const = 0;

  // An access to all of a complete object that was lent, for the eviction policy. Cheap.
  virtual void Touch(const ObjectId& id, const AccessHints& hints) = 0;

  virtual std::vector<ObjectsDirectory> ObjectsDirectories() const = 0;

  // Who is told of objects whose file has left the cache, so that those it was lent to can let go of it. Called on any
  // thread, with locks of the cache held: it must not block or call the cache. Null: nobody; the one before is not
  // called any more when this returns.
  using Left = std::function<void(const ObjectId&)>;
  virtual void TellOfLeaving(Left left) = 0;
};

}  // namespace mlcache::cache
