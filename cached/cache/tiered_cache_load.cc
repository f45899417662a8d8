// The start of TieredCache: what earlier runs left is adopted when a row vouches for it, and removed otherwise.
#include <glog/logging.h>

#include <algorithm>
#include <unordered_set>

#include "cached/cache/tiered_cache.h"

namespace mlcache::cache {

struct TieredCache::Loading {
  ObjectId id{};
  ObjectState state;
  Tier* tier = nullptr;
  std::vector<ChunkSpace> chunks;  // of an incomplete object
};

// Of an incomplete object its rows tell what is there; space in the file that no row vouches for is freed. False when
// it is not worth keeping.
bool TieredCache::LoadChunks(Level& level, Loading& object) {
  Tier& tier = *level.tier;
  const uint64_t size = object.state.size;
  const auto chunks = tier.index().LoadChunks(object.id, object.state.epoch, size);
  if (!chunks.has_value()) return false;
  object.state.cached_bytes = 0;
  object.state.charged_bytes = SpaceOfExtents(size);
  for (const auto& [number, blocks] : *chunks) {
    const uint64_t space = SpaceOfBlocks(size, number, blocks.present);
    object.state.cached_bytes += BytesOfBlocks(size, number, blocks.present);
    object.state.charged_bytes += space;
    if (space > 0) object.chunks.push_back({number, space});
  }
  if (object.state.cached_bytes == 0) return false;
  object.state.complete = object.state.cached_bytes == size;
  const auto file = tier.OpenObject(object.id, false);
  if (!file.has_value()) return false;
  const auto facts = (*file)->Look();
  if (!facts.has_value()) return false;
  if (facts->space_bytes <= object.state.charged_bytes) return true;
  const auto writable = tier.OpenObject(object.id, true);
  if (!writable.has_value()) return false;
  BlockMap map(size);
  map.Load(*chunks);
  bool freed = true;
  for (const ByteRange& hole : map.Missing(0, size)) {
    freed = freed && tier.ops().Punch((*writable)->fd(), hole.offset, RoundToFileBlocks(hole.length)) == 0;
  }
  return freed;
}

Status TieredCache::LoadLevel(Level& level, std::vector<Loading>& found) {
  Tier& tier = *level.tier;
  MLCACHE_ASSIGN_OR_RETURN(const std::vector<ObjectId> listed, tier.ListObjects());
  std::unordered_set<ObjectId, ObjectIdHash> files(listed.begin(), listed.end());
  std::vector<Loading> discarded;
  const Status scanned = tier.index().ForEach([&](const ObjectId& id, const ObjectState& state) {
    Loading object{.id = id, .state = state, .tier = &tier, .chunks = {}};
    // Taken out of the set: what is left in it belongs to nothing.
    if (files.erase(id) == 0 || records_.contains(id)) {
      discarded.push_back(object);
      return;
    }
    if (!state.complete && !LoadChunks(level, object)) {
      discarded.push_back(object);
      return;
    }
    tier.budget().ForceCharge(object.state.charged_bytes);
    records_[id] = {.state = object.state, .entry = {}, .tier = &tier, .last_access_ns = 0, .touched = false};
    ++objects_[&tier];
    found.push_back(std::move(object));
  });
  MLCACHE_RETURN_IF_ERROR(scanned);
  MLCACHE_RETURN_IF_ERROR(tier.index().ForEachAccess([&](const ObjectId& id, int64_t last_access_ns) {
    if (const auto kept = records_.find(id); kept != records_.end()) kept->second.last_access_ns = last_access_ns;
  }));
  IndexBatch batch;
  for (const Loading& object : discarded) {
    batch.RemoveObject(object.id, object.state.size);
    tier.descriptors().Remove(object.id);
    tier.RemoveLeftover(object.id);
  }
  MLCACHE_RETURN_IF_ERROR(tier.index().Write(batch));
  for (const ObjectId& id : files) tier.RemoveLeftover(id);
  if (!files.empty() || !discarded.empty()) {
    LOG(INFO) << "tier " << tier.directory() << ": removed " << files.size() << " files without a row and "
              << discarded.size() << " rows without a file";
  }
  return {};
}

Status TieredCache::Load() {
  std::vector<Loading> found;
  for (Level& level : levels_) {
    if (auto loaded = LoadLevel(level, found); !loaded.has_value()) {
      return std::unexpected(loaded.error().WithContext("tier " + level.tier->directory()));
    }
  }
  std::ranges::stable_sort(found, {}, [&](const Loading& object) { return records_[object.id].last_access_ns; });
  for (const Loading& object : found) {
    EvictionPolicy& eviction = *LevelOf(object.tier).eviction;
    const AccessHints hints{.job = {}, .object_class = object.state.object_class};
    if (object.state.complete || ChunkCount(object.state.size) <= 1) {
      eviction.Track({object.id, kWholeObject}, object.state.charged_bytes, hints);
      continue;
    }
    for (const ChunkSpace& chunk : object.chunks) eviction.Track({object.id, chunk.chunk}, chunk.bytes, hints);
  }
  for (size_t i = 0; i < levels_.size(); ++i) Relieve(i);  // the budget may be smaller than it was
  Tend();
  committer_ = std::jthread([this](const std::stop_token& stop) { Run(stop); });
  return {};
}

}  // namespace mlcache::cache
