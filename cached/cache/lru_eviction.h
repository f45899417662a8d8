// Least recently used first, with an eye on size: of the oldest units it takes no more than are needed, so that a large
// one that has to go spares the small ones that were older. O(1) an access, O(victims) a choice.
#pragma once

#include <list>
#include <unordered_map>
#include <vector>

#include "cached/cache/eviction_policy.h"

namespace mlcache::cache {

class LruEviction final : public EvictionPolicy {
 public:
  void Track(const EvictionUnit& unit, uint64_t bytes, const AccessHints& hints) override;
  void Touch(const EvictionUnit& unit, const AccessHints& hints) override;
  void Forget(const EvictionUnit& unit) override;
  std::vector<EvictionUnit> ChooseVictims(uint64_t bytes) override;
  uint64_t Tracked(const EvictionUnit& unit) const override;

 private:
  struct Node {
    EvictionUnit unit;
    uint64_t bytes;
  };
  using Order = std::list<Node>;  // oldest first

  Order order_;
  std::unordered_map<EvictionUnit, Order::iterator, EvictionUnitHash> where_;
};

}  // namespace mlcache::cache
