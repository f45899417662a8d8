// Keeps what is pinned by order out of another policy's hands: pinned objects are never victims. Pure; the caller
// serialises.
#pragma once

#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "cached/cache/eviction_policy.h"

namespace mlcache::policy {

class PinGuard final : public cache::EvictionPolicy {
 public:
  explicit PinGuard(std::unique_ptr<cache::EvictionPolicy> policy) : policy_(std::move(policy)) {}

  // From now on; `chunks` is how many the object has, for those that are tracked one by one.
  void Pin(const cache::ObjectId& object, uint32_t chunks);
  // What is tracked of it may be chosen again.
  void Unpin(const cache::ObjectId& object);
  uint64_t PinnedBytes() const { return pinned_bytes_; }

  void Track(const cache::EvictionUnit& unit, uint64_t bytes, const cache::AccessHints& hints) override;
  void Touch(const cache::EvictionUnit& unit, const cache::AccessHints& hints) override;
  void Forget(const cache::EvictionUnit& unit) override;
  std::vector<cache::EvictionUnit> ChooseVictims(uint64_t bytes) override { return policy_->ChooseVictims(bytes); }
  uint64_t Tracked(const cache::EvictionUnit& unit) const override;

 private:
  using Held = std::unordered_map<int64_t, uint64_t>;  // bytes by chunk

  const std::unique_ptr<cache::EvictionPolicy> policy_;
  std::unordered_map<cache::ObjectId, Held, cache::ObjectIdHash> pinned_;
  uint64_t pinned_bytes_ = 0;
};

}  // namespace mlcache::policy
