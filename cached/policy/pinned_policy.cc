#include "cached/policy/pinned_policy.h"

#include <algorithm>

namespace mlcache::policy {

void PinnedPolicy::Track(const EvictionUnit& unit, uint64_t bytes, const AccessHints& /*hints*/) {
  auto index = units_.Find(unit);
  if (index == Units::kNone) {
    index = units_.Insert(unit);
    units_.PushBack(fifo_, index);
  }
  Item& item = units_[index];
  uint64_t& sum = item.stays != 0 ? stay_bytes_ : fifo_bytes_;
  sum = sum - item.bytes + bytes;
  item.bytes = bytes;
  full_bytes_ = std::max(full_bytes_, fifo_bytes_ + stay_bytes_);
  Settle();
}

void PinnedPolicy::Settle() {
  while (fifo_.count > 1 && fifo_bytes_ > FifoTarget()) {
    const auto front = fifo_.head;
    Item& item = units_[front];
    if (stay_bytes_ + item.bytes > full_bytes_ - FifoTarget()) return;
    units_.Remove(fifo_, front);
    units_.PushBack(stay_, front);
    item.stays = 1;
    fifo_bytes_ -= item.bytes;
    stay_bytes_ += item.bytes;
  }
}

void PinnedPolicy::Forget(const EvictionUnit& unit) {
  const auto index = units_.Find(unit);
  if (index == Units::kNone) return;
  const Item& item = units_[index];
  units_.Remove(item.stays != 0 ? stay_ : fifo_, index);
  (item.stays != 0 ? stay_bytes_ : fifo_bytes_) -= item.bytes;
  units_.Erase(index);
}

std::vector<EvictionUnit> PinnedPolicy::ChooseVictims(uint64_t bytes) {
  std::vector<EvictionUnit> victims;
  if (bytes == 0) return victims;
  const uint64_t kept = fifo_bytes_ + stay_bytes_;
  full_bytes_ = std::max(kept, full_bytes_ - (full_bytes_ - std::min(full_bytes_, kept)) / 64);
  uint64_t freed = 0;
  while (freed < bytes && units_.size() > 0) {
    // The newest of those that stay, when the budget has shrunk.
    const bool too_much = stay_bytes_ > full_bytes_ - FifoTarget() + bytes || fifo_bytes_ < FifoTarget() / 2;
    const auto index = fifo_.empty() || (too_much && !stay_.empty()) ? stay_.tail : fifo_.head;
    const EvictionUnit unit = units_.UnitOf(index);
    freed += units_[index].bytes;
    victims.push_back(unit);
    Forget(unit);
  }
  return victims;
}

uint64_t PinnedPolicy::Tracked(const EvictionUnit& unit) const {
  const auto index = units_.Find(unit);
  return index == Units::kNone ? 0 : units_[index].bytes;
}

}  // namespace mlcache::policy
