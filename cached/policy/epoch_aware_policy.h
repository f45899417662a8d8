// Keeps what is most likely to be read soon, where readers go through their data in epochs: for one job that is pinning
// (CoorDL's MinIO), for several that do not run in step it beats it, without any hint. Pure; the caller serialises.
//
// Units with the same marks (EpochStreams) share one hazard, so there is one list for each set of marks, and the victim
// is the front of the lowest. What arrives waits in a FIFO of a small share of the budget, which serves those who read
// the same bytes within seconds; when it leaves that, it takes the place of something kept only if its hazard is
// higher. An access is O(1) but for the ends of epochs, which are O(1) a read over the epoch. Memory: some 65 bytes
// for each unit known (kept, or read and remembered; at most `max_known`, or an eighth more than is kept).
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <unordered_map>
#include <vector>

#include "cached/policy/epoch_streams.h"
#include "cached/policy/unit_table.h"

namespace mlcache::policy {

class EpochAwarePolicy final : public EvictionPolicy {
 public:
  struct Options {
    uint64_t capacity_bytes = 0;
    double fifo_share = 0.02;
    size_t max_known = 2'000'000;
  };

  explicit EpochAwarePolicy(const Options& options) : options_(options), full_bytes_(options.capacity_bytes) {}

  void Track(const EvictionUnit& unit, uint64_t bytes, const AccessHints& hints) override;
  void Touch(const EvictionUnit& unit, const AccessHints& hints) override;
  void Forget(const EvictionUnit& unit) override;
  std::vector<EvictionUnit> ChooseVictims(uint64_t bytes) override;
  uint64_t Tracked(const EvictionUnit& unit) const override;

  // Brings what HazardOf tells up to date; ChooseVictims does it by itself.
  void Refresh();

  // How a dataset is read: whether one of its readers is in epochs, or in none after all.
  struct Verdict {
    bool epochs = false;
    bool no_epochs = false;
  };
  Verdict VerdictOf(uint64_t dataset) const;

  const EpochStreams& streams() const { return streams_; }
  uint64_t bytes() const { return fifo_bytes_ + main_bytes_; }  // kept
  size_t known() const { return units_.size(); }
  double HazardOf(const EvictionUnit& unit) const;  // 0 when it is not known

 private:
  enum class Place : uint8_t { kGhost, kFifo, kMain, kGone };
  struct Item {
    Marks marks;
    uint32_t last_read = 0;
    uint32_t bytes_low = 0;
    uint16_t bytes_high = 0;
    uint16_t group : 13 = 0;
    uint16_t place : 2 = 0;
    uint16_t shadow : 1 = 0;  // a chunk of an object that is known as a whole, which alone counts
  };
  using Units = UnitTable<Item>;
  using Index = Units::Index;
  // Units of equal marks. A group may be coarse: there are too many sets, and its marks are those of its first unit.
  struct Group {
    Marks marks;
    bool coarse = false;
    Units::List main;
    Units::List others;
    double hazard = 0;
  };
  struct MarksHash {
    size_t operator()(const Marks& marks) const;
  };

  static uint64_t BytesOf(const Item& item) { return (static_cast<uint64_t>(item.bytes_high) << 32) | item.bytes_low; }
  static void SetBytes(Item& item, uint64_t bytes);
  Units::List& ListOf(const Item& item);
  uint16_t GroupOf(const Marks& marks);
  void Link(Index index);
  void Unlink(Index index);
  void SetPlace(Index index, Place place);
  void SetMarks(Index index, Marks marks);
  Index Know(const EvictionUnit& unit);
  void Drop(Index index);
  void DropGhosts();
  void Learn(Index index, const AccessHints& hints);
  void Finish(int stream, EpochStreams::Event event);
  void MergeChunks(const EvictionUnit& whole, uint64_t bytes);
  template <typename Wanted, typename Change>
  void Walk(Wanted wanted, Change change);
  void Settle();
  Index FifoFront();
  void CompactFifo();
  Index Cheapest() const;
  double Hazard(Index index) const;
  uint64_t FifoTarget() const;
  uint64_t MainTarget() const { return full_bytes_ - FifoTarget(); }

  const Options options_;
  EpochStreams streams_;
  Units units_;
  std::vector<Group> groups_;
  std::vector<uint16_t> free_groups_;
  std::unordered_map<Marks, uint16_t, MarksHash> group_of_;
  std::deque<EvictionUnit> fifo_;  // with some that have left it by another way, at most as many again and 64
  uint64_t fifo_bytes_ = 0;
  uint64_t fifo_units_ = 0;
  uint64_t main_bytes_ = 0;
  uint64_t main_units_ = 0;
  uint64_t full_bytes_;  // what is kept when room runs out: the budget less what others take of it
  uint32_t refreshed_at_ = 0;
};

}  // namespace mlcache::policy
