#include "bench/policy/baselines.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <unordered_map>
#include <utility>

#include "cached/cache/lru_eviction.h"
#include "cached/policy/belady_policy.h"
#include "cached/policy/make_policy.h"
#include "cached/policy/simulated_cache.h"

namespace mlcache::bench {

using cache::AccessHints;
using cache::EvictionUnit;

void LfuPolicy::Track(const EvictionUnit& unit, uint64_t bytes, const AccessHints& /*hints*/) {
  auto index = units_.Find(unit);
  if (index == decltype(units_)::kNone) {
    index = units_.Insert(unit);
    units_[index].place = static_cast<uint32_t>(order_.size());
    units_[index].reads = by_age_ ? ++now_ : 1;
    order_.push_back(index);
  }
  units_[index].bytes = bytes;
}

void LfuPolicy::Touch(const EvictionUnit& unit, const AccessHints& /*hints*/) {
  const auto index = units_.Find(unit);
  if (index == decltype(units_)::kNone) return;
  units_[index].reads = by_age_ ? ++now_ : units_[index].reads + 1;
}

void LfuPolicy::Forget(const EvictionUnit& unit) {
  const auto index = units_.Find(unit);
  if (index == decltype(units_)::kNone) return;
  const uint32_t place = units_[index].place;
  order_[place] = order_.back();
  units_[order_[place]].place = place;
  order_.pop_back();
  units_.Erase(index);
}

std::vector<EvictionUnit> LfuPolicy::ChooseVictims(uint64_t bytes) {
  std::vector<EvictionUnit> victims;
  for (uint64_t freed = 0; freed < bytes && !order_.empty();) {
    uint32_t least = order_[random_() % order_.size()];
    for (uint32_t i = 1; i < sampled_; ++i) {
      const uint32_t other = order_[random_() % order_.size()];
      if (units_[other].reads < units_[least].reads) least = other;
    }
    freed += units_[least].bytes;
    victims.push_back(units_.UnitOf(least));
    Forget(victims.back());
  }
  return victims;
}

uint64_t LfuPolicy::Tracked(const EvictionUnit& unit) const {
  const auto index = units_.Find(unit);
  return index == decltype(units_)::kNone ? 0 : units_[index].bytes;
}

std::unique_ptr<cache::EvictionPolicy> MakeTwoRandom() { return std::make_unique<LfuPolicy>(2, true); }

void SievePolicy::Track(const EvictionUnit& unit, uint64_t bytes, const AccessHints& /*hints*/) {
  auto index = units_.Find(unit);
  if (index == Units::kNone) {
    index = units_.Insert(unit);
    units_.PushBack(order_, index);
  }
  units_[index].bytes = bytes;
}

void SievePolicy::Touch(const EvictionUnit& unit, const AccessHints& /*hints*/) {
  if (const auto index = units_.Find(unit); index != Units::kNone) units_[index].read = 1;
}

void SievePolicy::Forget(const EvictionUnit& unit) {
  const auto index = units_.Find(unit);
  if (index == Units::kNone) return;
  if (hand_ == index) hand_ = units_.NextOf(index);
  units_.Remove(order_, index);
  units_.Erase(index);
}

std::vector<EvictionUnit> SievePolicy::ChooseVictims(uint64_t bytes) {
  std::vector<EvictionUnit> victims;
  for (uint64_t freed = 0; freed < bytes && !order_.empty();) {
    if (hand_ == Units::kNone) hand_ = order_.head;
    if (units_[hand_].read != 0) {
      units_[hand_].read = 0;
      hand_ = units_.NextOf(hand_);
      continue;
    }
    freed += units_[hand_].bytes;
    victims.push_back(units_.UnitOf(hand_));
    Forget(victims.back());
  }
  return victims;
}

uint64_t SievePolicy::Tracked(const EvictionUnit& unit) const {
  const auto index = units_.Find(unit);
  return index == Units::kNone ? 0 : units_[index].bytes;
}

std::vector<std::string> PolicyNames() {
  return {"lru", "lfu", "2-random", "sieve", "s3fifo", "pinned", "epoch", "auto", "plans"};
}

std::unique_ptr<cache::EvictionPolicy> MakeByName(const std::string& name, uint64_t capacity_bytes,
                                                  const Trace& trace) {
  if (name == "lfu") return std::make_unique<LfuPolicy>();
  if (name == "2-random") return MakeTwoRandom();
  if (name == "sieve") return std::make_unique<SievePolicy>();
  if (name == "plans") {
    auto belady = std::make_unique<policy::BeladyPolicy>(capacity_bytes);
    std::unordered_map<uint16_t, std::vector<EvictionUnit>> plans;
    for (const Read& read : trace.reads) plans[read.reader].push_back(UnitOf(read.item));
    for (const auto& [reader, plan] : plans) belady->Declare(reader, plan);
    return belady;
  }
  const auto kind = policy::ParsePolicy(name);
  return kind.has_value() ? policy::MakePolicy(*kind, capacity_bytes) : nullptr;
}

double HitRateOf(const std::string& policy, const Trace& trace, double f, double warm) {
  const auto capacity = static_cast<uint64_t>(f * static_cast<double>(trace.TotalBytes()));
  policy::SimulatedCache cache(MakeByName(policy, capacity, trace), capacity);
  std::vector<EvictionUnit> units;
  for (uint32_t item = 0; item < trace.item_bytes.size(); ++item) units.push_back(UnitOf(item));
  const auto start = static_cast<size_t>(warm * static_cast<double>(trace.reads.size()));
  for (size_t i = 0; i < trace.reads.size(); ++i) {
    if (i == start) cache.ResetCounts();
    const Read& read = trace.reads[i];
    cache.Read(units[read.item], trace.item_bytes[read.item], HintsOf(read));
  }
  return cache.ByteHitRate();
}

double BeladyHitRate(const Trace& trace, double f, double warm) {
  const size_t n = trace.reads.size();
  const auto capacity = static_cast<uint64_t>(f * static_cast<double>(trace.TotalBytes()));
  std::vector<size_t> next(n, SIZE_MAX);
  std::vector<size_t> seen(trace.item_bytes.size(), SIZE_MAX);
  for (size_t i = n; i-- > 0;) next[i] = std::exchange(seen[trace.reads[i].item], i);
  std::set<std::pair<size_t, uint32_t>> kept;  // by next use
  std::vector<size_t> use(trace.item_bytes.size(), SIZE_MAX);
  std::vector<bool> in(trace.item_bytes.size(), false);
  uint64_t used = 0;
  uint64_t hit_bytes = 0;
  uint64_t read_bytes = 0;
  const auto start = static_cast<size_t>(warm * static_cast<double>(n));
  for (size_t i = 0; i < n; ++i) {
    const uint32_t item = trace.reads[i].item;
    if (i >= start) {
      read_bytes += trace.item_bytes[item];
      if (in[item]) hit_bytes += trace.item_bytes[item];
    }
    if (in[item]) {
      kept.erase({use[item], item});
    } else {
      used += trace.item_bytes[item];
    }
    in[item] = true;
    use[item] = next[i];
    kept.emplace(next[i], item);
    while (used > capacity) {
      const auto furthest = std::prev(kept.end());
      in[furthest->second] = false;
      used -= trace.item_bytes[furthest->second];
      kept.erase(furthest);
    }
  }
  return read_bytes == 0 ? 0 : static_cast<double>(hit_bytes) / static_cast<double>(read_bytes);
}

double LruClosedForm(double f) { return f + (1 - f) * std::log(1 - f); }

double RandomClosedForm(double f) { return 1 - f * std::log(f + (1 - f) * std::exp(1 / f)); }

}  // namespace mlcache::bench
