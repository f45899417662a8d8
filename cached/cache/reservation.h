// Room charged to a tier's budget for a fill. Owned by one thread at a time.
#pragma once

#include <cstdint>

#include "cached/cache/object_cache.h"
#include "cached/cache/tier.h"

namespace mlcache::cache {

class Room final : public Reservation {
 public:
  Room(Tier& tier, uint64_t bytes, AccessHints hints) : tier_(&tier), bytes_(bytes), hints_(std::move(hints)) {}
  Room(const Room&) = delete;
  Room& operator=(const Room&) = delete;
  ~Room() override { tier_->budget().Release(bytes_); }

  const AccessHints& hints() const { return hints_; }

  // Takes `bytes` of what is reserved, for `tier`; what was reserved in another tier is exchanged if that has room.
  // The charge is the caller's from then on. False when there is not enough.
  bool Take(Tier& tier, uint64_t bytes) {
    if (bytes > bytes_ || (&tier != tier_ && !tier.budget().TryCharge(bytes))) return false;
    if (&tier != tier_) tier_->budget().Release(bytes);
    bytes_ -= bytes;
    return true;
  }

  Tier& tier() const { return *tier_; }

 private:
  Tier* const tier_;
  uint64_t bytes_;
  const AccessHints hints_;
};

}  // namespace mlcache::cache
