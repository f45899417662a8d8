// The counters of reads, found once, so that a hit does not build label maps. Thread-safe.
#pragma once

#include <prometheus/counter.h>

#include <array>
#include <cstdint>
#include <string_view>

#include "common/clock.h"

namespace mlcache {
class Metrics;
}

namespace mlcache::fetch {

class ReadMetrics {
 public:
  explicit ReadMetrics(Metrics& metrics);

  void CountHitBytes(std::string_view tier, std::string_view pattern, uint64_t bytes);
  void CountMissBytes(std::string_view pattern, uint64_t bytes);
  void CountRead(std::string_view pattern, bool missed);
  void CountStall(std::string_view pattern, Nanos waited);

 private:
  static constexpr size_t kPatterns = 5;
  static size_t IndexOf(std::string_view pattern);

  std::array<std::array<prometheus::Counter*, kPatterns>, 2> hit_bytes_{};  // memory, disk
  std::array<prometheus::Counter*, kPatterns> miss_bytes_{};
  std::array<prometheus::Counter*, kPatterns> hits_{};
  std::array<prometheus::Counter*, kPatterns> misses_{};
  std::array<prometheus::Counter*, kPatterns> stalls_{};
};

}  // namespace mlcache::fetch
