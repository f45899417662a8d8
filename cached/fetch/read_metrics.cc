#include "cached/fetch/read_metrics.h"

#include <string>

#include "cached/metrics/metrics.h"

namespace mlcache::fetch {
namespace {

constexpr std::array<std::string_view, 5> kPatternNames = {"unknown", "sequential", "strided", "reverse", "random"};
constexpr std::array<std::string_view, 2> kTiers = {"memory", "disk"};

}  // namespace

ReadMetrics::ReadMetrics(Metrics& metrics) {
  for (size_t i = 0; i < kPatterns; ++i) {
    const std::string pattern(kPatternNames[i]);
    for (size_t tier = 0; tier < kTiers.size(); ++tier) {
      hit_bytes_[tier][i] = &metrics.cache_hit_bytes.Add({{"tier", std::string(kTiers[tier])}, {"pattern", pattern}});
    }
    miss_bytes_[i] = &metrics.cache_miss_bytes.Add({{"pattern", pattern}});
    hits_[i] = &metrics.cache_hits.Add({{"pattern", pattern}});
    misses_[i] = &metrics.cache_misses.Add({{"pattern", pattern}});
    stalls_[i] = &metrics.read_stall_seconds.Add({{"pattern", pattern}});
  }
}

size_t ReadMetrics::IndexOf(std::string_view pattern) {
  for (size_t i = 1; i < kPatterns; ++i) {
    if (pattern == kPatternNames[i]) return i;
  }
  return 0;
}

void ReadMetrics::CountHitBytes(std::string_view tier, std::string_view pattern, uint64_t bytes) {
  hit_bytes_[tier == "memory" ? 0 : 1][IndexOf(pattern)]->Increment(static_cast<double>(bytes));
}

void ReadMetrics::CountMissBytes(std::string_view pattern, uint64_t bytes) {
  miss_bytes_[IndexOf(pattern)]->Increment(static_cast<double>(bytes));
}

void ReadMetrics::CountRead(std::string_view pattern, bool missed) {
  (missed ? misses_ : hits_)[IndexOf(pattern)]->Increment();
}

void ReadMetrics::CountStall(std::string_view pattern, Nanos waited) {
  stalls_[IndexOf(pattern)]->Increment(std::chrono::duration<double>(waited).count());
}

}  // namespace mlcache::fetch
