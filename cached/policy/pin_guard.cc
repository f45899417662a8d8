#include "cached/policy/pin_guard.h"

namespace mlcache::policy {

using cache::AccessHints;
using cache::EvictionUnit;

void PinGuard::Pin(const cache::ObjectId& object, uint32_t chunks) {
  Held& held = pinned_[object];
  for (int64_t chunk = cache::kWholeObject; chunk < static_cast<int64_t>(chunks); ++chunk) {
    const uint64_t bytes = policy_->Tracked({.object = object, .chunk = chunk});
    if (bytes == 0) continue;
    policy_->Forget({.object = object, .chunk = chunk});
    held[chunk] = bytes;
    pinned_bytes_ += bytes;
  }
}

void PinGuard::Unpin(const cache::ObjectId& object) {
  const auto found = pinned_.find(object);
  if (found == pinned_.end()) return;
  const Held held = std::move(found->second);
  pinned_.erase(found);
  for (const auto& [chunk, bytes] : held) {
    pinned_bytes_ -= bytes;
    policy_->Track({.object = object, .chunk = chunk}, bytes, {});
  }
}

void PinGuard::Track(const EvictionUnit& unit, uint64_t bytes, const AccessHints& hints) {
  const auto found = pinned_.find(unit.object);
  if (found == pinned_.end()) {
    policy_->Track(unit, bytes, hints);
    return;
  }
  uint64_t& held = found->second[unit.chunk];
  pinned_bytes_ = pinned_bytes_ - held + bytes;
  held = bytes;
}

void PinGuard::Touch(const EvictionUnit& unit, const AccessHints& hints) { policy_->Touch(unit, hints); }

void PinGuard::Forget(const EvictionUnit& unit) {
  const auto found = pinned_.find(unit.object);
  if (found == pinned_.end()) {
    policy_->Forget(unit);
    return;
  }
  if (const auto held = found->second.find(unit.chunk); held != found->second.end()) {
    pinned_bytes_ -= held->second;
    found->second.erase(held);
  }
}

uint64_t PinGuard::Tracked(const EvictionUnit& unit) const {
  const auto found = pinned_.find(unit.object);
  if (found == pinned_.end()) return policy_->Tracked(unit);
  const auto held = found->second.find(unit.chunk);
  return held == found->second.end() ? 0 : held->second;
}

}  // namespace mlcache::policy
