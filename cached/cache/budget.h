// The hard budget of a tier. Everything is charged before it is written and given back only when the space is free
// again, so what the directory takes never passes the capacity. *Overhead* is what the index, state and directories
// take: it is measured and follows its own growth, ahead of it by a margin. Thread-safe.
#pragma once

#include <cstdint>
#include <mutex>

namespace mlcache::cache {

// File systems hand out space in blocks of this size.
inline constexpr uint64_t kFileBlockBytes = 4096;

constexpr uint64_t RoundToFileBlocks(uint64_t bytes) {
  return (bytes + kFileBlockBytes - 1) / kFileBlockBytes * kFileBlockBytes;
}

class Budget {
 public:
  explicit Budget(uint64_t capacity_bytes) : capacity_bytes_(capacity_bytes) {}
  Budget(const Budget&) = delete;
  Budget& operator=(const Budget&) = delete;

  uint64_t capacity_bytes() const { return capacity_bytes_; }

  // False, and nothing charged, when it would pass the capacity.
  bool TryCharge(uint64_t bytes);

  // For what already takes the space (found at start, or larger than was thought). May create a deficit.
  void ForceCharge(uint64_t bytes);

  void Release(uint64_t bytes);

  // Replaces the overhead. May create a deficit, which the margin in the overhead covers until something is evicted.
  void SetOverhead(uint64_t bytes);

  // What would have to be released before `bytes` more can be charged; 0 when they can be at once.
  uint64_t Shortage(uint64_t bytes) const;

  uint64_t UsedBytes() const;  // charged and overhead
  uint64_t FreeBytes() const;
  // The most that could be charged if everything charged were released.
  uint64_t MostChargeable() const;

 private:
  const uint64_t capacity_bytes_;
  mutable std::mutex mutex_;
  uint64_t charged_bytes_ = 0;
  uint64_t overhead_bytes_ = 0;
};

}  // namespace mlcache::cache
