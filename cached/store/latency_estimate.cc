#include "cached/store/latency_estimate.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>

namespace mlcache::store {
namespace {

constexpr double kFirstBin = 100e-6;  // seconds
constexpr double kGrowth = 1.3;
constexpr double kMostSamples = 2000;

}  // namespace

size_t LatencyEstimate::ClassOf(uint64_t bytes) {
  const size_t pages = std::bit_width(bytes >> 12);
  return std::min((pages + 1) / 2, kClasses - 1);
}

void LatencyEstimate::Add(uint64_t bytes, Nanos took) {
  const double seconds = std::max(kFirstBin, std::chrono::duration<double>(took).count());
  const auto bin = std::min(static_cast<size_t>(std::log(seconds / kFirstBin) / std::log(kGrowth)), kBins - 1);
  const std::lock_guard lock(mutex_);
  Class& of_size = classes_[ClassOf(bytes)];
  of_size.bins[bin] += 1;
  of_size.total += 1;
  if (of_size.total < kMostSamples) return;
  for (double& count : of_size.bins) count /= 2;
  of_size.total /= 2;
}

std::optional<Nanos> LatencyEstimate::P99(uint64_t bytes) const {
  const std::lock_guard lock(mutex_);
  const Class& of_size = classes_[ClassOf(bytes)];
  if (of_size.total < kFewest) return {};
  double above = of_size.total;
  size_t bin = 0;
  for (; bin + 1 < kBins; ++bin) {
    above -= of_size.bins[bin];
    if (above <= of_size.total / 100) break;
  }
  const double seconds = kFirstBin * std::pow(kGrowth, static_cast<double>(bin + 1));
  return std::chrono::duration_cast<Nanos>(std::chrono::duration<double>(seconds));
}

}  // namespace mlcache::store
