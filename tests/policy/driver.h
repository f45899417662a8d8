// Reads by hand for tests of policies.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "bench/policy/traces.h"
#include "cached/cache/eviction_policy.h"

namespace mlcache::policy {

inline cache::AccessHints Reader(uint64_t reader, uint64_t folder = 0, uint64_t dataset = 1) {
  cache::AccessHints hints;
  hints.reader = reader;
  hints.dataset = dataset;
  hints.folder = folder;
  return hints;
}

inline std::vector<uint32_t> Items(uint32_t first, uint32_t count) {
  std::vector<uint32_t> items(count);
  std::iota(items.begin(), items.end(), first);
  return items;
}

inline std::vector<uint32_t> Shuffled(std::vector<uint32_t> items, std::mt19937& random) {
  std::ranges::shuffle(items, random);
  return items;
}

// Anything with Read(unit, bytes, hints).
template <typename Cache>
uint32_t ReadAll(Cache& cache, const std::vector<uint32_t>& items, const cache::AccessHints& hints,
                 uint64_t bytes = 100) {
  uint32_t hits = 0;
  for (const uint32_t item : items) hits += cache.Read(bench::UnitOf(item), bytes, hints) ? 1 : 0;
  return hits;
}

}  // namespace mlcache::policy
