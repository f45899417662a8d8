#include "cached/cache/budget.h"

#include <glog/logging.h>

namespace mlcache::cache {

bool Budget::TryCharge(uint64_t bytes) {
  const std::scoped_lock lock(mutex_);
  const uint64_t used = charged_bytes_ + overhead_bytes_;
  if (used > capacity_bytes_ || bytes > capacity_bytes_ - used) return false;
  charged_bytes_ += bytes;
  return true;
}

void Budget::ForceCharge(uint64_t bytes) {
  const std::scoped_lock lock(mutex_);
  charged_bytes_ += bytes;
}

void Budget::Release(uint64_t bytes) {
  const std::scoped_lock lock(mutex_);
  CHECK_GE(charged_bytes_, bytes);
  charged_bytes_ -= bytes;
}

void Budget::SetOverhead(uint64_t bytes) {
  const std::scoped_lock lock(mutex_);
  overhead_bytes_ = bytes;
}

uint64_t Budget::Shortage(uint64_t bytes) const {
  const std::scoped_lock lock(mutex_);
  const uint64_t wanted = charged_bytes_ + overhead_bytes_ + bytes;
  return wanted > capacity_bytes_ ? wanted - capacity_bytes_ : 0;
}

uint64_t Budget::UsedBytes() const {
  const std::scoped_lock lock(mutex_);
  return charged_bytes_ + overhead_bytes_;
}

uint64_t Budget::FreeBytes() const {
  const std::scoped_lock lock(mutex_);
  const uint64_t used = charged_bytes_ + overhead_bytes_;
  return used < capacity_bytes_ ? capacity_bytes_ - used : 0;
}

uint64_t Budget::MostChargeable() const {
  const std::scoped_lock lock(mutex_);
  return overhead_bytes_ < capacity_bytes_ ? capacity_bytes_ - overhead_bytes_ : 0;
}

}  // namespace mlcache::cache
