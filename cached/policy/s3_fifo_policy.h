// Scan-resistant recency: S3-FIFO (Yang et al., SOSP 2023). What is new waits in a small FIFO and goes to the main one
// only if it was read again there, or is remembered from not long ago; the main FIFO gives each a turn more for each
// read. One-off data and checkpoints being saved have to be read twice; large objects likewise, since many small ones
// fit in their place. Pure; the caller serialises. Memory: 46 to 51 bytes a unit, and 16 for each that is remembered.
#pragma once

#include <cstdint>
#include <deque>
#include <unordered_set>
#include <vector>

#include "cached/policy/unit_table.h"

namespace mlcache::policy {

class S3FifoPolicy final : public EvictionPolicy {
 public:
  explicit S3FifoPolicy(uint64_t capacity_bytes, double small_share = 0.1)
      : small_share_(small_share), capacity_bytes_(capacity_bytes) {}

  void Track(const EvictionUnit& unit, uint64_t bytes, const AccessHints& hints) override;
  void Touch(const EvictionUnit& unit, const AccessHints& hints) override;
  void Forget(const EvictionUnit& unit) override;
  std::vector<EvictionUnit> ChooseVictims(uint64_t bytes) override;
  uint64_t Tracked(const EvictionUnit& unit) const override;
  uint64_t bytes() const { return small_bytes_ + main_bytes_; }

 private:
  struct Item {
    uint64_t bytes : 58 = 0;
    uint64_t reads : 2 = 0;   // since it came, or had its last turn
    uint64_t needed : 2 = 1;  // reads that take it to the main FIFO
    uint64_t main : 1 = 0;
  };
  using Units = UnitTable<Item>;

  void Unlink(Units::Index index);
  void Remember(const EvictionUnit& unit);

  const double small_share_;
  const uint64_t capacity_bytes_;
  Units units_;
  Units::List small_;
  Units::List main_;
  uint64_t small_bytes_ = 0;
  uint64_t main_bytes_ = 0;
  std::deque<uint32_t> ghost_order_;
  std::unordered_set<uint32_t> ghosts_;
};

}  // namespace mlcache::policy
