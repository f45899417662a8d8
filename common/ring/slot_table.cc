#include "common/ring/slot_table.h"

#include <glog/logging.h>

#include "common/ring/wire.h"

namespace mlcache::ring {

SlotTable::SlotTable(const Layout& layout) : layout_(layout), owners_(layout.SlotCount(), Owner::kNobody) {
  // Highest number first, so that the lowest is handed out first and the arena is touched from its beginning.
  for (uint32_t slot = layout.SlotCount(); slot-- > 0;) {
    (layout.IsSmall(slot) ? free_small_ : free_large_).push_back(slot);
  }
}

std::optional<uint32_t> SlotTable::Acquire(uint32_t bytes) {
  if (bytes > kMaxReadBytes) return std::nullopt;
  const std::scoped_lock lock(mutex_);
  std::vector<uint32_t>& free = bytes <= kSmallSlotBytes && !free_small_.empty() ? free_small_ : free_large_;
  if (free.empty()) return std::nullopt;
  const uint32_t slot = free.back();
  free.pop_back();
  owners_[slot] = Owner::kDaemon;
  in_use_.fetch_add(1, std::memory_order_relaxed);
  return slot;
}

void SlotTable::Release(uint32_t slot) {
  const std::scoped_lock lock(mutex_);
  CHECK(slot < owners_.size() && owners_[slot] == Owner::kDaemon) << "slot " << slot << " released, but not held";
  Free(slot);
}

void SlotTable::Send(uint32_t slot) {
  const std::scoped_lock lock(mutex_);
  CHECK(slot < owners_.size() && owners_[slot] == Owner::kDaemon) << "slot " << slot << " sent, but not held";
  owners_[slot] = Owner::kShim;
}

bool SlotTable::TakeBack(uint64_t slot) {
  const std::scoped_lock lock(mutex_);
  if (slot >= owners_.size() || owners_[slot] != Owner::kShim) return false;
  Free(static_cast<uint32_t>(slot));
  return true;
}

void SlotTable::Free(uint32_t slot) {
  owners_[slot] = Owner::kNobody;
  (layout_.IsSmall(slot) ? free_small_ : free_large_).push_back(slot);
  in_use_.fetch_sub(1, std::memory_order_relaxed);
}

}  // namespace mlcache::ring
