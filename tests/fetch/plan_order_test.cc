// A plan's order: what is next, how reads that come out of order move the window, what counts as skipped.
#include "cached/prefetch/plan_order.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <random>
#include <string>
#include <vector>

namespace mlcache::prefetch {
namespace {

using State = PlanOrder::State;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::string Name(size_t number) { return "d" + std::to_string(number % 7) + "/f" + std::to_string(number); }

class PlanOrderTest : public ::testing::Test {
 protected:
  void Fill(size_t files, const PlanOrderOptions& options = {}) {
    order_ = PlanOrder(options);
    for (size_t i = 0; i < files; ++i) ASSERT_TRUE(order_.Append(Name(i)));
  }
  // Claims all within reach and calls it fetched; the places.
  std::vector<size_t> FetchAll() {
    std::vector<size_t> places;
    while (const auto claimed = order_.Claim()) {
      places.push_back(claimed->place);
      EXPECT_TRUE(order_.Settle(claimed->place, State::kFetched));
    }
    return places;
  }
  // The state that the read found; nothing when the plan did not expect it.
  std::optional<State> Use(size_t number) {
    const auto left = order_.Use(Name(number), skipped_);
    return left ? std::optional(left->state) : std::nullopt;
  }
  std::vector<size_t> Skipped() {
    std::vector<size_t> places;
    for (const auto& left : skipped_) places.push_back(left.place);
    skipped_.clear();
    return places;
  }

  PlanOrder order_;
  std::vector<PlanOrder::Left> skipped_;
};

TEST_F(PlanOrderTest, PathsAreKeptOnceAndFoundAgain) {
  PathTable table;
  for (size_t i = 0; i < 5000; ++i) ASSERT_EQ(table.Intern(Name(i)), i);
  ASSERT_EQ(table.Intern("top"), 5000U);
  ASSERT_EQ(table.Intern("d1"), 5001U);
  for (size_t i = 0; i < 5000; ++i) {
    ASSERT_EQ(table.Intern(Name(i)), i);
    ASSERT_EQ(table.Find(Name(i)), i);
    ASSERT_EQ(table.Path(static_cast<uint32_t>(i)), Name(i));
  }
  EXPECT_EQ(table.Path(5000), "top");
  EXPECT_EQ(table.size(), 5002U);
  EXPECT_EQ(table.directories(), 8U);
  EXPECT_EQ(table.Find("d1/f0"), std::nullopt);
  EXPECT_EQ(table.Find("d9/f1"), std::nullopt);
  EXPECT_EQ(PathTable().Find("x"), std::nullopt);
  EXPECT_EQ(table.Intern("d1/"), std::nullopt);
  EXPECT_EQ(table.Intern("d1/" + std::string(256, 'x')), std::nullopt);
}

TEST_F(PlanOrderTest, ClaimsInOrderAsFarAsItMayReach) {
  Fill(20, {.ahead = 8});
  EXPECT_THAT(FetchAll(), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
  EXPECT_EQ(Use(0), State::kFetched);
  EXPECT_THAT(FetchAll(), ElementsAre(8));
  EXPECT_EQ(Use(3), State::kFetched);
  EXPECT_THAT(FetchAll(), ElementsAre(9, 10, 11));
  EXPECT_EQ(order_.position(), 4U);
  EXPECT_EQ(order_.left(), 18U);
  EXPECT_THAT(Skipped(), IsEmpty());
}

TEST_F(PlanOrderTest, InterleavedBatchesAllCountWithoutSkips) {
  // Eight workers, each with a batch of 64 of its own, at uneven speeds.
  constexpr size_t kFiles = 8192;
  Fill(kFiles, {.ahead = 1024, .skipped_after = 1024});
  std::mt19937 random(1);
  std::deque<std::pair<size_t, size_t>> working;
  size_t next_batch = 0;
  size_t fetched = 0;
  for (size_t i = 0; i < 8; ++i, next_batch += 64) working.emplace_back(next_batch, next_batch + 64);
  while (!working.empty()) {
    FetchAll();
    auto& batch = working[random() % working.size()];
    if (Use(batch.first++) == State::kFetched) ++fetched;
    order_.GiveUpSkipped(skipped_);  // as when the budget is always full
    if (batch.first == batch.second && next_batch < kFiles) {
      batch = {next_batch, next_batch + 64};
      next_batch += 64;
    } else if (batch.first == batch.second) {
      working.erase(std::ranges::find(working, batch));
    }
  }
  EXPECT_EQ(fetched, kFiles);
  EXPECT_THAT(Skipped(), IsEmpty());
  EXPECT_EQ(order_.left(), 0U);
}

TEST_F(PlanOrderTest, WhatIsSkippedIsGivenUpInTheEnd) {
  Fill(1000, {.ahead = 100, .skipped_after = 50});
  size_t skipped = 0;
  for (size_t i = 0; i < 1000; i += 2) {  // every other one
    FetchAll();
    ASSERT_EQ(Use(i), State::kFetched) << i;
    for (const size_t place : Skipped()) {
      EXPECT_EQ(place % 2, 1U);
      EXPECT_LT(place + 100, i);
      ++skipped;
    }
  }
  EXPECT_GE(skipped, 445U);
  EXPECT_EQ(Use(3), std::nullopt) << "a place that was given up is not expected any more";
}

TEST_F(PlanOrderTest, UnderPressureAnOrderlyReadersSkipsAreGivenUpSooner) {
  Fill(1000, {.ahead = 200, .skipped_after = 900});
  FetchAll();
  for (size_t i = 10; i < 70; ++i) ASSERT_EQ(Use(i), State::kFetched);
  order_.GiveUpSkipped(skipped_);
  EXPECT_THAT(Skipped(), IsEmpty()) << "any reader may lag a little";
  for (size_t i = 70; i < 80; ++i) ASSERT_EQ(Use(i), State::kFetched);
  EXPECT_THAT(Skipped(), IsEmpty());
  order_.GiveUpSkipped(skipped_);
  EXPECT_THAT(Skipped(), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9));
}

TEST_F(PlanOrderTest, ReadsFarAheadMoveTheWindowWhenTheyAgree) {
  Fill(5000, {.ahead = 100});
  FetchAll();
  EXPECT_EQ(Use(4000), std::nullopt);
  EXPECT_EQ(Use(1), State::kFetched) << "one read elsewhere is no move";
  for (const size_t far : {3000, 2000, 1000}) EXPECT_EQ(Use(far), std::nullopt) << "they do not agree";
  EXPECT_EQ(order_.position(), 2U);
  for (const size_t far : {3002, 3000, 3001}) EXPECT_EQ(Use(far), std::nullopt);
  EXPECT_EQ(Use(3005), State::kWaiting);
  EXPECT_EQ(order_.position(), 3006U);
  EXPECT_EQ(Skipped().size(), 99U);  // what the window had and nobody read
  EXPECT_EQ(FetchAll().front(), 3003U);
  EXPECT_EQ(Use(3003), State::kFetched);
  EXPECT_EQ(order_.left(), 5000U - 3000 - 5);
}

TEST_F(PlanOrderTest, AFileMayComeSeveralTimes) {
  order_ = PlanOrder({.ahead = 100});
  for (const char* path : {"a", "b", "a", "c", "a"}) ASSERT_TRUE(order_.Append(path));
  const auto first = order_.Claim();
  ASSERT_EQ(first->path, "a");
  EXPECT_EQ(order_.Claim()->path, "b");
  EXPECT_EQ(order_.Claim()->path, "c") << "the first read of a brings it for the second";
  EXPECT_EQ(order_.Claim(), std::nullopt);
  ASSERT_TRUE(order_.Settle(first->place, State::kFetched));
  EXPECT_EQ(order_.Use("a", skipped_)->state, State::kFetched);
  EXPECT_EQ(order_.Use("a", skipped_)->place, 2U);
  EXPECT_EQ(order_.Use("a", skipped_)->state, State::kPresent);
  EXPECT_EQ(order_.Use("a", skipped_), std::nullopt);
  EXPECT_EQ(order_.left(), 2U);
}

TEST_F(PlanOrderTest, ReadBeforeItIsFetchedIsTold) {
  Fill(10);
  const auto claimed = order_.Claim();
  EXPECT_EQ(Use(0), State::kFetching);
  EXPECT_FALSE(order_.Settle(claimed->place, State::kFetched));
  EXPECT_EQ(Use(1), State::kWaiting);
  EXPECT_EQ(order_.Claim()->place, 2U) << "what was read is not fetched any more";
  EXPECT_EQ(order_.Use("elsewhere", skipped_), std::nullopt);
}

TEST_F(PlanOrderTest, CountsWhatLiesTogetherSoon) {
  PlanOrder order({.ahead = 100, .near = 10});
  for (size_t i = 0; i < 12; ++i) ASSERT_TRUE(order.Append("same/" + std::to_string(i)));
  for (size_t i = 0; i < 12; ++i) ASSERT_TRUE(order.Append(std::to_string(i) + "/own"));
  EXPECT_EQ(order.Claim()->together, 10U);
  for (int i = 0; i < 5; ++i) order.Claim();
  EXPECT_EQ(order.Claim()->together, 6U);
  for (int i = 0; i < 5; ++i) order.Claim();
  EXPECT_EQ(order.Claim()->together, 1U);
}

TEST_F(PlanOrderTest, TakesOverWhatAnEarlierPlanFetched) {
  Fill(1000, {.ahead = 100});
  EXPECT_EQ(order_.Adopt(Name(5)), 5U);
  EXPECT_EQ(order_.Adopt(Name(5)), std::nullopt);
  EXPECT_EQ(order_.Adopt(Name(500)), std::nullopt) << "not wanted soon";
  EXPECT_EQ(order_.Adopt("elsewhere"), std::nullopt);
  EXPECT_EQ(Use(5), State::kFetched);
}

// Any reads whatever: a place leaves once, the window stays bounded, and the counts agree.
TEST_F(PlanOrderTest, HoldsItsInvariantsOverRandomReads) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    constexpr size_t kFiles = 3000;
    Fill(0, {.ahead = 64, .skipped_after = 32});
    for (size_t i = 0; i < kFiles; ++i) ASSERT_TRUE(order_.Append(Name(random() % 1000)));
    std::vector<bool> gone(kFiles, false);
    const auto leave = [&](PlanOrder::Place place) {
      ASSERT_LT(place, kFiles);
      ASSERT_FALSE(gone[place]) << place;
      gone[place] = true;
    };
    for (size_t step = 0; step < 6000; ++step) {
      if (const auto claimed = order_.Claim(); claimed && random() % 3 != 0) {
        order_.Settle(claimed->place, random() % 5 == 0 ? State::kFailed : State::kFetched);
      }
      const size_t near = std::min<size_t>(kFiles - 1, order_.position() + random() % 8);
      const std::string path =
          random() % 10 == 0 ? Name(random() % 1100) : order_.Path(static_cast<PlanOrder::Place>(near));
      if (const auto read = order_.Use(path, skipped_)) {
        EXPECT_EQ(order_.Path(read->place), path);
        leave(read->place);
      }
      for (const auto& left : skipped_) leave(left.place);
      skipped_.clear();
    }
    // A jump's other reads leave without being told, at most `agreeing` a jump.
    EXPECT_LE(order_.left(), static_cast<size_t>(std::ranges::count(gone, false)));
  }
}

}  // namespace
}  // namespace mlcache::prefetch
