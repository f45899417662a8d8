#include "cached/policy/s3_fifo_policy.h"

#include <algorithm>

namespace mlcache::policy {
namespace {

constexpr uint64_t kMostReads = 3;
constexpr uint64_t kLargeShare = 64;  // of the budget: a 64th is large

uint32_t NameOf(const EvictionUnit& unit) { return static_cast<uint32_t>(MixedHash(unit) >> 32); }

}  // namespace

void S3FifoPolicy::Track(const EvictionUnit& unit, uint64_t bytes, const AccessHints& hints) {
  if (const auto found = units_.Find(unit); found != Units::kNone) {
    Item& item = units_[found];
    uint64_t& sum = item.main != 0 ? main_bytes_ : small_bytes_;
    sum = sum - item.bytes + bytes;
    item.bytes = bytes;
    return;
  }
  const auto index = units_.Insert(unit);
  Item& item = units_[index];
  item.bytes = bytes;
  const bool minor =
      hints.object_class == cache::ObjectClass::kOneOff || hints.object_class == cache::ObjectClass::kCheckpoint;
  item.needed = minor || bytes > capacity_bytes_ / kLargeShare ? 2 : 1;
  const bool known = ghosts_.erase(NameOf(unit)) > 0;
  item.main = known && !minor ? 1 : 0;
  units_.PushBack(item.main != 0 ? main_ : small_, index);
  (item.main != 0 ? main_bytes_ : small_bytes_) += bytes;
}

void S3FifoPolicy::Touch(const EvictionUnit& unit, const AccessHints& /*hints*/) {
  const auto index = units_.Find(unit);
  if (index == Units::kNone) return;
  Item& item = units_[index];
  if (item.reads < kMostReads) ++item.reads;
}

void S3FifoPolicy::Unlink(Units::Index index) {
  const Item& item = units_[index];
  units_.Remove(item.main != 0 ? main_ : small_, index);
  (item.main != 0 ? main_bytes_ : small_bytes_) -= item.bytes;
}

void S3FifoPolicy::Forget(const EvictionUnit& unit) {
  const auto index = units_.Find(unit);
  if (index == Units::kNone) return;
  Unlink(index);
  units_.Erase(index);
}

void S3FifoPolicy::Remember(const EvictionUnit& unit) {
  if (ghosts_.insert(NameOf(unit)).second) ghost_order_.push_back(NameOf(unit));
  while (ghost_order_.size() > std::max<size_t>(main_.count + small_.count, 16)) {
    ghosts_.erase(ghost_order_.front());
    ghost_order_.pop_front();
  }
}

std::vector<EvictionUnit> S3FifoPolicy::ChooseVictims(uint64_t bytes) {
  std::vector<EvictionUnit> victims;
  uint64_t freed = 0;
  while (freed < bytes && (!small_.empty() || !main_.empty())) {
    const auto small_target = static_cast<uint64_t>(small_share_ * static_cast<double>(small_bytes_ + main_bytes_));
    const bool from_small = main_.empty() || (!small_.empty() && small_bytes_ >= small_target);
    const auto index = from_small ? small_.head : main_.head;
    Item& item = units_[index];
    if (from_small ? item.reads >= item.needed : item.reads > 0) {
      Unlink(index);
      item.reads = from_small ? 0 : item.reads - 1;
      item.main = 1;
      units_.PushBack(main_, index);
      main_bytes_ += item.bytes;
      continue;
    }
    const EvictionUnit unit = units_.UnitOf(index);
    freed += item.bytes;
    if (from_small) Remember(unit);
    victims.push_back(unit);
    Forget(unit);
  }
  return victims;
}

uint64_t S3FifoPolicy::Tracked(const EvictionUnit& unit) const {
  const auto index = units_.Find(unit);
  return index == Units::kNone ? 0 : units_[index].bytes;
}

}  // namespace mlcache::policy
