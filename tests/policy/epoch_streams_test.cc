// What EpochAwarePolicy learns of its readers: boundaries, membership, and the guards for readers that are not simple.
#include "cached/policy/epoch_streams.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "cached/policy/epoch_aware_policy.h"
#include "cached/policy/simulated_cache.h"
#include "tests/policy/driver.h"

namespace mlcache::policy {
namespace {

using Mode = EpochStreams::Mode;

constexpr uint32_t kItems = 400;

class EpochStreamsTest : public ::testing::Test {
 protected:
  EpochStreamsTest() : random_(7) { Start(100 * kItems / 2); }

  void Start(uint64_t capacity) {
    auto policy = std::make_unique<EpochAwarePolicy>(EpochAwarePolicy::Options{.capacity_bytes = capacity});
    policy_ = policy.get();
    cache_ = std::make_unique<SimulatedCache>(std::move(policy), capacity);
  }

  void Epoch(const cache::AccessHints& hints, uint32_t first = 0, uint32_t count = kItems) {
    ReadAll(*cache_, Shuffled(Items(first, count), random_), hints);
  }

  // The streams of a reader, in the order they were met.
  std::vector<const EpochStreams::Stream*> StreamsOf(uint64_t reader) const {
    std::vector<const EpochStreams::Stream*> found;
    for (int i = 0; i < kMaxStreams; ++i) {
      const EpochStreams::Stream& stream = policy_->streams().stream(i);
      if (stream.key != 0 && stream.reader == reader) found.push_back(&stream);
    }
    return found;
  }

  std::mt19937 random_;
  EpochAwarePolicy* policy_ = nullptr;
  std::unique_ptr<SimulatedCache> cache_;
};

TEST_F(EpochStreamsTest, ABoundaryIsSeenSoonAfterTheSecondEpochBegins) {
  Epoch(Reader(1));
  ASSERT_EQ(StreamsOf(1).size(), 1U);
  EXPECT_EQ(StreamsOf(1)[0]->mode, Mode::kLearning);
  ReadAll(*cache_, Items(0, kItems / 10), Reader(1));
  EXPECT_EQ(StreamsOf(1)[0]->mode, Mode::kEpoch);
  EXPECT_EQ(StreamsOf(1)[0]->members, kItems);
  // What showed the boundary counts as read after it, but for what was read just before it, too.
  EXPECT_NEAR(StreamsOf(1)[0]->left, kItems * 0.9, 10);
}

TEST_F(EpochStreamsTest, LaterBoundariesAreExactWhereEveryMemberIsRead) {
  for (int epoch = 0; epoch < 3; ++epoch) Epoch(Reader(1));
  EXPECT_EQ(StreamsOf(1)[0]->epochs, 2U);
  EXPECT_NEAR(StreamsOf(1)[0]->left, 0, 3);
  ReadAll(*cache_, Items(0, 1), Reader(1));
  Epoch(Reader(1));
  EXPECT_GE(StreamsOf(1)[0]->epochs, 3U);
}

TEST_F(EpochStreamsTest, AnItemThatIsMissedLosesItsMembership) {
  for (int epoch = 0; epoch < 3; ++epoch) Epoch(Reader(1));
  const double members = StreamsOf(1)[0]->members;
  std::vector<double> weights;
  for (int epoch = 0; epoch < 8; ++epoch) {
    Epoch(Reader(1), 0, kItems * 9 / 10);
    weights.push_back(StreamsOf(1)[0]->members);
  }
  EXPECT_EQ(members, kItems);
  EXPECT_TRUE(std::ranges::is_sorted(weights, std::greater<>())) << "halved each time";
  EXPECT_EQ(weights.back(), kItems * 9 / 10);
}

TEST_F(EpochStreamsTest, LessThanFourFifthsIsNoEpoch) {
  for (int epoch = 0; epoch < 3; ++epoch) Epoch(Reader(1));
  const uint64_t epochs = StreamsOf(1)[0]->epochs;
  for (int epoch = 0; epoch < 3; ++epoch) Epoch(Reader(1), 0, kItems / 2);
  EXPECT_EQ(StreamsOf(1)[0]->epochs, epochs + 1) << "but the one that was complete";
  EXPECT_EQ(StreamsOf(1)[0]->mode, Mode::kFrequency);
}

TEST_F(EpochStreamsTest, SamplingWithReplacementIsCounted) {
  for (uint32_t i = 0; i < 4 * kItems; ++i) ReadAll(*cache_, {static_cast<uint32_t>(random_() % kItems)}, Reader(1));
  EXPECT_EQ(StreamsOf(1)[0]->mode, Mode::kFrequency);
  EXPECT_FALSE(policy_->VerdictOf(1).epochs);
  EXPECT_TRUE(policy_->VerdictOf(1).no_epochs);
  EXPECT_FALSE(policy_->VerdictOf(2).no_epochs) << "another dataset";
}

TEST_F(EpochStreamsTest, ARestartInTheMiddleIsGotOver) {
  for (int epoch = 0; epoch < 3; ++epoch) Epoch(Reader(1));
  std::vector<uint32_t> order = Shuffled(Items(0, kItems), random_);
  order.resize(kItems / 2);
  ReadAll(*cache_, order, Reader(1));
  for (int epoch = 0; epoch < 3; ++epoch) Epoch(Reader(1));
  EXPECT_EQ(StreamsOf(1)[0]->mode, Mode::kEpoch);
  EXPECT_EQ(StreamsOf(1)[0]->members, kItems);
}

TEST_F(EpochStreamsTest, AFileOpenedTwiceIsReadOnce) {
  for (int epoch = 0; epoch < 3; ++epoch) {
    const auto order = Shuffled(Items(0, kItems), random_);
    for (size_t i = 0; i < order.size(); ++i) {
      ReadAll(*cache_, {order[i]}, Reader(1));
      if (i >= 5) ReadAll(*cache_, {order[i - 5]}, Reader(1));
    }
  }
  EXPECT_EQ(StreamsOf(1)[0]->mode, Mode::kEpoch);
  EXPECT_EQ(StreamsOf(1)[0]->members, kItems);
}

TEST_F(EpochStreamsTest, ValidationInAFolderOfItsOwnIsAStreamOfItsOwn) {
  for (int epoch = 0; epoch < 3; ++epoch) {
    Epoch(Reader(1, 1), 0, kItems - 100);
    Epoch(Reader(1, 2), kItems - 100, 100);
  }
  ASSERT_EQ(StreamsOf(1).size(), 2U);
  for (const EpochStreams::Stream* stream : StreamsOf(1)) EXPECT_EQ(stream->mode, Mode::kEpoch);
}

TEST_F(EpochStreamsTest, AFolderForEachClassIsNot) {
  const auto read = [&] {
    for (const uint32_t item : Shuffled(Items(0, kItems), random_)) ReadAll(*cache_, {item}, Reader(1, item % 20));
  };
  for (int epoch = 0; epoch < 3; ++epoch) read();
  ASSERT_EQ(StreamsOf(1).size(), 1U);
  EXPECT_EQ(StreamsOf(1)[0]->members, kItems);
  EXPECT_EQ(StreamsOf(1)[0]->mode, Mode::kEpoch);
}

TEST_F(EpochStreamsTest, ASecondReaderOfTheSameDataIsKnownAtOnce) {
  for (int epoch = 0; epoch < 3; ++epoch) Epoch(Reader(1));
  ReadAll(*cache_, Items(0, 80), Reader(2));
  ASSERT_EQ(StreamsOf(2).size(), 1U);
  EXPECT_EQ(StreamsOf(2)[0]->mode, Mode::kEpoch);
  EXPECT_EQ(StreamsOf(2)[0]->members, kItems);
  EXPECT_EQ(StreamsOf(2)[0]->left, kItems - 80);
}

TEST_F(EpochStreamsTest, AReaderOfOtherDataIsNot) {
  for (int epoch = 0; epoch < 3; ++epoch) Epoch(Reader(1));
  ReadAll(*cache_, Items(kItems, 80), Reader(2));
  EXPECT_EQ(StreamsOf(2)[0]->mode, Mode::kLearning);
  EXPECT_EQ(StreamsOf(2)[0]->members, 80);
}

TEST_F(EpochStreamsTest, MoreReadersThanSlotsAreForgottenByTheirRate) {
  for (int epoch = 0; epoch < 3; ++epoch) Epoch(Reader(1000));
  for (uint64_t reader = 1; reader <= uint64_t{3} * kMaxStreams; ++reader) {
    ReadAll(*cache_, Items(static_cast<uint32_t>(reader), 30), Reader(reader));
    Epoch(Reader(1000), 0, kItems);
  }
  ASSERT_EQ(StreamsOf(1000).size(), 1U);
  EXPECT_EQ(StreamsOf(1000)[0]->mode, Mode::kEpoch);
  EXPECT_EQ(StreamsOf(1000)[0]->members, kItems);
}

TEST_F(EpochStreamsTest, AnEndedJobLeavesRoomForTheNext) {
  for (int epoch = 0; epoch < 4; ++epoch) Epoch(Reader(1, 0, 1));
  uint32_t hits = 0;
  for (int epoch = 0; epoch < 8; ++epoch) {
    hits = ReadAll(*cache_, Shuffled(Items(kItems, kItems), random_), Reader(2, 0, 2));
  }
  EXPECT_GE(hits, kItems * 45 / 100);
}

TEST_F(EpochStreamsTest, AScanDoesNotDisplaceWhatIsReadInEpochs) {
  for (int epoch = 0; epoch < 4; ++epoch) Epoch(Reader(1));
  const auto order = Shuffled(Items(0, kItems), random_);
  for (size_t i = 0; i < order.size(); ++i) {
    ReadAll(*cache_, {order[i]}, Reader(1));
    ReadAll(*cache_, {kItems + static_cast<uint32_t>(i)}, Reader(2, 0, 2));
  }
  const uint32_t hits = ReadAll(*cache_, Shuffled(Items(0, kItems), random_), Reader(1));
  EXPECT_GE(hits, kItems * 45 / 100);
}

TEST_F(EpochStreamsTest, WhatARestartFoundIsWorthKeeping) {
  // As the cache loads it: tracked, read by nobody.
  for (uint32_t item = 0; item < kItems / 2; ++item) policy_->Track(bench::UnitOf(item), 100, {});
  uint32_t hits = 0;
  uint64_t kept = kItems / 2;
  for (const uint32_t item : Shuffled(Items(0, kItems), random_)) {
    const auto unit = bench::UnitOf(item);
    policy_->Touch(unit, Reader(1));
    if (policy_->Tracked(unit) > 0) {
      ++hits;
      continue;
    }
    if (kept == kItems / 2) kept -= policy_->ChooseVictims(100).size();
    policy_->Track(unit, 100, Reader(1));
    ++kept;
  }
  EXPECT_GE(hits, kItems * 45 / 100) << "in the first epoch after the restart";
}

TEST_F(EpochStreamsTest, ChunksGiveWhatWasLearnedToTheWhole) {
  cache::EvictionUnit chunk = bench::UnitOf(1);
  for (int64_t i = 0; i < 3; ++i) {
    chunk.chunk = i;
    policy_->Touch(chunk, Reader(1));
    policy_->Track(chunk, cache::kChunkBytes, Reader(1));
  }
  EXPECT_EQ(StreamsOf(1)[0]->members, 3);
  for (int64_t i = 0; i < 3; ++i) {
    chunk.chunk = i;
    policy_->Forget(chunk);
  }
  policy_->Track(bench::UnitOf(1), 3 * cache::kChunkBytes, Reader(1));
  EXPECT_EQ(StreamsOf(1)[0]->members, 1);
  EXPECT_EQ(policy_->known(), 1U);
  // Evicted and read again by pieces: still one item.
  policy_->Forget(bench::UnitOf(1));
  for (int64_t i = 0; i < 3; ++i) {
    chunk.chunk = i;
    policy_->Touch(chunk, Reader(1));
    policy_->Track(chunk, cache::kChunkBytes, Reader(1));
  }
  EXPECT_EQ(StreamsOf(1)[0]->members, 1);
}

TEST_F(EpochStreamsTest, WhatIsRememberedIsBounded) {
  auto policy = std::make_unique<EpochAwarePolicy>(
      EpochAwarePolicy::Options{.capacity_bytes = 1000, .fifo_share = .02, .max_known = 1000});
  EpochAwarePolicy& bounded = *policy;
  SimulatedCache cache(std::move(policy), 1000);
  ReadAll(cache, Items(0, 50'000), Reader(1));
  EXPECT_LE(bounded.known(), 1000U);
}

TEST_F(EpochStreamsTest, MoreThanTheLimitMayBeKept) {
  auto policy = std::make_unique<EpochAwarePolicy>(
      EpochAwarePolicy::Options{.capacity_bytes = 400'000, .fifo_share = .02, .max_known = 1000});
  EpochAwarePolicy& crowded = *policy;
  SimulatedCache cache(std::move(policy), 400'000);
  for (int epoch = 0; epoch < 3; ++epoch) ReadAll(cache, Items(0, 6000), Reader(1));
  EXPECT_GT(crowded.known(), 4000U) << "what is not kept is remembered all the same";
  EXPECT_LE(crowded.known(), 4500U);
}

}  // namespace
}  // namespace mlcache::policy
