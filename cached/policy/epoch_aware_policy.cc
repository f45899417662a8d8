#include "cached/policy/epoch_aware_policy.h"

#include <algorithm>
#include <cmath>
#include <ranges>
#include <unordered_set>

namespace mlcache::policy {
namespace {

constexpr size_t kMaxGroups = 4096;
constexpr uint64_t kFewUnits = 8;
constexpr uint32_t kFailures = 4;     // windows in a row that were no epoch: it reads in another way
constexpr double kHigher = 1 + 1e-9;  // equal but for rounding is equal: what is there stays

}  // namespace

size_t EpochAwarePolicy::MarksHash::operator()(const Marks& marks) const {
  const uint64_t sets = (static_cast<uint64_t>(marks.member) << 32) | marks.parity;
  const uint64_t rest = marks.doubt | (marks.frequency << 2) | (marks.minor ? 32U : 0U) | (marks.history ? 64U : 0U);
  const uint64_t hash = (sets ^ (rest * 0x9E3779B97F4A7C15ULL)) * 0xD6E8FEB86659FD93ULL;
  return hash ^ (hash >> 32);
}

void EpochAwarePolicy::SetBytes(Item& item, uint64_t bytes) {
  bytes = std::min<uint64_t>(bytes, (uint64_t{1} << 48) - 1);
  item.bytes_low = static_cast<uint32_t>(bytes);
  item.bytes_high = static_cast<uint16_t>(bytes >> 32);
}

uint64_t EpochAwarePolicy::FifoTarget() const {
  // In a small cache that would be a handful, and gone before a second open of the same file.
  const uint64_t few = kFewUnits * (fifo_bytes_ + main_bytes_) / std::max<uint64_t>(1, fifo_units_ + main_units_);
  return std::max(static_cast<uint64_t>(options_.fifo_share * static_cast<double>(full_bytes_)),
                  std::min(few, full_bytes_ / 10));
}

EpochAwarePolicy::Units::List& EpochAwarePolicy::ListOf(const Item& item) {
  Group& group = groups_[item.group];
  return item.place == static_cast<uint16_t>(Place::kMain) ? group.main : group.others;
}

uint16_t EpochAwarePolicy::GroupOf(const Marks& marks) {
  if (const auto found = group_of_.find(marks); found != group_of_.end()) return found->second;
  Marks key = marks;
  const bool coarse = group_of_.size() >= kMaxGroups;
  if (coarse) {
    // Too many readers to tell every set apart: the first few, and how many of the others have it before them.
    key.member &= 0xF;
    key.parity &= 0xF;
    key.doubt = 0;
    key.frequency = 0;
    if (const auto found = group_of_.find(key); found != group_of_.end()) {
      groups_[found->second].coarse = true;
      return found->second;
    }
  }
  uint16_t index = 0;
  if (free_groups_.empty()) {
    index = static_cast<uint16_t>(groups_.size());
    groups_.emplace_back();
  } else {
    index = free_groups_.back();
    free_groups_.pop_back();
  }
  groups_[index] = {.marks = key, .coarse = coarse, .main = {}, .others = {}, .hazard = streams_.HazardOf(key)};
  group_of_.emplace(key, index);
  return index;
}

void EpochAwarePolicy::Link(Index index) {
  Item& item = units_[index];
  item.group = GroupOf(item.marks);
  units_.PushBack(ListOf(item), index);
}

void EpochAwarePolicy::Unlink(Index index) {
  const Item& item = units_[index];
  units_.Remove(ListOf(item), index);
  const Group& group = groups_[item.group];
  if (!group.main.empty() || !group.others.empty()) return;
  group_of_.erase(group.marks);
  free_groups_.push_back(item.group);
}

void EpochAwarePolicy::SetPlace(Index index, Place place) {
  Item& item = units_[index];
  const uint64_t bytes = BytesOf(item);
  const auto count = [&](Place which, int sign) {
    if (which == Place::kGhost) return;
    uint64_t& sum = which == Place::kFifo ? fifo_bytes_ : main_bytes_;
    uint64_t& number = which == Place::kFifo ? fifo_units_ : main_units_;
    sum = sign > 0 ? sum + bytes : sum - bytes;
    number = sign > 0 ? number + 1 : number - 1;
  };
  count(static_cast<Place>(item.place), -1);
  Unlink(index);
  item.place = static_cast<uint16_t>(place);
  Link(index);
  count(place, 1);
}

void EpochAwarePolicy::SetMarks(Index index, Marks marks) {
  marks.parity &= marks.member;
  if (units_[index].marks == marks) return;
  Unlink(index);
  units_[index].marks = marks;
  Link(index);
}

EpochAwarePolicy::Index EpochAwarePolicy::Know(const EvictionUnit& unit) {
  Index index = units_.Find(unit);
  if (index != Units::kNone) return index;
  // What is kept cannot be forgotten: an eighth of it more is remembered however much that is.
  const uint64_t kept = fifo_units_ + main_units_;
  if (units_.size() >= std::max<uint64_t>(options_.max_known, kept + kept / 8)) DropGhosts();
  index = units_.Insert(unit);
  if (unit.chunk != kWholeObject) {
    if (const Index whole = units_.Find({unit.object, kWholeObject}); whole != Units::kNone) {
      units_[index].shadow = 1;
      units_[index].marks = units_[whole].marks;
    }
  }
  Link(index);
  return index;
}

void EpochAwarePolicy::Drop(Index index) {
  if (units_[index].shadow == 0) streams_.Drop(units_[index].marks);
  Unlink(index);
  units_[index].place = static_cast<uint16_t>(Place::kGone);
  units_.Erase(index);
}

// Of what is not kept, the least likely to be read, an eighth of the limit at once.
void EpochAwarePolicy::DropGhosts() {
  std::vector<uint16_t> order;
  for (const auto& [marks, group] : group_of_) order.push_back(group);
  std::ranges::sort(order, {}, [&](uint16_t group) { return groups_[group].hazard; });
  std::vector<Index> gone;
  const size_t wanted = std::max<size_t>(1, options_.max_known / 8);
  for (const uint16_t group : order) {
    for (Index at = groups_[group].others.head; at != Units::kNone && gone.size() < wanted; at = units_.NextOf(at)) {
      if (units_[at].place == static_cast<uint16_t>(Place::kGhost)) gone.push_back(at);
    }
  }
  for (const Index index : gone) Drop(index);
  streams_.DropRereads();
}

template <typename Wanted, typename Change>
void EpochAwarePolicy::Walk(Wanted wanted, Change change) {
  std::vector<Index> found;
  for (const auto& [marks, number] : group_of_) {
    const Group& group = groups_[number];
    if (!group.coarse && !wanted(group.marks)) continue;
    for (const Units::List* list : {&group.main, &group.others}) {
      for (Index at = list->head; at != Units::kNone; at = units_.NextOf(at)) {
        if (wanted(units_[at].marks)) found.push_back(at);
      }
    }
  }
  for (const Index index : found) {
    Marks marks = units_[index].marks;
    change(marks, units_[index].shadow != 0);
    SetMarks(index, marks);
  }
}

void EpochAwarePolicy::Finish(int stream, EpochStreams::Event event) {
  const uint32_t bit = 1U << stream;
  switch (event) {
    case EpochStreams::Event::kNone:
      return;
    case EpochStreams::Event::kAdopt: {
      const uint32_t other = 1U << streams_.stream(stream).adopted;
      Walk([&](const Marks& marks) { return (marks.member & other) != 0 && (marks.member & bit) == 0; },
           [&](Marks& marks, bool shadow) {
             if (!shadow) streams_.Adopt(stream, marks);
           });
      break;
    }
    case EpochStreams::Event::kBoundary:
    case EpochStreams::Event::kRestart: {
      const std::vector<uint32_t> rereads = streams_.TakeRereads(stream);
      Walk([&](const Marks& marks) { return (marks.member & bit) != 0 && !streams_.Unread(stream, marks); },
           [&](Marks& marks, bool shadow) {
             if (shadow || event == EpochStreams::Event::kRestart) {
               streams_.Skip(stream, marks);
             } else {
               streams_.Miss(stream, marks);
             }
           });
      for (const uint32_t item : rereads) {
        if (units_[item].place == static_cast<uint16_t>(Place::kGone)) continue;
        Marks marks = units_[item].marks;
        streams_.MarkReread(stream, marks);
        SetMarks(item, marks);
      }
      break;
    }
  }
  refreshed_at_ = streams_.Now() - UINT32_MAX / 2;  // all hazards changed
}

void EpochAwarePolicy::Learn(Index index, const AccessHints& hints) {
  const EpochStreams::Slot slot = streams_.SlotOf(hints);
  if (slot.freed != kNoStream || slot.merged != 0) {
    const uint32_t freed = slot.freed == kNoStream ? 0 : 1U << slot.freed;
    Walk([&](const Marks& marks) { return (marks.member & (freed | slot.merged)) != 0; },
         [&](Marks& marks, bool shadow) {
           marks.member &= ~freed;
           if (shadow) marks.member &= ~slot.merged;
           if ((marks.member & slot.merged) != 0) streams_.Merge(slot.stream, slot.merged, marks);
         });
    streams_.EndMerge(slot.merged);
  }
  Item& item = units_[index];
  Marks marks = item.marks;
  const EpochStreams::Event event = streams_.Read(slot.stream, index, marks, item.last_read);
  SetMarks(index, marks);
  Finish(slot.stream, event);
  if (streams_.CoolDue()) {
    Walk([](const Marks& known) { return known.frequency > 0; },
         [&](Marks& known, bool shadow) {
           if (!shadow) streams_.Cool(known);
         });
  }
}

void EpochAwarePolicy::Touch(const EvictionUnit& unit, const AccessHints& hints) {
  if (hints.plain) return;
  if (unit.chunk == kWholeObject) {
    Learn(Know(unit), hints);
    return;
  }
  const Index whole = units_.Find({unit.object, kWholeObject});
  const Index index = whole != Units::kNone ? units_.Find(unit) : Know(unit);
  if (whole == Units::kNone) {
    Learn(index, hints);
    return;
  }
  // The whole counts; what is kept of it for now follows it.
  Learn(whole, hints);
  if (index != Units::kNone) SetMarks(index, units_[whole].marks);
}

// An object that became whole: what was learned of its chunks goes over to it.
void EpochAwarePolicy::MergeChunks(const EvictionUnit& whole, uint64_t bytes) {
  const bool known = units_.Find(whole) != Units::kNone;
  const auto chunks = static_cast<int64_t>((bytes + cache::kChunkBytes - 1) / cache::kChunkBytes);
  Marks marks;
  uint32_t last_read = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const Index index = units_.Find({whole.object, chunk});
    if (index == Units::kNone || units_[index].place != static_cast<uint16_t>(Place::kGhost)) continue;
    if (marks.member == 0) marks = units_[index].marks;
    last_read = units_[index].last_read;
    Drop(index);
  }
  if (known || marks.member == 0) return;
  const Index index = Know(whole);
  units_[index].last_read = last_read;
  Marks merged;
  merged.minor = marks.minor;
  for (int i = 0; i < kMaxStreams; ++i) {
    if ((marks.member & (1U << i)) != 0) streams_.Enter(i, streams_.Unread(i, marks), merged);
  }
  SetMarks(index, merged);
}

void EpochAwarePolicy::Track(const EvictionUnit& unit, uint64_t bytes, const AccessHints& hints) {
  if (unit.chunk == kWholeObject && bytes > cache::kChunkBytes) MergeChunks(unit, bytes);
  const Index index = Know(unit);
  Item& item = units_[index];
  if (item.place != static_cast<uint16_t>(Place::kGhost)) {
    uint64_t& sum = item.place == static_cast<uint16_t>(Place::kFifo) ? fifo_bytes_ : main_bytes_;
    sum = sum - BytesOf(item) + bytes;
    SetBytes(item, bytes);
  } else {
    SetBytes(item, bytes);
    Marks marks = item.marks;
    marks.minor =
        hints.object_class == cache::ObjectClass::kOneOff || hints.object_class == cache::ObjectClass::kCheckpoint;
    marks.history = marks.history || marks.member == 0;
    SetMarks(index, marks);
    SetPlace(index, Place::kFifo);
    fifo_.push_back(unit);
    if (fifo_.size() > 2 * fifo_units_ + 64) CompactFifo();
  }
  full_bytes_ = std::max(full_bytes_, fifo_bytes_ + main_bytes_);
  Settle();
}

void EpochAwarePolicy::Forget(const EvictionUnit& unit) {
  const Index index = units_.Find(unit);
  if (index == Units::kNone || units_[index].place == static_cast<uint16_t>(Place::kGhost)) return;
  SetPlace(index, Place::kGhost);
  SetBytes(units_[index], 0);
  // Nobody has read it, or what counts is the whole: nothing to remember.
  if (units_[index].shadow != 0 || units_[index].marks.member == 0) Drop(index);
}

uint64_t EpochAwarePolicy::Tracked(const EvictionUnit& unit) const {
  const Index index = units_.Find(unit);
  return index == Units::kNone ? 0 : BytesOf(units_[index]);
}

double EpochAwarePolicy::Hazard(Index index) const {
  const Group& group = groups_[units_[index].group];
  return group.coarse ? streams_.HazardOf(units_[index].marks) : group.hazard;
}

double EpochAwarePolicy::HazardOf(const EvictionUnit& unit) const {
  const Index index = units_.Find(unit);
  return index == Units::kNone ? 0 : streams_.HazardOf(units_[index].marks);
}

// Hazards change slowly: they are looked at again after a small part of the reads that it takes to change them.
void EpochAwarePolicy::Refresh() {
  const auto age = static_cast<size_t>(streams_.Now() - refreshed_at_);
  if (age < std::max<size_t>(1, units_.size() / 512)) return;
  refreshed_at_ = streams_.Now();
  streams_.Refresh(units_.size(), main_units_ + fifo_units_);
  for (Group& group : groups_) {
    if (!group.main.empty() || !group.others.empty()) group.hazard = streams_.HazardOf(group.marks);
  }
}

// Leaves of each unit that is in the FIFO its latest entry.
void EpochAwarePolicy::CompactFifo() {
  std::unordered_set<Index> seen;
  std::deque<EvictionUnit> latest;
  for (const EvictionUnit& unit : std::views::reverse(fifo_)) {
    const Index index = units_.Find(unit);
    const bool in = index != Units::kNone && units_[index].place == static_cast<uint16_t>(Place::kFifo);
    if (in && seen.insert(index).second) latest.push_front(unit);
  }
  fifo_.swap(latest);
}

EpochAwarePolicy::Index EpochAwarePolicy::FifoFront() {
  while (!fifo_.empty()) {
    const Index index = units_.Find(fifo_.front());
    if (index != Units::kNone && units_[index].place == static_cast<uint16_t>(Place::kFifo)) return index;
    fifo_.pop_front();
  }
  return Units::kNone;
}

// While there is room, what leaves the FIFO stays.
void EpochAwarePolicy::Settle() {
  while (fifo_units_ > 1 && fifo_bytes_ > FifoTarget()) {
    const Index front = FifoFront();
    if (main_bytes_ + BytesOf(units_[front]) > MainTarget()) return;
    fifo_.pop_front();
    SetPlace(front, Place::kMain);
  }
}

EpochAwarePolicy::Index EpochAwarePolicy::Cheapest() const {
  const Group* lowest = nullptr;
  for (const Group& group : groups_) {
    if (!group.main.empty() && (lowest == nullptr || group.hazard < lowest->hazard)) lowest = &group;
  }
  return lowest == nullptr ? Units::kNone : lowest->main.head;
}

std::vector<EvictionUnit> EpochAwarePolicy::ChooseVictims(uint64_t bytes) {
  std::vector<EvictionUnit> victims;
  if (bytes == 0) return victims;
  const uint64_t kept = fifo_bytes_ + main_bytes_;
  // What is reserved just now is no reason to shrink at once.
  full_bytes_ = std::max(kept, full_bytes_ - (full_bytes_ - std::min(full_bytes_, kept)) / 64);
  Refresh();
  for (uint64_t freed = 0; freed < bytes && fifo_units_ + main_units_ > 0;) {
    const Index front = FifoFront();
    const Index cheapest = Cheapest();
    const bool main_first =
        front == Units::kNone ||
        (cheapest != Units::kNone && (fifo_bytes_ < FifoTarget() / 2 || main_bytes_ > MainTarget() + bytes));
    Index victim = front;
    if (main_first) {
      victim = cheapest;
    } else if (cheapest != Units::kNone && Hazard(front) > Hazard(cheapest) * kHigher) {
      victim = cheapest;
      fifo_.pop_front();
      SetPlace(front, Place::kMain);
    }
    const EvictionUnit unit = units_.UnitOf(victim);
    freed += BytesOf(units_[victim]);
    victims.push_back(unit);
    Forget(unit);
  }
  return victims;
}

EpochAwarePolicy::Verdict EpochAwarePolicy::VerdictOf(uint64_t dataset) const {
  Verdict verdict;
  for (int i = 0; i < kMaxStreams; ++i) {
    const EpochStreams::Stream& stream = streams_.stream(i);
    if (stream.key == 0 || stream.dataset != dataset) continue;
    verdict.epochs = verdict.epochs || stream.mode == EpochStreams::Mode::kEpoch;
    verdict.no_epochs = verdict.no_epochs || stream.failures >= kFailures;
  }
  return verdict;
}

}  // namespace mlcache::policy
