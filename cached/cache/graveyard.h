// Unlinked object files that somebody may still have open or mapped: a complete file may have been lent
// (object_cache.h), and a mapping outlives the descriptor, the mount and the session it came from. Their space stays
// charged until nobody can reach them. Thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "cached/cache/budget.h"
#include "cached/cache/object_file.h"
#include "common/clock.h"

namespace mlcache::cache {

// True when nobody but the holder of `fd` has the file open or mapped: the kernel grants a write lease then, and only
// then (fcntl(2), F_SETLEASE). `fd` must be the only descriptor of this process. An opener in the same instant makes
// the kernel send SIGIO, which the process must ignore. Where leases are not known (some network file systems): true.
bool IsUsedByNobodyElse(int fd);

class Graveyard {
 public:
  explicit Graveyard(Budget& budget) : budget_(budget) {}  // borrowed

  // `file` was unlinked; `bytes` are charged for it, and given back now if nobody else has it.
  void Bury(std::shared_ptr<ObjectFile> file, uint64_t bytes);

  // Gives back what has come free since; how many bytes. kHopeful looks only at those of HopefulBytes.
  enum class Which : uint8_t { kAll, kHopeful };
  uint64_t Reap(Which which);

  // Of those buried so lately that their users, who were told to let go, may well do so now.
  uint64_t HopefulBytes() const;

  uint64_t Bytes() const;

 private:
  struct Grave {
    std::shared_ptr<ObjectFile> file;
    uint64_t bytes = 0;
    Nanos buried_at{};

    bool IsFree() const { return file.use_count() == 1 && IsUsedByNobodyElse(file->fd()); }
    bool IsHopeful(Nanos now) const;
  };

  Budget& budget_;
  mutable std::mutex mutex_;
  std::vector<Grave> graves_;  // guarded by mutex_
};

}  // namespace mlcache::cache
