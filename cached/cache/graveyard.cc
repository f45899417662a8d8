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

bool Graveyard::Grave::IsHopeful(Nanos now) const { return now - buried_at <= kHope; }

void Graveyard::Bury(std::shared_ptr<ObjectFile> file, uint64_t bytes) {
  Grave grave{.file = std::move(file), .bytes = bytes, .buried_at = SystemClock().Now()};
  if (grave.IsFree()) {
    grave.file.reset();
    budget_.Release(bytes);
    return;
  }
  const std::scoped_lock lock(mutex_);
  graves_.push_back(std::move(grave));
}

uint64_t Graveyard::Reap(Which which) {
  std::vector<Grave> free;  // closed without the lock
  uint64_t bytes = 0;
  {
    const Nanos now = SystemClock().Now();
    const std::scoped_lock lock(mutex_);
    const auto gone = std::ranges::partition(graves_, [&](const Grave& grave) {
      return (which == Which::kHopeful && !grave.IsHopeful(now)) || !grave.IsFree();
    });
    std::ranges::move(gone, std::back_inserter(free));
    graves_.erase(gone.begin(), gone.end());
  }
  for (Grave& grave : free) {
    bytes += grave.bytes;
    grave.file.reset();
    budget_.Release(grave.bytes);
  }
  return bytes;
}

uint64_t Graveyard::HopefulBytes() const {
  const Nanos now = SystemClock().Now();
  const std::scoped_lock lock(mutex_);
  uint64_t bytes = 0;
  for (const Grave& grave : graves_) bytes += grave.IsHopeful(now) ? grave.bytes : 0;
  return bytes;
}

uint64_t Graveyard::Bytes() const {
  const std::scoped_lock lock(mutex_);
  uint64_t bytes = 0;
  for (const Grave& grave : graves_) bytes += grave.bytes;
  return bytes;
}

}  // namespace mlcache::cache
