// Which directories have a LOOKUP or READDIR with the daemon. The kernel holds the directory's lock meanwhile, and a
// notification about one of its entries would wait for that lock, so it is better sent later. Directories are counted
// by hash: a false "busy" only delays. Thread-safe, lock-free.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "common/ring/wire.h"

namespace mlcache::shim {

class DirectoryLocks {
 public:
  static bool Holds(ring::Op op) { return op == ring::Op::kLookup || op == ring::Op::kReadDir; }

  void Enter(uint64_t directory) { Count(directory).fetch_add(1, std::memory_order_relaxed); }
  void Leave(uint64_t directory) { Count(directory).fetch_sub(1, std::memory_order_relaxed); }
  bool IsBusy(uint64_t directory) { return Count(directory).load(std::memory_order_relaxed) > 0; }

 private:
  static constexpr size_t kBuckets = 1024;

  std::atomic<int32_t>& Count(uint64_t directory) {
    return counts_[(directory * 0x9e3779b97f4a7c15U >> 32) % kBuckets];
  }

  std::array<std::atomic<int32_t>, kBuckets> counts_{};
};

}  // namespace mlcache::shim
