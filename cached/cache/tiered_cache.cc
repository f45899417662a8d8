#include "cached/cache/tiered_cache.h"

#include <glog/logging.h>

#include <algorithm>

#include "cached/cache/block_sum.h"

namespace mlcache::cache {
namespace {

constexpr uint64_t kSmallObjectBytes = kMiB;  // these go to the memory tier first

}  // namespace

TieredCache::TieredCache(const Options& options, std::vector<Level> levels, std::unique_ptr<AdmissionPolicy> admission,
                         const Clock& clock)
    : options_(options), clock_(clock), levels_(std::move(levels)), admission_(std::move(admission)) {
  for (const Level& level : levels_) objects_[level.tier.get()] = 0;
}

TieredCache::~TieredCache() {
  committer_ = {};
  if (auto committed = CommitRound(true); !committed.has_value()) {
    LOG(WARNING) << "what was cached last is lost: " << committed.error();
  }
}

Result<std::shared_ptr<CachedObject>> TieredCache::Acquire(const ObjectKey& key) {
  const ObjectId id = IdOf(key);
  const uint64_t fingerprint = FingerprintOf(key);
  std::shared_ptr<Entry> entry;
  {
    const std::scoped_lock lock(mutex_);
    Record& record = records_[id];
    if (record.state.fingerprint == 0) record.state = {.fingerprint = fingerprint, .size = key.size};
    if (record.state.fingerprint != fingerprint || record.state.size != key.size) {
      return Fail(Code::kInternal, key.path + ": its id is taken by another object of the cache; evict that one");
    }
    entry = Open(id, record);
    if (!entry->has_key()) entry->SetKey(key);
  }
  return entry;
}

std::shared_ptr<CachedObject> TieredCache::Find(const ObjectKey& key) {
  {
    const std::scoped_lock lock(mutex_);
    const auto found = records_.find(IdOf(key));
    if (found == records_.end() || found->second.state.cached_bytes == 0 ||
        found->second.tier->health() == TierHealth::kFailed) {
      return nullptr;
    }
  }
  auto entry = Acquire(key);
  return entry.has_value() ? *entry : nullptr;
}

uint64_t TieredCache::Evict(const ObjectKey& key) {
  const std::shared_ptr<Entry> entry = EntryOf(IdOf(key));
  return entry == nullptr ? 0 : entry->EvictAll();
}

std::vector<TierReport> TieredCache::Tiers() const {
  std::vector<TierReport> reports;
  const std::scoped_lock lock(mutex_);
  for (const Level& level : levels_) {
    const Tier& tier = *level.tier;
    reports.push_back({.directory = tier.directory(),
                       .kind = tier.kind(),
                       .capacity_bytes = tier.budget().capacity_bytes(),
                       .used_bytes = tier.budget().UsedBytes(),
                       .objects = objects_.at(&tier),
                       .state = tier.StateText()});
  }
  return reports;
}

std::vector<ObjectsDirectory> TieredCache::ObjectsDirectories() const {
  std::vector<ObjectsDirectory> directories;
  for (const Level& level : levels_) directories.push_back(level.tier->Objects());
  return directories;
}

std::shared_ptr<Entry> TieredCache::EntryOf(const ObjectId& id) {
  const std::scoped_lock lock(mutex_);
  const auto found = records_.find(id);
  if (found == records_.end()) return nullptr;
  return Open(id, found->second);
}

std::shared_ptr<Entry> TieredCache::Open(const ObjectId& id, Record& record) {
  std::shared_ptr<Entry> entry = record.entry.lock();
  if (entry == nullptr) {
    EntryHost& host = *this;
    entry = std::make_shared<Entry>(host, id, record.state, record.tier);
    record.entry = entry;
  }
  return entry;
}

TieredCache::Level& TieredCache::LevelOf(const Tier* tier) {
  return *std::ranges::find_if(levels_, [&](const Level& level) { return level.tier.get() == tier; });
}

std::vector<TieredCache::Level*> TieredCache::Candidates(uint64_t object_size, Tier* current, uint64_t bytes) {
  if (current != nullptr) return {&LevelOf(current)};
  std::vector<Level*> levels;
  levels.reserve(levels_.size());
  for (Level& level : levels_) levels.push_back(&level);
  // With room before without; small objects to memory, others to disk; then the most free bytes; then the largest.
  const auto rank = [&](const Level* level) {
    const Tier& tier = *level->tier;
    const uint64_t free = tier.budget().FreeBytes();
    const bool liked = tier.in_memory() == (object_size <= kSmallObjectBytes);
    return std::tuple(free >= bytes, free >= bytes && liked, free >= bytes ? free : tier.budget().capacity_bytes());
  };
  std::ranges::stable_sort(levels, [&](const Level* a, const Level* b) { return rank(a) > rank(b); });
  return levels;
}

Result<Tier*> TieredCache::ChargeRoom(const ObjectKey& key, Tier* current, uint64_t bytes, const AccessHints& hints) {
  {
    const std::scoped_lock lock(mutex_);
    if (!admission_->Admit(key, bytes, hints)) return Fail(Code::kResourceExhausted, key.path + ": not admitted");
  }
  for (Level* level : Candidates(key.size, current, bytes)) {
    if (level->tier->health() == TierHealth::kOk && MakeRoom(*level, bytes, true)) return level->tier.get();
  }
  return Fail(Code::kResourceExhausted, key.path + ": no tier has room for " + FormatSize(bytes) + " of it");
}

uint64_t TieredCache::EvictUnits(const std::vector<EvictionUnit>& units) {
  uint64_t bytes = 0;
  for (const EvictionUnit& unit : units) {
    const std::shared_ptr<Entry> entry = EntryOf(unit.object);
    if (entry == nullptr) continue;
    bytes += unit.chunk == kWholeObject ? entry->EvictAll() : entry->EvictChunk(static_cast<uint32_t>(unit.chunk));
  }
  return bytes;
}

uint64_t TieredCache::EvictSome(Level& level, uint64_t bytes) {
  std::vector<EvictionUnit> victims;
  {
    const std::scoped_lock lock(mutex_);
    victims = level.eviction->ChooseVictims(bytes);
  }
  return EvictUnits(victims);
}

// True when space came free, or may well within a moment: of files evicted just now that mounts were lent.
bool TieredCache::AwaitReturns(Tier& tier, uint64_t bytes) {
  if (tier.graveyard().Reap(Graveyard::Which::kHopeful) > 0) return true;
  if (tier.graveyard().HopefulBytes() < bytes) return false;
  // The kernel tells nobody when a file's last user has gone: it has to be asked again.
  std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return true;
}

bool TieredCache::MakeRoom(Level& level, uint64_t bytes, bool charge) {
  Budget& budget = level.tier->budget();
  if (bytes > budget.MostChargeable()) return false;
  if (const uint64_t short_of = level.tier->FloorShortage(bytes);
      short_of > 0 && EvictSome(level, short_of) < short_of) {
    return NoRoom();
  }
  for (;;) {
    const uint64_t short_of = budget.Shortage(bytes);
    if (short_of == 0) {
      if (!charge || budget.TryCharge(bytes)) return true;
      continue;  // another was faster
    }
    if (AwaitReturns(*level.tier, short_of)) continue;
    // What an unlinked file takes is free only once its last reader is done: no victims left means give up.
    std::vector<EvictionUnit> victims;
    {
      const std::scoped_lock lock(mutex_);
      victims = level.eviction->ChooseVictims(short_of);
    }
    if (victims.empty()) return NoRoom();
    Displaced(level, EvictUnits(victims));
  }
}

std::shared_ptr<FilePin> TieredCache::Changed(const ObjectId& id, const ObjectState& state, Tier* tier,
                                              std::span<const ChunkSpace> chunks, const AccessHints& hints) {
  const std::scoped_lock lock(mutex_);
  Record& record = records_[id];
  const bool was_complete = record.state.complete;
  const bool was_kept = record.state.cached_bytes > 0;
  Tier* const old_tier = record.tier;
  record.state = state;
  record.tier = tier;
  if (!chunks.empty()) Used(id, record);
  const bool is_kept = state.cached_bytes > 0;
  if (was_kept != is_kept) objects_[is_kept ? tier : old_tier] += is_kept ? 1 : UINT64_MAX;
  const auto chunk_count = static_cast<uint32_t>(ChunkCount(state.size));
  if (!is_kept) {
    std::shared_ptr<FilePin> pin = std::exchange(record.pin, nullptr);
    if (pin != nullptr) --linked_;
    if (old_tier == nullptr) return pin;
    EvictionPolicy& eviction = *LevelOf(old_tier).eviction;
    eviction.Forget({id, kWholeObject});
    if (!was_complete && chunk_count > 1) {
      for (uint32_t chunk = 0; chunk < chunk_count; ++chunk) eviction.Forget({id, chunk});
    }
    return pin;
  }
  EvictionPolicy& eviction = *LevelOf(tier).eviction;
  const bool whole = state.complete || chunk_count <= 1;
  if (whole) {
    if (!was_complete && chunk_count > 1) {
      for (uint32_t chunk = 0; chunk < chunk_count; ++chunk) eviction.Forget({id, chunk});
    }
    if (!chunks.empty() && record.pin == nullptr) eviction.Track({id, kWholeObject}, state.charged_bytes, hints);
    return nullptr;
  }
  eviction.Forget({id, kWholeObject});
  for (const ChunkSpace& chunk : chunks) {
    if (chunk.bytes > 0) {
      eviction.Track({id, chunk.chunk}, chunk.bytes, hints);
    } else {
      eviction.Forget({id, chunk.chunk});
    }
  }
  return nullptr;
}

void TieredCache::Used(const ObjectId& id, Record& record) {
  record.last_access_ns = clock_.WallNow().count();
  if (record.touched) return;
  record.touched = true;
  touched_.push_back(id);
}

void TieredCache::Accessed(const ObjectId& id, uint32_t first_chunk, uint32_t last_chunk, const AccessHints& hints) {
  const std::scoped_lock lock(mutex_);
  const auto found = records_.find(id);
  if (found == records_.end()) return;
  Record& record = found->second;
  if (record.tier != nullptr) Used(id, record);
  const bool whole = record.state.complete || ChunkCount(record.state.size) <= 1;
  // Every tier's policy learns from it, since any of them may be the one to keep it next.
  for (const Level& level : levels_) {
    if (whole) {
      level.eviction->Touch({id, kWholeObject}, hints);
      continue;
    }
    for (uint32_t chunk = first_chunk; chunk <= last_chunk; ++chunk) level.eviction->Touch({id, chunk}, hints);
  }
}

void TieredCache::Closed(const ObjectId& id) {
  const std::scoped_lock lock(mutex_);
  const auto found = records_.find(id);
  if (found != records_.end() && found->second.entry.expired() && found->second.tier == nullptr) records_.erase(found);
}

}  // namespace mlcache::cache
