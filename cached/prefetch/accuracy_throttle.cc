#include "cached/prefetch/accuracy_throttle.h"

#include <algorithm>
#include <cmath>

namespace mlcache::prefetch {

AccuracyThrottle::AccuracyThrottle() : AccuracyThrottle(Options()) {}

// A mount begins with credit, so that its first handle that turns away does not end prefetching for the others.
AccuracyThrottle::AccuracyThrottle(const Options& options)
    : options_(options), used_(static_cast<double>(options.memory_bytes)) {}

void AccuracyThrottle::Fade(uint64_t bytes) {
  const double kept = std::exp2(-static_cast<double>(bytes) / static_cast<double>(options_.memory_bytes));
  // Something is always left, or the share would be 0 / 0.
  used_ = std::max(used_ * kept, 1.0);
  wasted_ *= kept;
}

void AccuracyThrottle::Used(uint64_t bytes) {
  Fade(bytes);
  used_ += static_cast<double>(bytes);
}

void AccuracyThrottle::Wasted(uint64_t bytes) {
  Fade(bytes);
  wasted_ += static_cast<double>(bytes);
}

uint64_t AccuracyThrottle::Grant(uint64_t wanted) {
  const double share = (accuracy() - options_.floor) / (options_.full - options_.floor);
  if (share > 0) {
    asked_ = 0;
    if (share >= 1) return wanted;
    return std::min(wanted, std::max(kProbeWindow, static_cast<uint64_t>(share * static_cast<double>(wanted))));
  }
  if (++asked_ < options_.probe_every) return 0;
  asked_ = 0;
  return std::min(wanted, kProbeWindow);
}

}  // namespace mlcache::prefetch
