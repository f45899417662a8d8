// The rows of one tier that survive a restart, in RocksDB: an object's key ('k', so that a tier explains itself),
// its state ('s'), its last access ('a'), and per chunk ('c') which blocks are present and verified, with their
// checksums. Thread-safe.
//
// A row is written only for bytes that are durable, and removed before its bytes are; `Lock` makes "look, then write"
// one step for those who must not resurrect a row that another thread removes.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "cached/cache/block_map.h"
#include "cached/cache/object_state.h"
#include "cached/cache/overhead_meter.h"
#include "cached/cache/rocks.h"
#include "common/status.h"

namespace mlcache::cache {

// Rows to be written as one.
class IndexBatch {
 public:
  void PutKey(const ObjectId& id, const ObjectKey& key);
  void PutState(const ObjectId& id, const ObjectState& state);
  // Of the chunk's blocks, those in `present`.
  void PutChunk(const ObjectId& id, uint32_t chunk, const ChunkBlocks& blocks, uint64_t present, uint32_t epoch);
  void PutAccess(const ObjectId& id, int64_t last_access_ns);
  void RemoveChunk(const ObjectId& id, uint32_t chunk);
  void RemoveObject(const ObjectId& id, uint64_t size);

  uint64_t bytes() const { return rows_.GetDataSize(); }
  bool empty() const { return rows_.Count() == 0; }

 private:
  friend class ObjectIndex;
  rocksdb::WriteBatch rows_;
};

class ObjectIndex {
 public:
  static Result<std::unique_ptr<ObjectIndex>> Open(const std::string& directory);

  // From now on writes are announced to `meter`, which must outlive this.
  void CountInto(OverheadMeter& meter) { meter_ = &meter; }

  [[nodiscard]] std::unique_lock<std::mutex> Lock() { return std::unique_lock(mutex_); }

  // Survives the death of the process; a power loss only after Sync.
  Status Write(IndexBatch& batch);
  Status Sync();

  // After an error such as a full disk is over.
  Status Resume();

  Status ForEach(const std::function<void(const ObjectId& id, const ObjectState& state)>& visit) const;
  Status ForEachAccess(const std::function<void(const ObjectId& id, int64_t last_access_ns)>& visit) const;
  Result<ChunkMap> LoadChunks(const ObjectId& id, uint32_t epoch, uint64_t object_size) const;

 private:
  explicit ObjectIndex(Rocks rocks, std::string name) : rocks_(std::move(rocks)), name_(std::move(name)) {}

  Status ForEachRow(char row, const std::function<void(const ObjectId& id, std::string_view value)>& visit) const;

  Rocks rocks_;
  const std::string name_;
  OverheadMeter* meter_ = nullptr;
  std::mutex mutex_;
};

}  // namespace mlcache::cache
