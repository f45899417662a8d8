#include "cached/prefetch/speed.h"

#include <algorithm>
#include <cmath>

#include "cached/cache/object_cache.h"

namespace mlcache::prefetch {
namespace {

constexpr double kFirstByteWeight = 1.0 / 8;
constexpr double kLowerWeight = 1.0 / 2;
constexpr double kHigherWeight = 1.0 / 32;
constexpr uint64_t kTellingBytes = 512 * kKiB;  // a shorter read is over with its first packets
constexpr double kMemorySeconds = 1;            // of a reader's reading, after which it weighs a third

double SecondsOf(Nanos time) { return std::chrono::duration<double>(time).count(); }

}  // namespace

void StoreSpeed::Add(uint64_t bytes, Nanos first_byte, Nanos whole) {
  const double first = std::max(0.0, SecondsOf(first_byte));
  first_byte_seconds_ = seen_ ? first_byte_seconds_ + (first - first_byte_seconds_) * kFirstByteWeight : first;
  seen_ = true;
  if (bytes < kTellingBytes) return;
  const double per_byte = std::max(1e-12, SecondsOf(whole - first_byte) / static_cast<double>(bytes));
  if (seconds_per_byte_ == 0) {
    seconds_per_byte_ = per_byte;
  } else {
    seconds_per_byte_ += (per_byte - seconds_per_byte_) * (per_byte < seconds_per_byte_ ? kLowerWeight : kHigherWeight);
  }
}

std::optional<double> StoreSpeed::ChunkSeconds() const {
  if (!seen_) return std::nullopt;
  return first_byte_seconds_ + seconds_per_byte_ * static_cast<double>(cache::kChunkBytes);
}

void ReaderSpeed::Add(uint64_t bytes, Nanos now) {
  if (last_.has_value()) {
    const double passed = SecondsOf(std::clamp(now - *last_, Nanos(0), kLongestPause));
    const double kept = std::exp(-passed / kMemorySeconds);
    bytes_ = bytes_ * kept + static_cast<double>(bytes);
    seconds_ = seconds_ * kept + passed;
  }
  last_ = now;
}

std::optional<double> ReaderSpeed::BytesPerSecond() const {
  if (seconds_ <= 0) return std::nullopt;
  return bytes_ / seconds_;
}

}  // namespace mlcache::prefetch
