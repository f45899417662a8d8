// Chooses per dataset between epoch-aware and scan-resistant recency (S3-FIFO), and divides the tier between the two.
// Pure; the caller serialises.
//
// A dataset begins as epoch-aware. It falls back to recency when its readers turn out not to go in epochs. From then on
// two *ghosts*, the same policies at small scale over a sample of the dataset's units (at most 2,048, by hash), say
// which would hit more; the choice changes when the other leads by 2 % in two windows in a row. A unit moves over when
// it is read next. What is read as plain (AccessHints) is kept by recency and counts for none of this. Room is taken
// where it hurts least: of the units each side gave up last, the share that is read again. Memory beside the two
// policies: at most 400 KiB for each of at most 16 datasets.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "cached/policy/epoch_aware_policy.h"
#include "cached/policy/s3_fifo_policy.h"
#include "cached/policy/simulated_cache.h"

namespace mlcache::policy {

class PolicyChooser final : public EvictionPolicy {
 public:
  enum Mode : uint8_t { kEpochs, kRecency };

  explicit PolicyChooser(uint64_t capacity_bytes);

  void Track(const EvictionUnit& unit, uint64_t bytes, const AccessHints& hints) override;
  void Touch(const EvictionUnit& unit, const AccessHints& hints) override;
  void Forget(const EvictionUnit& unit) override;
  std::vector<EvictionUnit> ChooseVictims(uint64_t bytes) override;
  uint64_t Tracked(const EvictionUnit& unit) const override;

  Mode ModeOf(uint64_t dataset) const;
  uint64_t switches() const { return switches_; }
  size_t datasets() const { return datasets_.size(); }

 private:
  static constexpr int kModes = 2;

  struct Ghosts {
    std::array<std::unique_ptr<SimulatedCache>, kModes> caches;
    std::unordered_set<uint64_t> seen;  // sampled units, by hash
    uint32_t shift = 0;                 // one in 2^shift is sampled
    uint32_t leads = 0;                 // windows in a row in which the other mode led
    bool judged = false;
  };
  struct Dataset {
    Mode mode = kEpochs;
    uint64_t reads = 0;
    Ghosts ghosts;
  };
  // Of what one mode gave up last: how often that is read again.
  struct Margin {
    std::deque<uint32_t> order;
    std::unordered_set<uint32_t> names;
    double hits = 0;
    double exposure = 0;  // names times reads
    double Hazard() const { return (hits + 1) / (exposure + 1); }
  };

  EvictionPolicy& PolicyOf(int mode) { return mode == kEpochs ? static_cast<EvictionPolicy&>(epochs_) : recency_; }
  Dataset& DatasetOf(uint64_t dataset);
  bool IsRepeat(const EvictionUnit& unit, const AccessHints& hints);
  void Sample(Dataset& dataset, const EvictionUnit& unit, const AccessHints& hints);
  void StartGhosts(Ghosts& ghosts, uint32_t shift);
  void Judge(uint64_t id, Dataset& dataset);
  void Observe(const EvictionUnit& unit);
  void GaveUp(int mode, const std::vector<EvictionUnit>& units);
  int Poorer() const;

  const uint64_t capacity_bytes_;
  EpochAwarePolicy epochs_;
  S3FifoPolicy recency_;
  std::unordered_map<uint64_t, Dataset> datasets_;
  std::array<Margin, kModes> margins_;
  // Pieces of one read of a file are one.
  struct Recent {
    uint64_t name = 0;
    uint64_t touch = 0;
  };
  std::array<Recent, 256> recent_;  // by hash
  uint64_t touches_ = 0;
  uint64_t reads_ = 0;
  uint64_t tracked_units_ = 0;
  uint64_t tracked_bytes_ = 0;  // of all that came: for their mean size
  uint64_t switches_ = 0;
};

}  // namespace mlcache::policy
