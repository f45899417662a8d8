#include "cached/cache/lru_eviction.h"

#include <ranges>

namespace mlcache::cache {

void LruEviction::Track(const EvictionUnit& unit, uint64_t bytes, const AccessHints& /*hints*/) {
  if (const auto found = where_.find(unit); found != where_.end()) {
    found->second->bytes = bytes;
    order_.splice(order_.end(), order_, found->second);
    return;
  }
  order_.push_back({unit, bytes});
  where_.emplace(unit, std::prev(order_.end()));
}

void LruEviction::Touch(const EvictionUnit& unit, const AccessHints& /*hints*/) {
  if (const auto found = where_.find(unit); found != where_.end()) {
    order_.splice(order_.end(), order_, found->second);
  }
}

void LruEviction::Forget(const EvictionUnit& unit) {
  if (const auto found = where_.find(unit); found != where_.end()) {
    order_.erase(found->second);
    where_.erase(found);
  }
}

std::vector<EvictionUnit> LruEviction::ChooseVictims(uint64_t bytes) {
  std::vector<Order::iterator> oldest;
  uint64_t sum = 0;
  for (auto node = order_.begin(); node != order_.end() && sum < bytes; ++node) {
    oldest.push_back(node);
    sum += node->bytes;
  }
  std::vector<EvictionUnit> victims;
  // From the newest of them back: what the others make needless stays.
  for (const auto node : oldest | std::views::reverse) {
    if (sum - node->bytes >= bytes) {
      sum -= node->bytes;
      continue;
    }
    victims.push_back(node->unit);
    where_.erase(node->unit);
    order_.erase(node);
  }
  return victims;
}

uint64_t LruEviction::Tracked(const EvictionUnit& unit) const {
  const auto found = where_.find(unit);
  return found == where_.end() ? 0 : found->second->bytes;
}

}  // namespace mlcache::cache
