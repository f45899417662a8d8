// Eviction policy: examples, and random operations against a plain list.
#include <glog/logging.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "cached/cache/admission_policy.h"
#include "cached/cache/lru_eviction.h"

namespace mlcache::cache {
namespace {

EvictionUnit Unit(int number, int64_t chunk = kWholeObject) {
  EvictionUnit unit{.object = {}, .chunk = chunk};
  unit.object[0] = static_cast<std::byte>(number);
  return unit;
}

TEST(LruEvictionTest, TheOldestGoFirst) {
  LruEviction lru;
  for (int i = 0; i < 4; ++i) lru.Track(Unit(i), 10, {});
  lru.Touch(Unit(0), {});
  EXPECT_THAT(lru.ChooseVictims(15), ::testing::UnorderedElementsAre(Unit(1), Unit(2)));
  EXPECT_THAT(lru.ChooseVictims(1), ::testing::ElementsAre(Unit(3)));
  EXPECT_THAT(lru.ChooseVictims(100), ::testing::ElementsAre(Unit(0)));
  EXPECT_THAT(lru.ChooseVictims(1), ::testing::IsEmpty());
}

TEST(LruEvictionTest, ALargeOneThatMustGoSparesSmallOnes) {
  LruEviction lru;
  lru.Track(Unit(1), 1, {});
  lru.Track(Unit(2), 100, {});
  EXPECT_THAT(lru.ChooseVictims(50), ::testing::ElementsAre(Unit(2)));
}

TEST(LruEvictionTest, ChunksOfAnObjectAreUnitsOfTheirOwn) {
  LruEviction lru;
  lru.Track(Unit(1, 0), 4, {});
  lru.Track(Unit(1, 1), 4, {});
  lru.Forget(Unit(1, 0));
  EXPECT_THAT(lru.ChooseVictims(4), ::testing::ElementsAre(Unit(1, 1)));
}

TEST(LruEvictionTest, AgreesWithAPlainList) {
  const auto seed = std::random_device()();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  LruEviction lru;
  std::vector<std::pair<EvictionUnit, uint64_t>> model;  // oldest first
  for (int step = 0; step < 20'000; ++step) {
    const EvictionUnit unit = Unit(static_cast<int>(random() % 20), static_cast<int64_t>(random() % 3) - 1);
    const auto found = std::ranges::find(model, unit, [](const auto& one) { return one.first; });
    switch (random() % 4) {
      case 0: {
        const uint64_t bytes = random() % 50 + 1;
        if (found != model.end()) model.erase(found);
        model.emplace_back(unit, bytes);
        lru.Track(unit, bytes, {});
        break;
      }
      case 1:
        if (found != model.end()) std::rotate(found, found + 1, model.end());
        lru.Touch(unit, {});
        break;
      case 2:
        if (found != model.end()) model.erase(found);
        lru.Forget(unit);
        break;
      default: {
        const uint64_t wanted = random() % 60;
        size_t count = 0;
        uint64_t sum = 0;
        while (count < model.size() && sum < wanted) sum += model[count++].second;
        std::vector<EvictionUnit> victims;
        for (size_t i = count; i-- > 0;) {
          if (sum - model[i].second >= wanted) {
            sum -= model[i].second;
            continue;
          }
          victims.push_back(model[i].first);
          model.erase(model.begin() + static_cast<std::ptrdiff_t>(i));
        }
        ASSERT_EQ(lru.ChooseVictims(wanted), victims) << "step " << step;
      }
    }
  }
}

TEST(AdmissionTest, KeepsWhatIsToBeKept) {
  AdmitAsAsked admission;
  EXPECT_TRUE(admission.Admit({}, 1, {}));
  EXPECT_FALSE(admission.Admit({}, 1, {.job = {}, .keep = false}));
}

}  // namespace
}  // namespace mlcache::cache
