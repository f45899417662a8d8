#include "cached/cache/graveyard.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace mlcache::cache {
namespace {

// How long whoever was told to let go of a file is given before others are evicted instead.
constexpr Nanos kHope = std::chrono::milliseconds(200);

}  // namespace

bool IsUsedByNobodyElse(int fd) {
  if (::fcntl(fd, F_SETLEASE, F_WRLCK) == 0) {
    ::fcntl(fd, F_SETLEASE, F_UNLCK);
    return true;
  }
  return errno != EAGAIN && errno != EBUSY;
}

void Graveyard::Bury(std::shared_ptr<ObjectFile> file, uint64_t bytes) {
  const std::scoped_lock lock(mutex_);
  graves_.push_back({.file = std::move(file), .bytes = bytes, .buried_at = SystemClock().Now()});
}

uint64_t Graveyard::Reap() {
  std::vector<Grave> free;  // closed without the lock
  uint64_t bytes = 0;
  {
    const std::scoped_lock lock(mutex_);
    const auto used = std::ranges::partition(graves_, [](const Grave& grave) {
      return grave.file.use_count() > 1 || !IsUsedByNobodyElse(grave.file->fd());
    });
    std::ranges::move(used, std::back_inserter(free));
    graves_.erase(used.begin(), used.end());
  }
  for (Grave& grave : free) {
    bytes += grave.bytes;
    grave.file.reset();
    budget_.Release(grave.bytes);
  }
  return bytes;
}

uint64_t Graveyard::HopefulBytes() const {
  const std::scoped_lock lock(mutex_);
  const Nanos since = SystemClock().Now() - kHope;
  uint64_t bytes = 0;
  for (const Grave& grave : graves_) bytes += grave.buried_at >= since ? grave.bytes : 0;
  return bytes;
}

uint64_t Graveyard::Bytes() const {
  const std::scoped_lock lock(mutex_);
  uint64_t bytes = 0;
  for (const Grave& grave : graves_) bytes += grave.bytes;
  return bytes;
}

}  // namespace mlcache::cache
