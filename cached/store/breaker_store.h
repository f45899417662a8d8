// Stops asking a store that does not answer, so that calls fail at once instead of one timeout after another, and finds
// out soon when it answers again.
//
// Closed: all calls pass. After `failures` calls in a row that failed kUnavailable, over at least `period` without an
// answer, it opens: calls fail kUnavailable at once, with the last error in their message. When the pause is over one
// call passes as a probe (half-open): an answer closes the breaker, another failure doubles the pause.
#pragma once

#include <memory>
#include <mutex>
#include <random>
#include <string>

#include "cached/metrics/metrics.h"
#include "cached/store/forwarding_store.h"
#include "cached/store/object_store.h"

namespace mlcache::store {

struct BreakerOptions {
  int failures = 5;
  Nanos period = std::chrono::seconds(1);
  Nanos initial_pause = std::chrono::milliseconds(500);  // with up to a half more, by chance
  Nanos max_pause = std::chrono::seconds(5);
};

// Thread-safe. Shared by all views of one store. Shows `store_circuit_open`.
class CircuitBreaker {
 public:
  enum class Pass : uint8_t { kOrdinary, kProbe };
  enum class Outcome : uint8_t { kAnswered, kFailed, kUndecided };

  CircuitBreaker(const BreakerOptions& options, const std::string& label, Metrics& metrics, const Clock& clock,
                 uint64_t seed);
  CircuitBreaker(const CircuitBreaker&) = delete;
  CircuitBreaker& operator=(const CircuitBreaker&) = delete;
  ~CircuitBreaker();

  // Every pass must be handed back to Report.
  Result<Pass> Admit();
  // `error`, of a failed call, is told to those who are refused.
  void Report(Pass pass, Outcome outcome, const std::string& error);

 private:
  void Open(Nanos now, const std::string& error);

  const BreakerOptions options_;
  const std::string label_;
  const Clock& clock_;
  prometheus::Gauge& open_gauge_;

  std::mutex mutex_;  // guards all below; a leaf
  std::mt19937_64 random_;
  int failures_ = 0;       // in a row
  Nanos first_failure_{};  // of that row
  bool open_ = false;
  bool probing_ = false;
  Nanos pause_{};  // of this opening
  Nanos next_probe_{};
  std::string last_error_;
};

class BreakerStore : public ForwardingStore {  // thread-safe
 public:
  BreakerStore(std::shared_ptr<ObjectStore> inner, std::shared_ptr<CircuitBreaker> breaker);

  Result<ObjectInfo> Stat(const std::string& path, const CallContext& context) override;
  Result<ListPage> List(const std::string& path, const std::string& token, const CallContext& context) override;
  Status ReadRange(const ObjectRef& ref, uint64_t offset, uint64_t length, const ByteSink& sink,
                   const CallContext& context) override;

 private:
  const std::shared_ptr<CircuitBreaker> breaker_;
};

}  // namespace mlcache::store
