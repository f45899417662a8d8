// Asks a second time for a read that takes longer than 99 of 100 reads of its size took lately, and uses whichever
// reply is complete first ("The Tail at Scale", Dean and Barroso, 2013).
//
// The second request asks for what has not been delivered when it starts, into memory. When it is complete before the
// first one, that is called off and the rest is delivered from memory, so that the sink sees every byte once, in order,
// on the caller's thread; else it is called off itself. Bytes that came twice are counted as `store_hedged_bytes`.
// Where the store does not pin versions a read that has delivered something is left alone.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>

#include "cached/metrics/metrics.h"
#include "cached/store/forwarding_store.h"
#include "cached/store/latency_estimate.h"
#include "cached/store/object_store.h"
#include "common/executor.h"

namespace mlcache::store {

struct HedgeOptions {
  double most_share = 0.02;                           // of all reads, at most so many are asked for twice
  Nanos least_delay = std::chrono::milliseconds(10);  // never sooner, however fast the store is
  uint64_t most_bytes = 16 << 20;                     // longer reads are left alone
  bool own_timer = true;                              // false: the test calls HedgeOverdue itself
};

class HedgeStore : public ForwardingStore {  // thread-safe
 public:
  // `executor` runs the second requests; where it has no room there are none.
  HedgeStore(std::shared_ptr<ObjectStore> inner, const HedgeOptions& options, const std::string& label,
             Metrics& metrics, const Clock& clock, std::shared_ptr<Executor> executor);
  ~HedgeStore() override;

  Status ReadRange(const ObjectRef& ref, uint64_t offset, uint64_t length, const ByteSink& sink,
                   const CallContext& context) override;

  // Asks again for each read that is overdue now. Returns when the next one will be; Nanos::max() if there is none.
  Nanos HedgeOverdue();

 private:
  struct Race;
  struct Later {
    bool operator()(const std::shared_ptr<Race>& a, const std::shared_ptr<Race>& b) const;
  };

  Status Run(const std::shared_ptr<Race>& race, const ByteSink& sink, const CallContext& context);
  void Hedge(const std::shared_ptr<Race>& race);
  static void AskAgain(ObjectStore& inner, Race& race, prometheus::Counter& twice);
  void RunTimer(const std::stop_token& stop);

  const HedgeOptions options_;
  const Clock& clock_;
  prometheus::Counter& hedged_requests_;
  prometheus::Counter& hedged_bytes_;
  const std::shared_ptr<Executor> executor_;
  LatencyEstimate latency_;

  std::mutex mutex_;  // guards all below; a leaf
  std::condition_variable_any changed_;
  std::set<std::shared_ptr<Race>, Later> races_;  // not yet hedged, the first one due first
  double tokens_ = 1;                             // a hedge takes one, a read brings most_share
  std::jthread timer_;                            // started with the first read that may be hedged
};

}  // namespace mlcache::store
