// How long reads of a size take, from those seen lately: the 99th percentile, by classes of size.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>

#include "common/clock.h"

namespace mlcache::store {

// Counts in bins, each 1.3 times as wide as the one before; old counts fade (all are halved when a class has 2,000).
// Thread-safe.
class LatencyEstimate {
 public:
  static constexpr double kFewest = 100;  // samples of a class before it says anything

  void Add(uint64_t bytes, Nanos took);

  // The upper edge of the bin in which the 99th percentile of the class of `bytes` lies; nothing while too few are
  // seen.
  std::optional<Nanos> P99(uint64_t bytes) const;

 private:
  static constexpr size_t kBins = 64;     // the last one from 25 minutes on
  static constexpr size_t kClasses = 12;  // each four times the one before, from 4 KiB
  struct Class {
    std::array<double, kBins> bins{};
    double total = 0;
  };
  static size_t ClassOf(uint64_t bytes);

  mutable std::mutex mutex_;  // a leaf
  std::array<Class, kClasses> classes_;
};

}  // namespace mlcache::store
