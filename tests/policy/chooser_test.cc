// The choice between epochs and recency, dataset by dataset.
#include <gtest/gtest.h>

#include "cached/policy/make_policy.h"
#include "cached/policy/policy_chooser.h"
#include "tests/policy/driver.h"

namespace mlcache::policy {
namespace {

constexpr uint32_t kItems = 600;

class PolicyChooserTest : public ::testing::Test {
 protected:
  PolicyChooserTest() : random_(11) {
    auto policy = std::make_unique<PolicyChooser>(100 * kItems / 2);
    chooser_ = policy.get();
    cache_ = std::make_unique<SimulatedCache>(std::move(policy), 100 * kItems / 2);
  }

  void Epochs(int count, const cache::AccessHints& hints, uint32_t first = 0) {
    for (int epoch = 0; epoch < count; ++epoch) {
      ReadAll(*cache_, Shuffled(Items(first, kItems), random_), hints);
    }
  }

  // A working set that moves on: what was read lately is read again, what is old never.
  void Drift(int reads, const cache::AccessHints& hints, uint32_t first) {
    for (int i = 0; i < reads; ++i) {
      const uint32_t base = first + static_cast<uint32_t>(i) / 8;
      ReadAll(*cache_, {base + static_cast<uint32_t>(random_() % 200)}, hints);
    }
  }

  std::mt19937 random_;
  PolicyChooser* chooser_ = nullptr;
  std::unique_ptr<SimulatedCache> cache_;
};

TEST_F(PolicyChooserTest, EpochsStayEpochs) {
  Epochs(8, Reader(1));
  EXPECT_EQ(chooser_->ModeOf(1), PolicyChooser::kEpochs);
  EXPECT_EQ(chooser_->switches(), 0U);
}

TEST_F(PolicyChooserTest, AMovingWorkingSetFallsBackToRecency) {
  Drift(12'000, Reader(1), 0);
  EXPECT_EQ(chooser_->ModeOf(1), PolicyChooser::kRecency);
  EXPECT_LE(chooser_->switches(), 3U) << "without thrashing";
  cache_->ResetCounts();
  Drift(4'000, Reader(1), 1'500);
  EXPECT_GE(cache_->HitRate(), .8);
}

TEST_F(PolicyChooserTest, EachDatasetHasItsOwnMode) {
  for (int epoch = 0; epoch < 12; ++epoch) {
    Epochs(1, Reader(1, 0, 1));
    Drift(2'000, Reader(2, 0, 2), 10'000 + static_cast<uint32_t>(epoch) * 250);
  }
  EXPECT_EQ(chooser_->ModeOf(1), PolicyChooser::kEpochs);
  EXPECT_EQ(chooser_->ModeOf(2), PolicyChooser::kRecency);
}

TEST_F(PolicyChooserTest, GoesBackWhenEpochsBegin) {
  Drift(12'000, Reader(1), 0);
  ASSERT_EQ(chooser_->ModeOf(1), PolicyChooser::kRecency);
  Epochs(12, Reader(1));
  EXPECT_EQ(chooser_->ModeOf(1), PolicyChooser::kEpochs);
  cache_->ResetCounts();
  Epochs(2, Reader(1));
  EXPECT_GE(cache_->HitRate(), .45);
}

// ml.optimization=false: exactly what recency alone would do, however much it looks like epochs.
TEST_F(PolicyChooserTest, PlainReadsAreRecencyAlone) {
  cache::AccessHints plain = Reader(0);
  plain.plain = true;
  SimulatedCache recency(std::make_unique<S3FifoPolicy>(cache_->capacity_bytes()), cache_->capacity_bytes());
  for (int epoch = 0; epoch < 8; ++epoch) {
    const auto order = Shuffled(Items(0, kItems), random_);
    ReadAll(*cache_, order, plain);
    ReadAll(recency, order, plain);
  }
  EXPECT_EQ(cache_->HitRate(), recency.HitRate());
  EXPECT_LT(cache_->HitRate(), .42);  // epochs would hit half of the later ones
  EXPECT_EQ(chooser_->datasets(), 0U);
}

TEST_F(PolicyChooserTest, PlainReadsDoNotUnlearnWhatOthersTaught) {
  Epochs(6, Reader(1));
  cache::AccessHints plain = Reader(0);
  plain.plain = true;
  ReadAll(*cache_, Items(0, kItems), plain);  // the same files, by a mount without optimization
  EXPECT_EQ(chooser_->ModeOf(1), PolicyChooser::kEpochs);
  cache_->ResetCounts();
  Epochs(2, Reader(1));
  EXPECT_GE(cache_->HitRate(), .35);  // they take room; recency alone would hit .15 here
}

TEST_F(PolicyChooserTest, ManyDatasetsAreBounded) {
  for (uint64_t dataset = 1; dataset < 100; ++dataset) ReadAll(*cache_, Items(0, 50), Reader(1, 0, dataset));
  EXPECT_LE(cache_->used_bytes(), cache_->capacity_bytes());
  EXPECT_LE(chooser_->datasets(), 16U);
}

TEST(MakePolicyTest, NamesAreThoseOfTheFlag) {
  for (const char* name : {"auto", "lru", "s3fifo", "epoch", "pinned"}) {
    const auto kind = ParsePolicy(name);
    ASSERT_TRUE(kind.has_value()) << name;
    EXPECT_NE(MakePolicy(*kind, 1000), nullptr);
  }
  const auto bad = ParsePolicy("mru");
  ASSERT_FALSE(bad.has_value());
  EXPECT_NE(bad.error().message().find("auto, lru, s3fifo, epoch or pinned"), std::string::npos);
}

}  // namespace
}  // namespace mlcache::policy
