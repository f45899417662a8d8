// What may enter a tier at all, as a seam. Pure; the caller serialises.
#pragma once

#include <cstdint>

#include "cached/cache/object_cache.h"

namespace mlcache::cache {

class AdmissionPolicy {
 public:
  virtual ~AdmissionPolicy() = default;

  // Whether `bytes` of an object may be kept.
  virtual bool Admit(const ObjectKey& key, uint64_t bytes, const AccessHints& hints) = 0;
};

// Keeps whatever the caller wants kept.
class AdmitAsAsked final : public AdmissionPolicy {
 public:
  bool Admit(const ObjectKey& /*key*/, uint64_t /*bytes*/, const AccessHints& hints) override { return hints.keep; }
};

}  // namespace mlcache::cache
