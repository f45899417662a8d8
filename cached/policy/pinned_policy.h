// What came first stays (CoorDL's MinIO): no better for one job in epochs is possible. What comes when it is full waits
// in a FIFO of a small share of the budget and goes again. Pure; the caller serialises.
#pragma once

#include <cstdint>
#include <vector>

#include "cached/policy/unit_table.h"

namespace mlcache::policy {

class PinnedPolicy final : public EvictionPolicy {
 public:
  explicit PinnedPolicy(uint64_t capacity_bytes, double fifo_share = 0.02)
      : fifo_share_(fifo_share), full_bytes_(capacity_bytes) {}

  void Track(const EvictionUnit& unit, uint64_t bytes, const AccessHints& hints) override;
  void Touch(const EvictionUnit& /*unit*/, const AccessHints& /*hints*/) override {}
  void Forget(const EvictionUnit& unit) override;
  std::vector<EvictionUnit> ChooseVictims(uint64_t bytes) override;
  uint64_t Tracked(const EvictionUnit& unit) const override;

 private:
  struct Item {
    uint64_t bytes : 63 = 0;
    uint64_t stays : 1 = 0;
  };
  using Units = UnitTable<Item>;

  uint64_t FifoTarget() const { return static_cast<uint64_t>(fifo_share_ * static_cast<double>(full_bytes_)); }
  void Settle();

  const double fifo_share_;
  Units units_;
  Units::List fifo_;
  Units::List stay_;
  uint64_t fifo_bytes_ = 0;
  uint64_t stay_bytes_ = 0;
  uint64_t full_bytes_;  // what is kept when room runs out
};

}  // namespace mlcache::policy
