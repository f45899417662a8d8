// The policy that mounts get by default, in the workloads it is for.
#include <gtest/gtest.h>

#include "cached/policy/make_policy.h"
#include "cached/policy/simulated_cache.h"
#include "tests/policy/driver.h"

namespace mlcache::policy {
namespace {

constexpr uint64_t kFile = 100;

std::unique_ptr<SimulatedCache> CacheOf(uint64_t bytes) {
  return std::make_unique<SimulatedCache>(MakePolicy(PolicyKind::kAuto, bytes), bytes);
}

// Shuffled epochs over twice the cache, a checkpoint saved after each: the dataset stays.
TEST(MLCachePolicy, TrainingWorkload) {
  constexpr uint32_t kItems = 1000;
  std::mt19937 random(5);
  const auto cache = CacheOf(kFile * kItems / 2);
  cache::AccessHints saving = Reader(1, 9);
  saving.object_class = cache::ObjectClass::kCheckpoint;
  uint32_t hits = 0;
  for (int epoch = 0; epoch < 5; ++epoch) {
    hits = ReadAll(*cache, Shuffled(Items(0, kItems), random), Reader(1, 1), kFile);
    ReadAll(*cache, Items(5000 + static_cast<uint32_t>(epoch) * 20, 20), saving, kFile);
  }
  EXPECT_GE(hits, kItems * 48 / 100);
}

// Two models that requests load again and again, beside a scan over far more than the cache: the models stay.
TEST(MLCachePolicy, InferenceWorkload) {
  std::mt19937 random(6);
  const auto cache = CacheOf(kFile * 200);
  cache::AccessHints serving = Reader(1, 1, 1);
  serving.object_class = cache::ObjectClass::kModel;
  cache::AccessHints scanning = Reader(2, 2, 2);
  scanning.object_class = cache::ObjectClass::kOneOff;
  uint32_t scanned = 10'000;
  uint32_t hits = 0;
  for (int request = 0; request < 60; ++request) {
    const uint32_t model = random() % 2 == 0 ? 0 : 60;
    const uint32_t loaded = ReadAll(*cache, Items(model, 60), serving, kFile);
    if (request >= 20) hits += loaded;
    ReadAll(*cache, Items(scanned, 100), scanning, kFile);
    scanned += 100;
  }
  EXPECT_GE(hits, 40U * 60 * 95 / 100);
}

TEST(MLCachePolicy, EvictionHeuristics) {
  const auto unit = [](uint32_t item) { return bench::UnitOf(item); };
  {
    // Of two that are alike, what is saved or read once goes before data.
    const auto policy = MakePolicy(PolicyKind::kEpoch, 1000);
    cache::AccessHints minor = Reader(1);
    minor.object_class = cache::ObjectClass::kOneOff;
    for (uint32_t item = 0; item < 10; ++item) {
      const cache::AccessHints hints = item == 4 ? minor : Reader(1);
      policy->Touch(unit(item), hints);
      policy->Track(unit(item), 100, hints);
    }
    policy->Touch(unit(10), Reader(1));
    EXPECT_EQ(policy->ChooseVictims(100), std::vector{unit(4)});
  }
  {
    // What came last goes first when all are alike: the rest is worth as much and was here before.
    const auto policy = MakePolicy(PolicyKind::kPinned, 1000);
    for (uint32_t item = 0; item < 10; ++item) policy->Track(unit(item), 100, Reader(1));
    EXPECT_EQ(policy->ChooseVictims(100), std::vector{unit(9)});
  }
  {
    // Recency: read again is kept, a large one has to be read twice more.
    const auto policy = MakePolicy(PolicyKind::kS3Fifo, 10'000);
    policy->Track(unit(0), 5'000, Reader(1));
    policy->Track(unit(1), 100, Reader(1));
    policy->Track(unit(2), 100, Reader(1));
    policy->Touch(unit(0), Reader(1));
    policy->Touch(unit(1), Reader(1));
    EXPECT_EQ(policy->ChooseVictims(1), std::vector{unit(0)});
    EXPECT_EQ(policy->ChooseVictims(1), std::vector{unit(2)});
    // Remembered: the second time it goes straight to those that stay.
    policy->Track(unit(2), 100, Reader(1));
    policy->Track(unit(3), 100, Reader(1));
    EXPECT_EQ(policy->ChooseVictims(1), std::vector{unit(3)});
  }
}

}  // namespace
}  // namespace mlcache::policy
