// Pinning by order.
#include "cached/policy/pin_guard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "bench/policy/traces.h"
#include "cached/cache/lru_eviction.h"

namespace mlcache::policy {
namespace {

using bench::UnitOf;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(PinGuardTest, PinnedIsNeverAVictim) {
  PinGuard guard(std::make_unique<cache::LruEviction>());
  for (uint32_t i = 0; i < 3; ++i) guard.Track(UnitOf(i), 10, {});
  guard.Pin(UnitOf(0).object, 1);  // tracked before
  guard.Pin(UnitOf(3).object, 1);  // tracked after
  guard.Track(UnitOf(3), 5, {});
  EXPECT_EQ(guard.PinnedBytes(), 15U);
  EXPECT_THAT(guard.ChooseVictims(1000), ::testing::UnorderedElementsAre(UnitOf(1), UnitOf(2)));
  EXPECT_THAT(guard.ChooseVictims(1), IsEmpty());
  EXPECT_EQ(guard.Tracked(UnitOf(0)), 10U);
  EXPECT_EQ(guard.Tracked(UnitOf(3)), 5U);
  guard.Unpin(UnitOf(0).object);
  EXPECT_EQ(guard.PinnedBytes(), 5U);
  EXPECT_THAT(guard.ChooseVictims(1), ElementsAre(UnitOf(0)));
}

TEST(PinGuardTest, ChunksOfAPinnedObjectArePinned) {
  PinGuard guard(std::make_unique<cache::LruEviction>());
  cache::EvictionUnit first = UnitOf(1);
  first.chunk = 0;
  cache::EvictionUnit second = UnitOf(1);
  second.chunk = 1;
  guard.Track(first, 4, {});
  guard.Pin(first.object, 2);
  guard.Track(second, 4, {});
  EXPECT_THAT(guard.ChooseVictims(1), IsEmpty());
  guard.Forget(first);  // evicted by order, or damaged
  EXPECT_EQ(guard.PinnedBytes(), 4U);
  guard.Track(second, 6, {});
  EXPECT_EQ(guard.PinnedBytes(), 6U);
  guard.Unpin(UnitOf(1).object);
  EXPECT_THAT(guard.ChooseVictims(1), ElementsAre(second));
}

}  // namespace
}  // namespace mlcache::policy
