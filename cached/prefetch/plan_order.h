// A declared reading order and how far its reader has come: which file to fetch next, and which are not worth waiting
// for any more. Pure: no I/O, no clock, no lock (thread-compatible).
//
// Readers do not keep the order exactly: DataLoader workers read batches side by side, and what the kernel has cached
// is read unseen. So the position is a window of places. Its upper end follows the furthest read seen; a place below
// that may still be read, until so many others were read since the reader went past it that it must have been skipped.
// Reads far ahead that agree with each other move the whole window there.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cached/prefetch/path_table.h"

namespace mlcache::prefetch {

struct PlanOrderOptions {
  size_t ahead = 8192;          // places beyond the furthest read that may be fetched, and are looked at for a read
  size_t skipped_after = 8192;  // reads after which a place that was passed counts as skipped
  size_t near = 2048;           // places to come that Claim counts for `together`
  size_t agreeing = 4;          // reads beyond `ahead` that move the window
};

class PlanOrder {
 public:
  // Of a place within the window.
  enum class State : uint8_t { kWaiting, kFetching, kFetched, kPresent, kFailed, kDone };
  using Place = uint32_t;

  explicit PlanOrder(const PlanOrderOptions& options = {}) : options_(options) {}

  // False when the plan cannot grow any more.
  bool Append(std::string_view path);

  struct Left {
    Place place = 0;
    State state = State::kWaiting;  // as it left
  };

  // A reader opened `path`. The place that was read, with its state until now; nothing when the plan does not expect it
  // here. What the window left behind by that is added to `skipped`.
  std::optional<Left> Use(std::string_view path, std::vector<Left>& skipped);

  // How far from the furthest read the next place of `path` lies; nothing when it is not to come.
  std::optional<size_t> Distance(std::string_view path);

  // Gives up places that others than the reader wait for: those passed for longer than reads have been seen to lag.
  void GiveUpSkipped(std::vector<Left>& skipped) { Advance(true, skipped); }

  struct Claimed {
    Place place = 0;
    std::string path;
    size_t together = 1;  // files in its directory among those that come soon
  };
  // The nearest place that nobody looked at, now kFetching; nothing while there is none within reach. A file that an
  // earlier place of the window already brings is kPresent without being claimed.
  std::optional<Claimed> Claim();

  // What became of a claimed place. False when it has left the window, or was read, meanwhile.
  bool Settle(Place place, State state);
  // A claimed place is still to be fetched.
  bool IsFetching(Place place) const { return InWindow(place) && SlotAt(place).state == State::kFetching; }

  // Takes over a file that was fetched for an earlier plan: its first place within reach, if it is waiting, is
  // kFetched.
  std::optional<Place> Adopt(std::string_view path);

  std::string Path(Place place) const { return paths_.Path(files_[place]); }
  size_t size() const { return files_.size(); }
  size_t position() const { return read_until_; }  // one behind the furthest place read
  size_t left() const { return files_.size() - begin_ - done_in_window_; }

 private:
  static constexpr Place kNone = UINT32_MAX;
  static constexpr uint64_t kLagPeriod = 4096;  // reads

  struct Slot {
    State state = State::kWaiting;
    uint64_t passed_at = 0;  // reads seen until the reader went past it
  };

  bool InWindow(Place place) const { return place >= begin_ && place < begin_ + window_.size(); }
  const Slot& SlotAt(Place place) const { return window_[place - begin_]; }
  Slot& SlotAt(Place place) { return window_[place - begin_]; }
  void Reach(size_t end);  // the window holds every place below `end`
  Place Expected(PathTable::Id file);
  void Consume(Place place);
  void Jump(std::vector<Left>& skipped);
  void LeaveFirst(std::vector<Left>& skipped);
  void Advance(bool pressed, std::vector<Left>& skipped);
  bool Brought(Place place) const;
  void CountNear();

  PlanOrderOptions options_;
  PathTable paths_;
  std::vector<PathTable::Id> files_;  // by place
  std::vector<Place> next_same_;      // by place: the next one of the same file
  std::vector<Place> first_;          // by file: its first place that has not left the window
  std::vector<Place> last_;           // by file

  size_t begin_ = 0;         // of the window; what is below has been read or given up
  std::deque<Slot> window_;  // places from begin_
  size_t done_in_window_ = 0;
  size_t read_until_ = 0;
  size_t next_claim_ = 0;  // nothing below is kWaiting
  uint64_t reads_ = 0;
  std::array<uint64_t, 2> lag_{};  // longest in this period of reads and in the one before

  std::vector<Place> strays_;          // agreeing reads beyond the window
  std::vector<uint32_t> near_counts_;  // by directory: places in [next_claim_, near_end_)
  size_t near_begin_ = 0;
  size_t near_end_ = 0;
};

}  // namespace mlcache::prefetch
