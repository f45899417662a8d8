// What the daemon's policies are compared with: textbook policies, the clairvoyant bound, closed forms. Pure.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "bench/policy/traces.h"
#include "cached/policy/unit_table.h"

namespace mlcache::bench {

// Least frequently used, of a sample of 64; counts end with eviction.
class LfuPolicy final : public cache::EvictionPolicy {
 public:
  explicit LfuPolicy(uint32_t sampled = 64, bool by_age = false) : sampled_(sampled), by_age_(by_age) {}

  void Track(const cache::EvictionUnit& unit, uint64_t bytes, const cache::AccessHints& hints) override;
  void Touch(const cache::EvictionUnit& unit, const cache::AccessHints& hints) override;
  void Forget(const cache::EvictionUnit& unit) override;
  std::vector<cache::EvictionUnit> ChooseVictims(uint64_t bytes) override;
  uint64_t Tracked(const cache::EvictionUnit& unit) const override;

 private:
  struct Item {
    uint64_t bytes = 0;
    uint64_t reads = 0;  // or, by age, when it was read last
    uint32_t place = 0;
  };

  const uint32_t sampled_;
  const bool by_age_;
  uint64_t now_ = 0;
  policy::UnitTable<Item> units_;
  std::vector<uint32_t> order_;
  std::minstd_rand random_{1};
};

// The older of two at random (what JuiceFS evicts by default).
std::unique_ptr<cache::EvictionPolicy> MakeTwoRandom();

// SIEVE (Zhang et al., NSDI 2024): a FIFO whose hand spares what was read since it last passed.
class SievePolicy final : public cache::EvictionPolicy {
 public:
  void Track(const cache::EvictionUnit& unit, uint64_t bytes, const cache::AccessHints& hints) override;
  void Touch(const cache::EvictionUnit& unit, const cache::AccessHints& hints) override;
  void Forget(const cache::EvictionUnit& unit) override;
  std::vector<cache::EvictionUnit> ChooseVictims(uint64_t bytes) override;
  uint64_t Tracked(const cache::EvictionUnit& unit) const override;

 private:
  struct Item {
    uint64_t bytes : 63 = 0;
    uint64_t read : 1 = 0;
  };
  using Units = policy::UnitTable<Item>;
  Units units_;
  Units::List order_;                 // oldest first
  Units::Index hand_ = Units::kNone;  // the next to be looked at
};

// Makes the policy of that name for a cache of `capacity_bytes`; null when there is none. The trace is for those that
// are told the future ("plans").
std::unique_ptr<cache::EvictionPolicy> MakeByName(const std::string& name, uint64_t capacity_bytes, const Trace& trace);
std::vector<std::string> PolicyNames();

// Byte hit rate of a policy over the last 1 - `warm` of the trace, with a cache of the share `f` of all items' bytes.
double HitRateOf(const std::string& policy, const Trace& trace, double f, double warm);

// Byte hit rate of the clairvoyant policy that evicts what is read last of all, or passes by (exact for equal sizes).
double BeladyHitRate(const Trace& trace, double f, double warm);

// One job, each epoch a fresh permutation.
double LruClosedForm(double f);
double RandomClosedForm(double f);

}  // namespace mlcache::bench
