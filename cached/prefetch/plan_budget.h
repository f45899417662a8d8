// How many bytes the plans of all mounts may have fetched, or be fetching, that nobody has read yet. Shared evenly
// among the mounts that have a plan. Thread-safe; a leaf lock.
#pragma once

#include <algorithm>
#include <cstdint>
#include <mutex>

namespace mlcache::prefetch {

class PlanBudget {
 public:
  explicit PlanBudget(uint64_t total_bytes) : total_(total_bytes) {}

  void Join() {
    const std::scoped_lock lock(mutex_);
    ++members_;
  }
  void Leave() {
    const std::scoped_lock lock(mutex_);
    --members_;
  }

  uint64_t ShareBytes() const {
    const std::scoped_lock lock(mutex_);
    return total_ / std::max<uint64_t>(1, members_);
  }

  // Takes `bytes` for a member that holds `held` already, as far as its share and the whole allow.
  bool Take(uint64_t held, uint64_t bytes) {
    const std::scoped_lock lock(mutex_);
    if (held + bytes > total_ / std::max<uint64_t>(1, members_) || used_ + bytes > total_) return false;
    used_ += bytes;
    return true;
  }
  void Give(uint64_t bytes) {
    const std::scoped_lock lock(mutex_);
    used_ -= bytes;
  }

  uint64_t used_bytes() const {
    const std::scoped_lock lock(mutex_);
    return used_;
  }

 private:
  const uint64_t total_;
  mutable std::mutex mutex_;
  uint64_t members_ = 0;  // guarded by mutex_
  uint64_t used_ = 0;     // guarded by mutex_
};

}  // namespace mlcache::prefetch
