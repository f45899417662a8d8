#include "cached/prefetch/pacer.h"

#include <algorithm>
#include <cmath>

namespace mlcache::prefetch {
namespace {

constexpr double kMargin = 2;

}  // namespace

Pacer::Pacer(const PacerOptions& options, fetch::Fetcher& fetcher, const Clock& clock)
    : options_(options), clock_(clock), gate_(PrefetchGate::Make(fetcher, options.optimizes ? options.workers : 0)) {}

uint64_t Pacer::Window(std::optional<double> fetches_per_second) {
  if (!options_.optimizes || options_.workers == 0) return 0;
  const std::scoped_lock lock(mutex_);
  const std::optional<double> latency = store_.ChunkSeconds();
  uint64_t window = options_.unmeasured_window;
  if (latency.has_value() && fetches_per_second.has_value()) {
    const double needed = std::ceil(kMargin * *latency * *fetches_per_second) + 1;
    window = static_cast<uint64_t>(std::min(needed, static_cast<double>(options_.max_window)));
  }
  return throttle_.Grant(std::clamp(window, options_.min_window, options_.max_window));
}

double Pacer::accuracy() const {
  const std::scoped_lock lock(mutex_);
  return throttle_.accuracy();
}

double Pacer::stall_seconds() const {
  const std::scoped_lock lock(mutex_);
  return std::chrono::duration<double>(stalled_).count();
}

void Pacer::Fetched(uint64_t bytes, Nanos first_byte, Nanos whole) {
  const std::scoped_lock lock(mutex_);
  store_.Add(bytes, first_byte, whole);
}

void Pacer::Used(uint64_t bytes) {
  const std::scoped_lock lock(mutex_);
  throttle_.Used(bytes);
}

void Pacer::Wasted(uint64_t bytes) {
  const std::scoped_lock lock(mutex_);
  throttle_.Wasted(bytes);
}

void Pacer::Stalled(Nanos waited) {
  const std::scoped_lock lock(mutex_);
  stalled_ += waited;
}

}  // namespace mlcache::prefetch
