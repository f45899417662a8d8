// requests_total and request_seconds of the ring's operations, with each series looked up once. Thread-safe.
#pragma once

#include <array>
#include <atomic>
#include <string_view>

#include "cached/metrics/metrics.h"
#include "common/clock.h"
#include "common/ring/wire.h"

namespace mlcache::session {

// "lookup", "getattr", …; "unknown" for what is no operation.
std::string_view OpName(ring::Op op);

class RequestMetrics {
 public:
  explicit RequestMetrics(Metrics& metrics) : metrics_(metrics) {}

  // `code` is a completion's: 0 or a Code.
  void Count(ring::Op op, int32_t code, Nanos taken);

 private:
  static constexpr size_t kOps = 19;
  static constexpr size_t kCodes = 17;

  Metrics& metrics_;
  std::array<std::array<std::atomic<prometheus::Counter*>, kCodes>, kOps> counters_{};
  std::array<std::atomic<prometheus::Histogram*>, kOps> histograms_{};
};

}  // namespace mlcache::session
