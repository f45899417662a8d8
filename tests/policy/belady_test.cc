// Declared plans.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cached/policy/belady_policy.h"
#include "cached/policy/simulated_cache.h"
#include "tests/policy/driver.h"

namespace mlcache::policy {
namespace {

std::vector<cache::EvictionUnit> Plan(const std::vector<uint32_t>& items) {
  std::vector<cache::EvictionUnit> units;
  for (const uint32_t item : items) units.push_back(bench::UnitOf(item));
  return units;
}

TEST(BeladyPolicyTest, WhatIsNeededLastGoes) {
  BeladyPolicy policy(300);
  policy.Declare(1, Plan({0, 1, 2, 1, 0, 2}));
  for (uint32_t item = 0; item < 3; ++item) {
    policy.Touch(bench::UnitOf(item), Reader(1));
    policy.Track(bench::UnitOf(item), 100, Reader(1));
  }
  EXPECT_THAT(policy.ChooseVictims(1), ::testing::ElementsAre(bench::UnitOf(2)));
  policy.Touch(bench::UnitOf(1), Reader(1));  // for the last time
  EXPECT_THAT(policy.ChooseVictims(1), ::testing::ElementsAre(bench::UnitOf(1)));
}

TEST(BeladyPolicyTest, PlansAreAddedTo) {
  BeladyPolicy policy(200);
  policy.Declare(1, Plan({0, 1}));
  policy.Declare(1, Plan({0}));
  for (uint32_t item = 0; item < 2; ++item) {
    policy.Touch(bench::UnitOf(item), Reader(1));
    policy.Track(bench::UnitOf(item), 100, Reader(1));
  }
  EXPECT_THAT(policy.ChooseVictims(1), ::testing::ElementsAre(bench::UnitOf(1)));
}

TEST(BeladyPolicyTest, AReaderWithoutAPlanCountsByWhatIsLearned) {
  constexpr uint32_t kItems = 300;
  std::mt19937 random(3);
  auto policy = std::make_unique<BeladyPolicy>(100 * kItems);
  BeladyPolicy& belady = *policy;
  SimulatedCache cache(std::move(policy), 100 * kItems / 2);
  // Reader 1 says what it reads, of the first half; reader 2, of the second half, does not.
  uint32_t hits = 0;
  for (int epoch = 0; epoch < 6; ++epoch) {
    const auto planned = Shuffled(Items(0, kItems / 2), random);
    const auto free = Shuffled(Items(kItems / 2, kItems / 2), random);
    belady.Declare(1, Plan(planned));
    hits = 0;
    for (uint32_t i = 0; i < kItems / 2; ++i) {
      hits += ReadAll(cache, {planned[i]}, Reader(1));
      hits += ReadAll(cache, {free[i]}, Reader(2));
    }
  }
  EXPECT_GE(hits, kItems * 44 / 100);
}

}  // namespace
}  // namespace mlcache::policy
