// Where readers declare what they will read next: keeps what is needed soonest over all of them (Belady), with bypass.
// A reader without a plan counts by the hazards that EpochAwarePolicy learns of it. Pure; the caller serialises.
//
// A planned use at distance d of a reader that makes the share r of all reads weighs r / d, so that plans of readers of
// different speeds, and hazards, compare. The victim is the least of a sample of 64 (of thousands: within 1 % of the
// exact choice) and of what came last. Memory beside the EpochAwarePolicy: 50 bytes a unit kept, 8 a planned read and
// 50 a planned unit and reader.
#pragma once

#include <cstdint>
#include <random>
#include <unordered_map>
#include <vector>

#include "cached/policy/epoch_aware_policy.h"

namespace mlcache::policy {

class BeladyPolicy final : public EvictionPolicy {
 public:
  explicit BeladyPolicy(uint64_t capacity_bytes, uint64_t seed = 1)
      : learned_({.capacity_bytes = capacity_bytes}), random_(seed) {}

  // The coming reads of `reader`, after those declared before.
  void Declare(uint64_t reader, const std::vector<EvictionUnit>& reads);

  void Track(const EvictionUnit& unit, uint64_t bytes, const AccessHints& hints) override;
  void Touch(const EvictionUnit& unit, const AccessHints& hints) override;
  void Forget(const EvictionUnit& unit) override;
  std::vector<EvictionUnit> ChooseVictims(uint64_t bytes) override;
  uint64_t Tracked(const EvictionUnit& unit) const override;

 private:
  struct Use {
    uint32_t next = UINT32_MAX;  // position of the next read of it
    uint32_t last = UINT32_MAX;  // of the last one that is declared
  };
  struct Plan {
    std::vector<uint32_t> following;  // by position: that of the next read of the same unit
    UnitTable<Use> uses;
    uint32_t at = 0;  // the next read
    double rate = 0;  // share of all reads, decayed, as of rate_at
    uint64_t rate_at = 0;
  };
  struct Kept {
    uint64_t bytes = 0;
    uint32_t place = 0;  // in order_
  };

  double WorthOf(const EvictionUnit& unit) const;

  EpochAwarePolicy learned_;  // keeps nothing, only learns
  std::unordered_map<uint64_t, Plan> plans_;
  UnitTable<Kept> units_;
  std::vector<uint32_t> order_;  // of units_, for sampling
  EvictionUnit last_;
  uint64_t reads_ = 0;
  std::minstd_rand random_;
};

}  // namespace mlcache::policy
