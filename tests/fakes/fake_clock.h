// A clock in the test's hand. Thread-safe.
#pragma once

#include <atomic>
#include <chrono>

#include "common/clock.h"

namespace mlcache::testing {

class FakeClock : public Clock {
 public:
  explicit FakeClock(Nanos now = std::chrono::hours(1), Nanos wall_now = std::chrono::hours(24 * 365 * 50))
      : now_(now), wall_now_(wall_now) {}

  Nanos Now() const override { return now_.load(); }
  Nanos WallNow() const override { return wall_now_.load(); }

  void Advance(Nanos by) {
    now_.store(now_.load() + by);
    wall_now_.store(wall_now_.load() + by);
  }
  void SetWall(Nanos wall_now) { wall_now_.store(wall_now); }

 private:
  std::atomic<Nanos> now_;
  std::atomic<Nanos> wall_now_;
};

}  // namespace mlcache::testing
