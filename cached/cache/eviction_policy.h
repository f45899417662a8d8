// What leaves a full tier, as a seam. A *unit* is what can leave on its own: a whole object (complete, or of one
// chunk), or one chunk of a larger object that is not complete. Pure: no I/O, no clock, no lock; the caller serialises.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "cached/cache/object_cache.h"

namespace mlcache::cache {

inline constexpr int64_t kWholeObject = -1;

struct EvictionUnit {
  ObjectId object{};
  int64_t chunk = kWholeObject;
  bool operator==(const EvictionUnit&) const = default;
};

struct ObjectIdHash {
  size_t operator()(const ObjectId& id) const {
    size_t hash = 0;
    std::memcpy(&hash, id.data(), sizeof(hash));
    return hash;
  }
};

struct EvictionUnitHash {
  size_t operator()(const EvictionUnit& unit) const {
    return ObjectIdHash()(unit.object) ^ (static_cast<size_t>(unit.chunk) * 0x9E3779B97F4A7C15ULL);
  }
};

class EvictionPolicy {
 public:
  virtual ~EvictionPolicy() = default;

  // `unit` now takes `bytes`: a new unit, or one that grew or shrank. Whether that counts as an access is the policy's
  // affair: a reader's are told by Touch too, prefetch and warm-up only track.
  virtual void Track(const EvictionUnit& unit, uint64_t bytes, const AccessHints& hints) = 0;

  // A reader's access to a unit, also to one that is not tracked: whoever reads it again may be worth remembering.
  virtual void Touch(const EvictionUnit& unit, const AccessHints& hints) = 0;

  // The unit is gone; without effect when it is not tracked.
  virtual void Forget(const EvictionUnit& unit) = 0;

  // The units to drop so that at least `bytes` become free, all of them when that is not enough. They are forgotten.
  virtual std::vector<EvictionUnit> ChooseVictims(uint64_t bytes) = 0;

  // The bytes that `unit` is tracked with; 0 when it is not.
  virtual uint64_t Tracked(const EvictionUnit& unit) const = 0;
};

}  // namespace mlcache::cache
