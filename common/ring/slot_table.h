// Who owns each slot of an arena: nobody, the daemon or the shim. Lives in the daemon's private memory, so a shim can
// give back only what it was given. Thread-safe. Internal to common/ring.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

#include "common/ring/layout.h"

namespace mlcache::ring {

class SlotTable {
 public:
  explicit SlotTable(const Layout& layout);

  // A free slot of at least `bytes`, now the daemon's. A small wish takes a large slot when the small ones are gone, so
  // that bursts of small reads do not wait; never the other way round. The slot last given back comes first: its pages
  // are allocated and perhaps still in the processor's cache.
  std::optional<uint32_t> Acquire(uint32_t bytes);

  // The daemon's → free. CHECKs that it was the daemon's.
  void Release(uint32_t slot);

  // The daemon's → the shim's. CHECKs that it was the daemon's.
  void Send(uint32_t slot);

  // The shim's → free; false if the number is no slot of the shim's.
  bool TakeBack(uint64_t slot);

  uint32_t InUse() const { return in_use_.load(std::memory_order_relaxed); }

 private:
  enum class Owner : uint8_t { kNobody, kDaemon, kShim };

  void Free(uint32_t slot);  // with mutex_ held

  const Layout layout_;
  std::mutex mutex_;
  std::vector<Owner> owners_;         // guarded by mutex_
  std::vector<uint32_t> free_small_;  // guarded by mutex_
  std::vector<uint32_t> free_large_;  // guarded by mutex_
  std::atomic<uint32_t> in_use_ = 0;  // written with mutex_ held
};

}  // namespace mlcache::ring
