// What the observer of a source is told: each byte once, and bytes that were called off as soon as that is seen.
#include "cached/fetch/prefetch_ledger.h"

#include <gtest/gtest.h>

#include "tests/fetch/fetch_fixture.h"

namespace mlcache::fetch {
namespace {

class CountingObserver final : public FetchObserver {
 public:
  void Fetched(uint64_t bytes, Nanos first_byte, Nanos whole) override {
    EXPECT_LE(first_byte, whole);
    EXPECT_GE(first_byte, Nanos(0));
    fetched += bytes;
  }
  void Used(uint64_t bytes) override { used += bytes; }
  void Wasted(uint64_t bytes) override { wasted += bytes; }
  void Stalled(Nanos waited) override {
    EXPECT_GE(waited, Nanos(0));
    ++stalls;
  }

  std::atomic<uint64_t> fetched = 0;
  std::atomic<uint64_t> used = 0;
  std::atomic<uint64_t> wasted = 0;
  std::atomic<uint64_t> stalls = 0;
};

class PrefetchLedgerTest : public ::testing::Test {
 protected:
  cache::FakeObjectCache cache_;
  std::shared_ptr<cache::CachedObject> object_ =
      *cache_.Acquire({.store = "s", .path = "file", .version = "v", .size = 4 * kChunkBytes});
  std::shared_ptr<CountingObserver> observer_ = std::make_shared<CountingObserver>();
  prometheus::Counter used_;
  prometheus::Counter wasted_;
  PrefetchLedger ledger_{used_, wasted_};
};

TEST_F(PrefetchLedgerTest, ObserverIsToldWhatWasUsedAndWasted) {
  ledger_.Issue(object_, 1, {{kChunkBytes, kChunkBytes}}, observer_);
  ledger_.Use(*object_, kChunkBytes, kChunkBytes + kBlockBytes);
  ledger_.Use(*object_, kChunkBytes, kChunkBytes + kBlockBytes);  // again: that is no second use
  EXPECT_EQ(observer_->used, kBlockBytes);
  ledger_.Land(*object_, 1);
  ledger_.Sweep(10);  // the fake holds nothing of it: evicted
  EXPECT_EQ(observer_->wasted, kChunkBytes - kBlockBytes);
  EXPECT_EQ(wasted_.Value(), kChunkBytes - kBlockBytes);
}

TEST_F(PrefetchLedgerTest, WhatWasCalledOffIsTheObserversWasteOnceAndTheCountersOnlyWhenItGoes) {
  std::stop_source stop;
  ledger_.Issue(object_, 0, {{0, kChunkBytes}}, observer_, stop.get_token());
  ledger_.Sweep(10);
  EXPECT_EQ(observer_->wasted, 0U);
  stop.request_stop();
  ledger_.Sweep(10);
  ledger_.Sweep(10);
  EXPECT_EQ(observer_->wasted, kChunkBytes);
  EXPECT_EQ(wasted_.Value(), 0);
  ledger_.Use(*object_, 0, kBlockBytes);  // somebody came for it after all
  EXPECT_EQ(used_.Value(), kBlockBytes);
  EXPECT_EQ(observer_->used, 0U);
  EXPECT_EQ(observer_->wasted, kChunkBytes);
}

TEST(FetchObserverTest, IsToldOfFetchesUseAndStallsByTheFetcher) {
  FetchWorld world;
  Source source = world.Make("file", 2 * kChunkBytes);
  const auto observer = std::make_shared<CountingObserver>();
  source.observer = observer;
  Call ahead(0);
  world.fetcher->Ensure(source, {kChunkBytes, kChunkBytes}, {.priority = store::Priority::kSequential}, ahead.Done());
  ASSERT_TRUE(ahead.Wait().has_value());
  EXPECT_EQ(observer->fetched, kChunkBytes);
  EXPECT_EQ(observer->stalls, 0U);
  ASSERT_TRUE(world.ReadNow(source, kChunkBytes, 4096).has_value());
  EXPECT_EQ(observer->used, kBlockBytes);
  EXPECT_EQ(observer->stalls, 0U);
  ASSERT_TRUE(world.ReadNow(source, 0, 4096).has_value());
  EXPECT_EQ(observer->stalls, 1U);
  ASSERT_TRUE(world.Settle(source).has_value());
  EXPECT_EQ(observer->fetched, 2 * kChunkBytes);
  EXPECT_GT(Total(world.metrics.read_stall_seconds), 0);
}

}  // namespace
}  // namespace mlcache::fetch
