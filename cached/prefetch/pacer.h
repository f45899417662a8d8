// What all readahead of one mount shares: how much may be on its way (ml.prefetchWorkers), how far ahead is far enough
// (the store's latency times the reader's speed), and how far it may be, by how much of it was used. It is the observer
// of the mount's sources. Thread-safe.
//
// The distance follows Little's law: a reader that consumes `rate` chunks a second, each of which takes `latency`
// seconds to come, needs rate * latency of them on their way, and as many again for margin.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>

#include "cached/fetch/fetch_observer.h"
#include "cached/fetch/fetcher.h"
#include "cached/prefetch/accuracy_throttle.h"
#include "cached/prefetch/prefetch_gate.h"
#include "cached/prefetch/speed.h"
#include "common/clock.h"

namespace mlcache::prefetch {

struct PacerOptions {
  bool optimizes = true;  // ml.optimization; false: nothing is concluded from reads and nothing fetched ahead
  size_t workers = 8;     // ml.prefetchWorkers
  uint64_t min_window = 2;
  uint64_t max_window = 32;        // fetches of one handle; the fetcher's own byte budget holds for all of them
  uint64_t unmeasured_window = 8;  // while nothing is known of the store or the reader
};

class Pacer final : public fetch::FetchObserver {
 public:
  // Borrows both; the fetcher must outlive Close, the clock this.
  Pacer(const PacerOptions& options, fetch::Fetcher& fetcher, const Clock& clock);

  bool optimizes() const { return options_.optimizes; }
  const Clock& clock() const { return clock_; }

  // The window, in fetches, of a handle that is about to run ahead and consumes so many of them a second; 0: none now.
  uint64_t Window(std::optional<double> fetches_per_second);

  // As PrefetchGate.
  bool Fetch(PrefetchGate::Request request) { return gate_->Fetch(std::move(request)); }
  void Close() { gate_->Close(); }

  double accuracy() const;       // of what was fetched ahead lately
  double stall_seconds() const;  // that reads of this mount waited for the store

  void Fetched(uint64_t bytes, Nanos first_byte, Nanos whole) override;
  void Used(uint64_t bytes) override;
  void Wasted(uint64_t bytes) override;
  void Stalled(Nanos waited) override;

 private:
  const PacerOptions options_;
  const Clock& clock_;
  const std::shared_ptr<PrefetchGate> gate_;
  mutable std::mutex mutex_;  // a leaf; guards all below
  StoreSpeed store_;
  AccuracyThrottle throttle_;
  Nanos stalled_{};
};

}  // namespace mlcache::prefetch
