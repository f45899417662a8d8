#include "common/ring/spin.h"

#include <gtest/gtest.h>

namespace mlcache::ring {
namespace {

using std::chrono::microseconds;

constexpr Nanos kMost = microseconds(50);

class HeldClock final : public Clock {
 public:
  Nanos Now() const override { return now_; }
  Nanos WallNow() const override { return now_; }
  void Advance(Nanos by) { now_ += by; }

 private:
  Nanos now_ = Nanos{1'000};
};

// The loop runs dry, and the next work comes `gap` later; whether it slept meanwhile.
bool Slept(AdaptiveSpin& spin, HeldClock& clock, Nanos gap) {
  bool slept = false;
  for (Nanos passed{0}; passed < gap && !slept; passed += microseconds(1)) {
    slept = !spin.ShouldSpin();
    clock.Advance(slept ? gap - passed : microseconds(1));
  }
  spin.FoundWork();
  return slept;
}

TEST(AdaptiveSpin, SpinsThroughShortGapsAndSleepsInLongOnes) {
  HeldClock clock;
  AdaptiveSpin spin(kMost, clock);
  EXPECT_FALSE(Slept(spin, clock, microseconds(10)));
  EXPECT_FALSE(Slept(spin, clock, microseconds(49)));
  EXPECT_EQ(spin.budget(), kMost);
  EXPECT_TRUE(Slept(spin, clock, microseconds(1000)));
  EXPECT_LT(spin.budget(), kMost);
}

TEST(AdaptiveSpin, AnIdleSessionEndsUpNotSpinningAtAll) {
  HeldClock clock;
  AdaptiveSpin spin(kMost, clock);
  for (int wake = 0; wake < 10; ++wake) Slept(spin, clock, microseconds(1000));
  EXPECT_EQ(spin.budget(), Nanos{0});
  EXPECT_FALSE(spin.ShouldSpin());
}

TEST(AdaptiveSpin, ComesBackWhenWorkComesSoonAfterASleep) {
  HeldClock clock;
  AdaptiveSpin spin(kMost, clock);
  for (int wake = 0; wake < 10; ++wake) Slept(spin, clock, microseconds(1000));
  int slept = 0;
  for (int wake = 0; wake < 20; ++wake) slept += Slept(spin, clock, microseconds(20)) ? 1 : 0;
  EXPECT_LE(slept, 5);
  EXPECT_GE(spin.budget(), microseconds(20));
  EXPECT_LE(spin.budget(), kMost);
}

TEST(AdaptiveSpin, WorkWithoutAGapTeachesNothing) {
  HeldClock clock;
  AdaptiveSpin spin(kMost, clock);
  clock.Advance(microseconds(100'000));
  spin.FoundWork();
  EXPECT_EQ(spin.budget(), kMost);
}

TEST(AdaptiveSpin, SpuriousWakeUpsCountIntoTheSameGap) {
  HeldClock clock;
  AdaptiveSpin spin(kMost, clock);
  EXPECT_TRUE(spin.ShouldSpin());
  clock.Advance(microseconds(60));
  EXPECT_FALSE(spin.ShouldSpin());
  clock.Advance(microseconds(60));
  EXPECT_FALSE(spin.ShouldSpin()) << "woken for nothing: back to sleep";
  spin.FoundWork();
  EXPECT_EQ(spin.budget(), kMost / 2);
}

TEST(AdaptiveSpin, ABudgetOfZeroNeverSpins) {
  HeldClock clock;
  AdaptiveSpin spin(Nanos{0}, clock);
  for (int wake = 0; wake < 10; ++wake) {
    EXPECT_FALSE(spin.ShouldSpin());
    spin.FoundWork();
  }
}

}  // namespace
}  // namespace mlcache::ring
