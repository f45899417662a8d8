#include "cached/store/store_resources.h"

#include <random>

namespace mlcache::store {

StoreResources::PerStore::PerStore(const std::string& label, const ThrottleOptions& rates, Metrics& metrics,
                                   const Clock& clock)
    : rates(rates, clock),
      breaker(BreakerOptions{}, label, metrics, clock, std::random_device()()),
      window(WindowOptions{}, clock) {}

StoreResources::StoreResources(const ResourceOptions& options, Metrics& metrics, const Clock& clock)
    : metrics_(metrics),
      clock_(clock),
      gate_(std::make_shared<RequestGate>(options.max_connections)),
      hedge_executor_(MakeThreadPool("store-hedge", options.hedge_workers, 2 * options.hedge_workers)) {}

std::shared_ptr<StoreResources::PerStore> StoreResources::For(const std::string& label, const ThrottleOptions& rates) {
  const std::lock_guard lock(mutex_);
  std::erase_if(stores_, [](const auto& item) { return item.second.expired(); });
  std::weak_ptr<PerStore>& slot = stores_[{label, rates.bytes_per_second, rates.requests_per_second}];
  std::shared_ptr<PerStore> store = slot.lock();
  if (store == nullptr) {
    store = std::make_shared<PerStore>(label, rates, metrics_, clock_);
    slot = store;
  }
  return store;
}

}  // namespace mlcache::store
