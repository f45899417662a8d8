// What the stores that one daemon has open share: the budget of connections, the threads of second requests, and for
// each store (whatever prefixes of it are mounted) its rates, its breaker and its window.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>

#include "cached/metrics/metrics.h"
#include "cached/store/breaker_store.h"
#include "cached/store/request_gate.h"
#include "cached/store/throttle_store.h"
#include "cached/store/window_store.h"
#include "common/clock.h"
#include "common/executor.h"

namespace mlcache::store {

struct ResourceOptions {
  size_t max_connections = 256;  // requests to stores under way at once, of all stores together
  size_t hedge_workers = 8;
};

class StoreResources {  // thread-safe
 public:
  struct PerStore {
    PerStore(const std::string& label, const ThrottleOptions& rates, Metrics& metrics, const Clock& clock);

    RateLimits rates;
    CircuitBreaker breaker;
    CongestionWindow window;
  };

  // `metrics` and `clock` outlive this and every store opened with it.
  StoreResources(const ResourceOptions& options, Metrics& metrics, const Clock& clock);

  const std::shared_ptr<RequestGate>& gate() const { return gate_; }
  const std::shared_ptr<Executor>& hedge_executor() const { return hedge_executor_; }

  // The same for all who ask with the same label and rates while one of them holds it, or a part of it by a pointer
  // that shares its ownership.
  std::shared_ptr<PerStore> For(const std::string& label, const ThrottleOptions& rates);

 private:
  using Key = std::tuple<std::string, uint64_t, uint64_t>;

  Metrics& metrics_;
  const Clock& clock_;
  const std::shared_ptr<RequestGate> gate_;
  const std::shared_ptr<Executor> hedge_executor_;
  std::mutex mutex_;  // guards stores_; a leaf
  std::map<Key, std::weak_ptr<PerStore>> stores_;
};

}  // namespace mlcache::store
