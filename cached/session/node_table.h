// nodeid ↔ what the kernel knows by it: one version of one path of one store. An id is a 64-bit hash of (identity,
// path, version, type), always even (the odd ones are the shims' second names for the same); where two keys share a
// hash the later one takes the next of a fixed sequence, found by comparing whole keys. A row is in the KeyValue before
// its id is given out, so ids mean the same after a restart. Memory holds the rows used last; the others are read back
// when asked for. Thread-safe.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "cached/cache/key_value.h"
#include "cached/store/object_store.h"
#include "common/status.h"

namespace mlcache::session {

// Ids from here up belong to the shim (`.mlcache`); 0 is nothing and 1 the root of each mount.
inline constexpr uint64_t kFirstReservedNode = 0xffffffff00000000;

struct Node {
  std::string identity;    // StoreUrl::Identity
  std::string path;        // below the identity
  store::ObjectInfo info;  // as it was when the id was made; without layout and inline content. Of directories and
                           // links only the type is kept true: their version is "" and their id outlives changes.
};
using NodePtr = std::shared_ptr<const Node>;

// st_ino: the path alone, the same for every version; never 0.
uint64_t InodeOf(std::string_view identity, std::string_view path);

struct NodeRequest {
  std::string path;
  const store::ObjectInfo* info = nullptr;
};

class NodeTable {
 public:
  static constexpr size_t kDefaultRows = 400'000;  // about 400 bytes each

  // Borrows `rows`. `hash_mask` cuts hashes, so that tests see collisions.
  explicit NodeTable(cache::KeyValue& rows, size_t max_rows = kDefaultRows, uint64_t hash_mask = ~uint64_t{0});

  // The ids of these versions, in order, made durable together. May block on the disk.
  Result<std::vector<uint64_t>> Assign(std::string_view identity, std::span<const NodeRequest> requests);

  // As Assign for one, if memory alone can tell.
  std::optional<uint64_t> PeekId(std::string_view identity, std::string_view path, const store::ObjectInfo& info);

  // The id of these, if it was ever given out. May block on the disk.
  std::optional<uint64_t> Find(std::string_view identity, std::string_view path, const store::ObjectInfo& info);

  // The row of an id. kNotFound when it was never given out. May block on the disk.
  Result<NodePtr> Get(uint64_t id);

  // The row, if memory has it.
  NodePtr Peek(uint64_t id);

  // The names directly below `path` that any id was ever given out for. Walks all rows.
  std::vector<std::string> NamesBelow(std::string_view identity, std::string_view path) const;

  size_t rows_in_memory() const;

 private:
  struct Row {
    NodePtr node;
    bool durable = false;                // only durable rows are in the list and may be dropped
    std::list<uint64_t>::iterator used;  // valid while durable
  };

  struct Fresh {
    uint64_t id = 0;
    NodePtr node;
  };

  uint64_t Candidate(std::string_view identity, std::string_view path, const store::ObjectInfo& info,
                     uint32_t probe) const;
  Result<uint64_t> Settle(std::string_view identity, const NodeRequest& request, cache::WriteBatch& batch,
                          std::vector<Fresh>& fresh);
  NodePtr PeekLocked(uint64_t id);
  void KeepLocked(uint64_t id, NodePtr node);
  Result<NodePtr> Load(uint64_t id) const;

  cache::KeyValue& rows_;
  const size_t max_rows_;
  const uint64_t hash_mask_;

  mutable std::mutex mutex_;
  std::unordered_map<uint64_t, Row> memory_;  // guarded by mutex_
  std::list<uint64_t> used_;                  // guarded by mutex_; the front was used last
};

}  // namespace mlcache::session
