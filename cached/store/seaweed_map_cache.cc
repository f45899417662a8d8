#include "cached/store/seaweed_map_cache.h"

#include <iterator>

namespace mlcache::store {
namespace {

constexpr size_t kUnitBytes = 80;

size_t CostOf(const SeaweedMap& map) { return 1 + map.chunks.size() + map.layout->content.size() / kUnitBytes; }

}  // namespace

SeaweedMapCache::MapPtr SeaweedMapCache::Find(const std::string& key) {
  const std::lock_guard lock(mutex_);
  const auto found = places_.find(key);
  if (found == places_.end()) return nullptr;
  order_.splice(order_.begin(), order_, found->second);
  return found->second->second;
}

SeaweedMapCache::MapPtr SeaweedMapCache::Insert(const std::string& key, MapPtr map) {
  Order dropped;  // freed after the lock: a map may be large
  const std::lock_guard lock(mutex_);
  const auto found = places_.find(key);
  if (found != places_.end()) {
    order_.splice(order_.begin(), order_, found->second);
    return found->second->second;
  }
  order_.emplace_front(key, map);
  places_.emplace(key, order_.begin());
  cost_ += CostOf(*map);
  while (cost_ > max_cost_ && order_.size() > 1) {
    const auto last = std::prev(order_.end());
    cost_ -= CostOf(*last->second);
    places_.erase(last->first);
    dropped.splice(dropped.begin(), order_, last);
  }
  return map;
}

size_t SeaweedMapCache::cost() const {
  const std::lock_guard lock(mutex_);
  return cost_;
}

}  // namespace mlcache::store
