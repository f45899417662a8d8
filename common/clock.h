// Time as a seam, so that tests hold it in their hands. Thread-safe.
#pragma once

#include <chrono>
#include <cstdint>

namespace mlcache {

using Nanos = std::chrono::nanoseconds;

class Clock {
 public:
  virtual ~Clock() = default;

  // Monotonic; from an arbitrary origin; goes on during a suspend of the process.
  virtual Nanos Now() const = 0;

  // Since 1970-01-01 UTC; may jump.
  virtual Nanos WallNow() const = 0;
};

// CLOCK_MONOTONIC and CLOCK_REALTIME; lives for the whole process.
const Clock& SystemClock();

}  // namespace mlcache
