#include "cached/prefetch/plan_order.h"

#include <algorithm>
#include <limits>

namespace mlcache::prefetch {
namespace {

// Reads by which any reader may be late.
constexpr uint64_t kSlack = 64;

}  // namespace

bool PlanOrder::Append(std::string_view path) {
  if (files_.size() >= std::numeric_limits<Place>::max() - 1) return false;
  const std::optional<PathTable::Id> file = paths_.Intern(path);
  if (!file) return false;
  const auto place = static_cast<Place>(files_.size());
  if (*file >= first_.size()) {
    first_.push_back(kNone);
    last_.push_back(kNone);
  }
  files_.push_back(*file);
  next_same_.push_back(kNone);
  if (last_[*file] != kNone) next_same_[last_[*file]] = place;
  if (first_[*file] == kNone) first_[*file] = place;
  last_[*file] = place;
  return true;
}

void PlanOrder::Reach(size_t end) {
  end = std::min(end, files_.size());
  if (begin_ + window_.size() < end) window_.resize(end - begin_);
}

// The first place of the file that was not read; kNone when there is none.
PlanOrder::Place PlanOrder::Expected(PathTable::Id file) {
  Place& first = first_[file];
  while (first != kNone && first < begin_) first = next_same_[first];
  Place place = first;
  while (place != kNone && InWindow(place) && SlotAt(place).state == State::kDone) place = next_same_[place];
  return place;
}

std::optional<size_t> PlanOrder::Distance(std::string_view path) {
  const std::optional<PathTable::Id> file = paths_.Find(path);
  const Place place = file ? Expected(*file) : kNone;
  if (place == kNone) return std::nullopt;
  return std::max<size_t>(place, read_until_) - std::min<size_t>(place, read_until_);
}

std::optional<PlanOrder::Left> PlanOrder::Use(std::string_view path, std::vector<Left>& skipped) {
  const std::optional<PathTable::Id> file = paths_.Find(path);
  if (!file) return std::nullopt;
  const Place place = Expected(*file);
  if (place == kNone) return std::nullopt;
  ++reads_;
  if (reads_ % kLagPeriod == 0) lag_ = {0, lag_[0]};
  if (place >= read_until_ + options_.ahead) {
    if (!strays_.empty() && std::max(strays_.back(), place) - std::min(strays_.back(), place) >= options_.ahead) {
      strays_.clear();
    }
    if (std::ranges::find(strays_, place) == strays_.end()) strays_.push_back(place);
    if (strays_.size() < options_.agreeing) return std::nullopt;
    Jump(skipped);
  }
  strays_.clear();
  Reach(place + 1);
  const Left read{.place = place, .state = SlotAt(place).state};
  Consume(place);
  Advance(false, skipped);
  return read;
}

void PlanOrder::Consume(Place place) {
  Slot& slot = SlotAt(place);
  if (place < read_until_) lag_[0] = std::max(lag_[0], reads_ - slot.passed_at);
  slot.state = State::kDone;
  ++done_in_window_;
  for (size_t passed = std::max(read_until_, begin_); passed < place; ++passed) {
    SlotAt(static_cast<Place>(passed)).passed_at = reads_;
  }
  read_until_ = std::max<size_t>(read_until_, place + 1);
}

// The reader is where the last strays are, and has read them.
void PlanOrder::Jump(std::vector<Left>& skipped) {
  const Place begin = std::ranges::min(strays_);
  while (begin_ < begin && !window_.empty()) LeaveFirst(skipped);
  begin_ = std::max<size_t>(begin_, begin);
  read_until_ = std::max(read_until_, begin_);
  next_claim_ = std::max(next_claim_, begin_);
  Reach(size_t{std::ranges::max(strays_)} + 1);
  strays_.pop_back();  // the one that is read now is its caller's
  for (const Place place : strays_) Consume(place);
}

void PlanOrder::LeaveFirst(std::vector<Left>& skipped) {
  const State state = window_.front().state;
  if (state == State::kDone) {
    --done_in_window_;
  } else {
    skipped.push_back({.place = static_cast<Place>(begin_), .state = state});
  }
  window_.pop_front();
  ++begin_;
}

void PlanOrder::Advance(bool pressed, std::vector<Left>& skipped) {
  const uint64_t lagging = kSlack + 2 * std::max(lag_[0], lag_[1]);
  const uint64_t patience = pressed ? std::min<uint64_t>(options_.skipped_after, lagging) : options_.skipped_after;
  while (!window_.empty()) {
    const Slot& first = window_.front();
    const bool passed = begin_ < read_until_ && reads_ - first.passed_at > patience;
    // However few are seen: the window has a bound.
    const bool far = begin_ + 2 * options_.skipped_after < read_until_;
    if (first.state != State::kDone && !passed && !far) break;
    LeaveFirst(skipped);
  }
  next_claim_ = std::max(next_claim_, begin_);
}

// Whether an earlier place brings the same file.
bool PlanOrder::Brought(Place place) const {
  for (Place other = first_[files_[place]]; other != kNone && other < place; other = next_same_[other]) {
    if (!InWindow(other)) continue;
    const State state = SlotAt(other).state;
    if (state == State::kFetching || state == State::kFetched || state == State::kPresent) return true;
  }
  return false;
}

// Slides the counts to the places from next_claim_.
void PlanOrder::CountNear() {
  near_counts_.resize(paths_.directories());
  const auto directory = [&](size_t place) { return paths_.Directory(files_[place]); };
  if (next_claim_ > near_end_) {  // after a jump
    while (near_begin_ < near_end_) --near_counts_[directory(near_begin_++)];
    near_begin_ = near_end_ = next_claim_;
  }
  while (near_begin_ < next_claim_) --near_counts_[directory(near_begin_++)];
  const size_t end = std::min(files_.size(), next_claim_ + options_.near);
  while (near_end_ < end) ++near_counts_[directory(near_end_++)];
}

std::optional<PlanOrder::Claimed> PlanOrder::Claim() {
  const size_t end = std::min(files_.size(), read_until_ + options_.ahead);
  for (; next_claim_ < end; ++next_claim_) {
    const auto place = static_cast<Place>(next_claim_);
    Reach(next_claim_ + 1);
    Slot& slot = SlotAt(place);
    if (slot.state != State::kWaiting) continue;
    if (Brought(place)) {
      slot.state = State::kPresent;
      continue;
    }
    CountNear();
    slot.state = State::kFetching;
    ++next_claim_;
    return Claimed{.place = place, .path = Path(place), .together = near_counts_[paths_.Directory(files_[place])]};
  }
  return std::nullopt;
}

bool PlanOrder::Settle(Place place, State state) {
  if (!IsFetching(place)) return false;
  SlotAt(place).state = state;
  return true;
}

std::optional<PlanOrder::Place> PlanOrder::Adopt(std::string_view path) {
  const std::optional<PathTable::Id> file = paths_.Find(path);
  if (!file) return std::nullopt;
  const Place place = Expected(*file);
  if (place == kNone || place >= read_until_ + options_.ahead) return std::nullopt;
  Reach(size_t{place} + 1);
  Slot& slot = SlotAt(place);
  if (slot.state != State::kWaiting) return std::nullopt;
  slot.state = State::kFetched;
  return place;
}

}  // namespace mlcache::prefetch
