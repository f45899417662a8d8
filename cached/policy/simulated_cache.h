// A cache of numbers: a policy driven by reads, with nothing behind it. What ghosts and the simulator are made of.
// Thread-compatible.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <utility>

#include "cached/cache/eviction_policy.h"

namespace mlcache::policy {

class SimulatedCache {
 public:
  SimulatedCache(std::unique_ptr<cache::EvictionPolicy> policy, uint64_t capacity_bytes)
      : policy_(std::move(policy)), capacity_bytes_(capacity_bytes) {}

  // A read of the whole unit; true when it was kept. If not, it is from now on, unless it is larger than the cache.
  bool Read(const cache::EvictionUnit& unit, uint64_t bytes, const cache::AccessHints& hints) {
    const bool hit = kept_.contains(unit);
    policy_->Touch(unit, hints);
    reads_ += 1;
    read_bytes_ += bytes;
    if (hit) {
      hits_ += 1;
      hit_bytes_ += bytes;
      return true;
    }
    if (bytes > capacity_bytes_) return false;
    MakeRoom(bytes);
    policy_->Track(unit, bytes, hints);
    kept_.emplace(unit, bytes);
    used_bytes_ += bytes;
    return false;
  }

  void Resize(uint64_t capacity_bytes) {
    capacity_bytes_ = capacity_bytes;
    MakeRoom(0);
  }

  void ResetCounts() { reads_ = hits_ = read_bytes_ = hit_bytes_ = 0; }
  double HitRate() const { return reads_ == 0 ? 0 : static_cast<double>(hits_) / static_cast<double>(reads_); }
  double ByteHitRate() const {
    return read_bytes_ == 0 ? 0 : static_cast<double>(hit_bytes_) / static_cast<double>(read_bytes_);
  }
  uint64_t reads() const { return reads_; }
  uint64_t used_bytes() const { return used_bytes_; }
  uint64_t capacity_bytes() const { return capacity_bytes_; }
  cache::EvictionPolicy& policy() { return *policy_; }

 private:
  void MakeRoom(uint64_t bytes) {
    while (used_bytes_ + bytes > capacity_bytes_) {
      const auto victims = policy_->ChooseVictims(used_bytes_ + bytes - capacity_bytes_);
      if (victims.empty()) return;
      for (const cache::EvictionUnit& unit : victims) {
        const auto found = kept_.find(unit);
        used_bytes_ -= found->second;
        kept_.erase(found);
      }
    }
  }

  std::unique_ptr<cache::EvictionPolicy> policy_;
  uint64_t capacity_bytes_;
  uint64_t used_bytes_ = 0;
  std::unordered_map<cache::EvictionUnit, uint64_t, cache::EvictionUnitHash> kept_;
  uint64_t reads_ = 0;
  uint64_t hits_ = 0;
  uint64_t read_bytes_ = 0;
  uint64_t hit_bytes_ = 0;
};

}  // namespace mlcache::policy
