// Who reads what in epochs, learned from the reads alone; the arithmetic of EpochAwarePolicy.
//
// A *stream* is one reader (a job, or a mount) in one folder of a dataset. In an epoch it reads each of its members
// once. Per member and stream one bit tells the parity of the epoch in which it was last read, so a boundary flips one
// bit of the stream and touches no member that was read. Thread-compatible; no clock: time is counted in reads.
//
// What a member's *hazard* (chance to be read by the next read) is under a stream of rate r with N members and `left`
// of them unread: r / left while unread, r / (left + N / 2) once read. Where a stream's reads turn out not to be epochs
// it falls back to counted frequency, and while it is still in its first pass every member has the same small hazard.
#pragma once

#include <array>
#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

#include "cached/cache/eviction_policy.h"

namespace mlcache::policy {

inline constexpr int kMaxStreams = 32;
inline constexpr int kNoStream = -1;
inline constexpr uint8_t kMaxFrequency = 7;

// What is known of one item. Items with equal marks have equal hazards.
struct Marks {
  uint32_t member = 0;        // a bit for each stream
  uint32_t parity = 0;        // of the epoch in which the stream last read it
  uint8_t doubt : 2 = 0;      // completed epochs in which it was missed; each halves its weight, the fourth ends it
  uint8_t frequency : 3 = 0;  // log2 of the reads by streams that are not in epochs
  bool minor : 1 = false;     // one-off data or a checkpoint that is saved
  bool history : 1 = false;   // kept without a reader that is known: from before a restart, or warmed up
  bool operator==(const Marks&) const = default;
};

class EpochStreams {
 public:
  enum class Mode : uint8_t { kLearning, kEpoch, kFrequency };
  // What a read led to. The caller, who has the items, then does what is said there.
  enum class Event : uint8_t {
    kNone,
    kBoundary,  // an epoch ended: call Miss for each member not read in it, then MarkReread for TakeRereads()
    kRestart,   // the reads of the stream begin anew: as kBoundary, but with Skip
    kAdopt,     // it reads another stream's members (`adopted`): call Adopt for each of those
  };
  struct Stream {
    uint64_t key = 0;  // 0: free
    uint64_t reader = 0;
    uint64_t dataset = 0;
    Mode mode = Mode::kLearning;
    bool parity = false;
    double members = 0;  // sum of weights
    double left = 0;     // of those not read in this epoch
    double heat = 0;     // sum of 2^frequency over members
    double rate = 0;     // share of all reads, decayed, as of rate_at
    uint64_t rate_at = 0;
    uint64_t reads = 0;  // in this window: distinct ones
    uint64_t epochs = 0;
    double density = 0;                               // of rereads among the latest reads
    uint32_t failures = 0;                            // restarts in a row
    std::vector<uint32_t> rereads;                    // items, in this window
    size_t strays = 0;                                // of these, before the latest run of them
    std::vector<uint32_t> novel;                      // first reads within that run
    std::array<uint16_t, kMaxStreams> known_to = {};  // first reads of what was another stream's already
    int adopted = kNoStream;
    bool may_adopt = true;
  };

  // The stream of a read, made when new. `freed` is set to a slot whose former stream was given up for it (the caller
  // then clears that bit of all marks), else kNoStream.
  struct Slot {
    int stream = kNoStream;
    int freed = kNoStream;
    uint32_t merged = 0;  // streams of single folders that this one replaces: call Merge for their members
  };
  Slot SlotOf(const cache::AccessHints& hints);

  // `item` is read; its marks change. `last_read` is in Now()'s units, and becomes now if the read counts.
  Event Read(int stream, uint32_t item, Marks& marks, uint32_t& last_read);
  uint32_t Now() const { return static_cast<uint32_t>(now_); }

  // After an event.
  void Miss(int stream, Marks& marks);
  void Skip(int stream, Marks& marks) const;
  void MarkReread(int stream, Marks& marks);
  void Adopt(int stream, Marks& marks);
  void Merge(int into, uint32_t from, Marks& marks);
  void EndMerge(uint32_t from);
  void Enter(int stream, bool unread, Marks& marks);  // becomes a member
  std::vector<uint32_t> TakeRereads(int stream) { return std::exchange(streams_[stream].rereads, {}); }

  // Items were forgotten, and their numbers will be given to others.
  void DropRereads() {
    for (Stream& stream : streams_) {
      stream.rereads.clear();
      stream.novel.clear();
      stream.strays = 0;
    }
  }

  // The item is no longer known.
  void Drop(const Marks& marks);
  // Frequencies are halved from time to time.
  bool CoolDue();
  void Cool(Marks& marks);

  bool Unread(int stream, const Marks& marks) const;
  double HazardOf(const Marks& marks) const;
  const Stream& stream(int index) const { return streams_[index]; }
  // Brings the rates that hazards are worked out from up to date. How many items there are, for what is scaled to that.
  void Refresh(uint64_t known, uint64_t kept);

 private:
  double RateOf(const Stream& stream) const;
  double StreamHazard(int index, bool unread, const Marks& marks) const;
  int Take(uint64_t key, const cache::AccessHints& hints, Slot& slot);
  void FirstRead(int index, Marks& marks);
  Event Judge(int index);
  Event Turn(int index, bool completed, bool turned);
  double Horizon() const;  // reads over which rates are averaged

  std::array<Stream, kMaxStreams> streams_;
  std::array<double, kMaxStreams> rates_ = {};
  // By reader and dataset: the folders it has read in; one stream for all of them once they are many.
  struct Reader {
    std::array<uint64_t, 8> folders = {};
    size_t count = 0;
    bool one = false;
  };
  std::unordered_map<uint64_t, Reader> readers_;
  std::unordered_map<uint64_t, int> slots_;
  uint64_t now_ = 0;
  uint64_t known_ = 0;
  uint64_t kept_ = 0;
  uint64_t counted_ = 0;  // reads of streams in frequency mode since the last cooling
  uint64_t seed_ = 0x9E3779B97F4A7C15ULL;
};

}  // namespace mlcache::policy
