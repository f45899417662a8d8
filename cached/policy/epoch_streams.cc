#include "cached/policy/epoch_streams.h"

#include <algorithm>
#include <cmath>

namespace mlcache::policy {
namespace {

constexpr double kCoverage = 0.8;    // of the members read: from here on a run of rereads is a boundary
constexpr double kRereads = 0.05;    // of the members read again: what a run is
constexpr double kLeftFloor = 0.02;  // of the members: the last few of an epoch are not the only ones worth keeping
constexpr double kLearningWeight = 0.25;  // of what was read once and perhaps never again
constexpr double kMinorWeight = 0.25;
constexpr uint64_t kAdoptAfter = 64;  // first reads
constexpr double kAdoptShare = 0.6;   // of them known to the other
constexpr uint32_t kForgetEvery = 8;
constexpr double kDensityReads = 8;  // over which the part of rereads is averaged
constexpr double kTurned = 0.75;
constexpr double kSparse = 0.5;  // strays, and no new epoch
constexpr double kNone = 0.25;
constexpr size_t kMaxReaders = 4096;

double WeightOf(const Marks& marks) { return 1.0 / (1 << marks.doubt); }
double HeatOf(const Marks& marks) { return static_cast<double>(1U << marks.frequency); }
uint32_t BitOf(int stream) { return 1U << stream; }

uint64_t Mix(uint64_t a, uint64_t b) {
  uint64_t hash = (a ^ (b * 0x9E3779B97F4A7C15ULL)) * 0xD6E8FEB86659FD93ULL;
  hash ^= hash >> 29;
  return hash | 1;
}

}  // namespace

double EpochStreams::Horizon() const { return std::max<double>(1024, static_cast<double>(known_)); }

double EpochStreams::RateOf(const Stream& stream) const {
  return stream.rate * std::exp(-static_cast<double>(now_ - stream.rate_at) / Horizon());
}

EpochStreams::Slot EpochStreams::SlotOf(const cache::AccessHints& hints) {
  const uint64_t reader_key = Mix(hints.reader, hints.dataset);
  if (readers_.size() >= kMaxReaders && !readers_.contains(reader_key)) readers_.clear();
  Reader& reader = readers_[reader_key];
  Slot slot;
  bool becomes_one = false;
  if (!reader.one) {
    const auto end = reader.folders.begin() + static_cast<std::ptrdiff_t>(reader.count);
    if (std::find(reader.folders.begin(), end, hints.folder) == end) {
      becomes_one = reader.count == reader.folders.size();
      if (becomes_one) {
        reader.one = true;
      } else {
        reader.folders[reader.count++] = hints.folder;
      }
    }
  }
  if (becomes_one) {
    // A folder for each class, say: not data sets of their own.
    for (const uint64_t folder : reader.folders) {
      if (const auto found = slots_.find(Mix(reader_key, folder)); found != slots_.end()) {
        slot.merged |= BitOf(found->second);
      }
    }
  }
  const uint64_t key = reader.one ? reader_key : Mix(reader_key, hints.folder);
  const auto found = slots_.find(key);
  slot.stream = found != slots_.end() ? found->second : Take(key, hints, slot);
  return slot;
}

int EpochStreams::Take(uint64_t key, const cache::AccessHints& hints, Slot& slot) {
  int taken = kNoStream;
  double least = 0;
  for (int i = 0; i < kMaxStreams; ++i) {
    if ((slot.merged & BitOf(i)) != 0) continue;
    if (streams_[i].key == 0) {
      taken = i;
      break;
    }
    const double rate = RateOf(streams_[i]);
    if (taken == kNoStream || rate < least) {
      taken = i;
      least = rate;
    }
  }
  if (streams_[taken].key != 0) {
    slot.freed = taken;
    slots_.erase(streams_[taken].key);
  }
  streams_[taken] = {};
  streams_[taken].key = key;
  streams_[taken].reader = hints.reader;
  streams_[taken].dataset = hints.dataset;
  streams_[taken].rate_at = now_;
  slots_[key] = taken;
  return taken;
}

bool EpochStreams::Unread(int stream, const Marks& marks) const {
  return (marks.member & BitOf(stream)) != 0 && ((marks.parity & BitOf(stream)) != 0) != streams_[stream].parity;
}

void EpochStreams::FirstRead(int index, Marks& marks) {
  Stream& stream = streams_[index];
  const double weight = WeightOf(marks);
  if ((marks.member & BitOf(index)) != 0) {
    stream.left -= weight;
  } else {
    marks.member |= BitOf(index);
    stream.members += weight;
    stream.heat += HeatOf(marks);
  }
  marks.parity = stream.parity ? marks.parity | BitOf(index) : marks.parity & ~BitOf(index);
  if (marks.doubt > 0) {
    // It is a member beyond doubt, to all who have it.
    for (int i = 0; i < kMaxStreams; ++i) {
      if ((marks.member & BitOf(i)) == 0) continue;
      streams_[i].members += 1 - weight;
      if (Unread(i, marks)) streams_[i].left += 1 - weight;
    }
    marks.doubt = 0;
  }
}

EpochStreams::Event EpochStreams::Read(int index, uint32_t item, Marks& marks, uint32_t& last_read) {
  Stream& stream = streams_[index];
  const bool member = (marks.member & BitOf(index)) != 0;
  const bool reread = member && !Unread(index, marks);
  // A file that is opened twice, read piece by piece, or by all ranks of a job within seconds is read once.
  const auto near =
      static_cast<uint32_t>(std::clamp(0.02 * stream.members, std::clamp(stream.members / 4, 16.0, 64.0), 1e6));
  if (reread && Now() - last_read <= near) return Event::kNone;
  last_read = static_cast<uint32_t>(++now_);
  stream.rate = RateOf(stream) + 1 / Horizon();
  stream.rate_at = now_;
  marks.history = false;
  if (!reread && !member && stream.may_adopt) {
    for (int i = 0; i < kMaxStreams; ++i) {
      if ((marks.member & BitOf(i)) != 0) ++stream.known_to[i];
    }
  }
  if (stream.mode == Mode::kFrequency && reread && marks.frequency < kMaxFrequency) {
    // Counts 2^frequency rereads on average (Morris). First reads of a window say nothing: there are as many in epochs.
    seed_ = seed_ * 6364136223846793005ULL + 1442695040888963407ULL;
    if (((seed_ >> 33) & ((1ULL << marks.frequency) - 1)) == 0) {
      for (int i = 0; i < kMaxStreams; ++i) {
        if ((marks.member & BitOf(i)) != 0) streams_[i].heat += HeatOf(marks);
      }
      ++marks.frequency;
    }
    ++counted_;
  }
  stream.density += ((reread ? 1.0 : 0.0) - stream.density) / kDensityReads;
  if (stream.density < kNone) {
    stream.strays = stream.rereads.size();
    stream.novel.clear();
  }
  if (reread) {
    // A file read again and again is one reread.
    const auto recent = stream.rereads.end() - static_cast<std::ptrdiff_t>(std::min<size_t>(stream.rereads.size(), 16));
    if (std::find(recent, stream.rereads.end(), item) == stream.rereads.end()) stream.rereads.push_back(item);
  } else {
    FirstRead(index, marks);
    ++stream.reads;
    if (!stream.rereads.empty()) stream.novel.push_back(item);
  }
  return Judge(index);
}

EpochStreams::Event EpochStreams::Judge(int index) {
  Stream& stream = streams_[index];
  if (stream.may_adopt && stream.mode == Mode::kLearning && stream.reads == kAdoptAfter) {
    stream.may_adopt = false;
    for (int i = 0; i < kMaxStreams; ++i) {
      const Stream& other = streams_[i];
      if (i == index || other.key == 0 || other.mode != Mode::kEpoch || other.members < 2 * kAdoptAfter) continue;
      if (stream.known_to[i] >= kAdoptShare * static_cast<double>(kAdoptAfter)) {
        stream.adopted = i;
        stream.mode = Mode::kEpoch;
        return Event::kAdopt;
      }
    }
  }
  const auto run = static_cast<double>(stream.rereads.size());
  if (run == 0) return Event::kNone;
  const double enough = std::max({1.0, kRereads * stream.members, std::min(12.0, stream.members / 2)});
  const double allowed = (1 - kCoverage) * stream.members;
  const bool covered = stream.mode != Mode::kLearning && stream.left <= allowed;
  // Where every member was read, the first reread says that the next epoch has begun; the more are left, the more it
  // takes.
  if (run < (covered ? std::max(1.0, enough * std::max(stream.left, 0.0) / allowed) : enough)) return Event::kNone;
  if (covered && stream.left > 0.01 * stream.members && stream.density < kSparse) return Event::kNone;
  // Hardly a first read among the latest: everything was read, as far as the reader goes.
  const bool turned = stream.density >= kTurned;
  return Turn(index, stream.mode == Mode::kLearning ? turned : covered, turned);
}

EpochStreams::Event EpochStreams::Turn(int index, bool completed, bool turned) {
  Stream& stream = streams_[index];
  stream.mode = completed ? Mode::kEpoch : Mode::kFrequency;
  stream.epochs += completed ? 1 : 0;
  stream.failures = completed ? 0 : stream.failures + 1;
  stream.parity = !stream.parity;
  stream.left = stream.members;
  // Strays were before the run of rereads that shows that something new begins. Where rereads are many among the reads
  // since then, all of those belong to it.
  if (stream.density >= kSparse) {
    stream.rereads.erase(stream.rereads.begin(), stream.rereads.begin() + static_cast<std::ptrdiff_t>(stream.strays));
  }
  stream.strays = 0;
  if (stream.novel.size() <= 2 * stream.rereads.size()) {
    stream.rereads.insert(stream.rereads.end(), stream.novel.begin(), stream.novel.end());
  }
  stream.novel.clear();
  stream.density = 0;
  stream.reads = stream.rereads.size();
  stream.may_adopt = false;
  // Membership ends as well of what a reader leaves out for good, and of what is not read in many windows.
  return completed || turned || stream.failures % kForgetEvery == 0 ? Event::kBoundary : Event::kRestart;
}

void EpochStreams::Skip(int index, Marks& marks) const {
  marks.parity ^= BitOf(index);  // unread before the stream's own bit flipped, and after
}

void EpochStreams::Miss(int index, Marks& marks) {
  Skip(index, marks);
  const double weight = WeightOf(marks);
  if (marks.doubt == 3) {
    streams_[index].members -= weight;
    streams_[index].left -= weight;
    streams_[index].heat -= HeatOf(marks);
    marks.member &= ~BitOf(index);
    return;
  }
  for (int i = 0; i < kMaxStreams; ++i) {
    if ((marks.member & BitOf(i)) == 0) continue;
    streams_[i].members -= weight / 2;
    if (i == index || Unread(i, marks)) streams_[i].left -= weight / 2;
  }
  ++marks.doubt;
}

void EpochStreams::MarkReread(int index, Marks& marks) {
  if (!Unread(index, marks)) return;
  streams_[index].left -= WeightOf(marks);
  marks.parity ^= BitOf(index);
}

void EpochStreams::Enter(int index, bool unread, Marks& marks) {
  if ((marks.member & BitOf(index)) != 0) return;
  Stream& stream = streams_[index];
  marks.member |= BitOf(index);
  marks.parity = stream.parity != unread ? marks.parity | BitOf(index) : marks.parity & ~BitOf(index);
  stream.members += WeightOf(marks);
  stream.heat += HeatOf(marks);
  if (unread) stream.left += WeightOf(marks);
}

void EpochStreams::Adopt(int index, Marks& marks) { Enter(index, true, marks); }

void EpochStreams::Merge(int into, uint32_t from, Marks& marks) {
  bool read = false;
  for (int i = 0; i < kMaxStreams; ++i) {
    if ((from & marks.member & BitOf(i)) != 0) read = read || !Unread(i, marks);
  }
  Drop({.member = marks.member & from, .parity = marks.parity, .doubt = marks.doubt, .frequency = marks.frequency});
  marks.member &= ~from;
  Enter(into, !read, marks);
}

void EpochStreams::EndMerge(uint32_t from) {
  for (int i = 0; i < kMaxStreams; ++i) {
    if ((from & BitOf(i)) == 0) continue;
    slots_.erase(streams_[i].key);
    streams_[i] = {};
  }
}

void EpochStreams::Drop(const Marks& marks) {
  for (int i = 0; i < kMaxStreams; ++i) {
    if ((marks.member & BitOf(i)) == 0) continue;
    streams_[i].members -= WeightOf(marks);
    streams_[i].heat -= HeatOf(marks);
    if (Unread(i, marks)) streams_[i].left -= WeightOf(marks);
  }
}

bool EpochStreams::CoolDue() {
  if (counted_ < 8 * std::max<uint64_t>(known_, 256)) return false;
  counted_ = 0;
  return true;
}

void EpochStreams::Cool(Marks& marks) {
  for (int i = 0; i < kMaxStreams; ++i) {
    if ((marks.member & BitOf(i)) != 0) streams_[i].heat -= HeatOf(marks) / 2;
  }
  --marks.frequency;
}

void EpochStreams::Refresh(uint64_t known, uint64_t kept) {
  known_ = known;
  kept_ = kept;
  for (int i = 0; i < kMaxStreams; ++i) rates_[i] = streams_[i].key == 0 ? 0 : RateOf(streams_[i]);
}

double EpochStreams::StreamHazard(int index, bool unread, const Marks& marks) const {
  const Stream& stream = streams_[index];
  const double rate = rates_[index];
  switch (stream.mode) {
    case Mode::kLearning: {
      // Nobody knows how much more there is: at least what was seen, and no less than the cache.
      const double guess = std::max(2 * stream.members, static_cast<double>(kept_));
      return kLearningWeight * rate / std::max(guess, 1.0);
    }
    case Mode::kEpoch: {
      const double left = std::max({stream.left, kLeftFloor * stream.members, 1.0});
      return rate / (unread ? left : left + stream.members / 2) * WeightOf(marks);
    }
    case Mode::kFrequency:
      return rate * HeatOf(marks) / std::max(stream.heat, 1.0);
  }
  return 0;
}

double EpochStreams::HazardOf(const Marks& marks) const {
  double hazard = 0;
  for (uint32_t bits = marks.member; bits != 0; bits &= bits - 1) {
    const int i = __builtin_ctz(bits);
    hazard += StreamHazard(i, Unread(i, marks), marks);
  }
  if (marks.history) hazard += kLearningWeight / static_cast<double>(std::max<uint64_t>(kept_, 1));
  return marks.minor ? hazard * kMinorWeight : hazard;
}

}  // namespace mlcache::policy
