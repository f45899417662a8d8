// How far a mount may run ahead, by the share of what was fetched ahead that was read. Pure; thread-compatible.
//
// Outcomes fade: those of `memory_bytes` ago weigh half. From `full` accuracy on a window may be as large as it likes,
// below that it shrinks, and from `floor` on nothing is fetched ahead but a small window now and then, by whose outcome
// the accuracy can rise again.
#pragma once

#include <cstdint>

#include "common/units.h"

namespace mlcache::prefetch {

class AccuracyThrottle {
 public:
  struct Options {
    double full = 0.75;
    double floor = 0.25;
    uint64_t memory_bytes = 64 * kMiB;
    uint64_t probe_every = 16;  // calls of Grant
  };
  static constexpr uint64_t kProbeWindow = 2;

  AccuracyThrottle();  // with the defaults
  explicit AccuracyThrottle(const Options& options);

  void Used(uint64_t bytes);
  void Wasted(uint64_t bytes);

  // Used over all that was judged; 1 at first.
  double accuracy() const { return used_ / (used_ + wasted_); }

  // Of a window of `wanted` fetches (at least 1) as much as is granted now; 0: none. Somebody who asks is about to run.
  uint64_t Grant(uint64_t wanted);

 private:
  void Fade(uint64_t bytes);

  Options options_;
  double used_;  // bytes, faded
  double wasted_ = 0;
  uint64_t asked_ = 0;  // since the last probe
};

}  // namespace mlcache::prefetch
