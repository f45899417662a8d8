// The gate's contract: never more on their way than allowed, nothing forgotten that is still wanted, nothing asked for
// that is not.
#include "cached/prefetch/prefetch_gate.h"

#include <gtest/gtest.h>

#include <random>
#include <thread>
#include <vector>

#include "cached/metrics/metrics.h"
#include "tests/fakes/fake_object_cache.h"
#include "tests/fetch/fetch_fixture.h"
#include "tests/fetch/recording_fetcher.h"

namespace mlcache::prefetch {
namespace {

using cache::kChunkBytes;

class PrefetchGateTest : public ::testing::Test {
 protected:
  PrefetchGateTest() {
    source_.ref = {.path = "file", .version = "v", .size = 100 * kChunkBytes, .layout = nullptr};
    source_.object = *cache_.Acquire({.store = "s", .path = "file", .version = "v", .size = 100 * kChunkBytes});
    fetcher_.ends_at_once = false;
  }
  PrefetchGate::Request Chunk(uint64_t chunk, std::stop_token stop = {}) const {
    return {.source = source_, .range = {chunk * kChunkBytes, kChunkBytes}, .job = "job", .stop = std::move(stop)};
  }
  std::vector<uint64_t> Asked() const {
    std::vector<uint64_t> chunks;
    for (const auto& request : fetcher_.requests) chunks.push_back(request.range.offset / kChunkBytes);
    return chunks;
  }

  cache::FakeObjectCache cache_;
  RecordingFetcher fetcher_;
  fetch::Source source_;
};

TEST_F(PrefetchGateTest, LetsSoManyThroughAndTheRestInOrderAsTheyEnd) {
  const auto gate = PrefetchGate::Make(fetcher_, 2);
  for (uint64_t chunk = 0; chunk < 5; ++chunk) EXPECT_TRUE(gate->Fetch(Chunk(chunk)));
  EXPECT_EQ(Asked(), (std::vector<uint64_t>{0, 1}));
  EXPECT_EQ(gate->on_their_way(), 2U);
  EXPECT_EQ(gate->waiting(), 3U);
  EXPECT_EQ(fetcher_.requests[0].priority, store::Priority::kSequential);
  EXPECT_EQ(fetcher_.requests[0].job, "job");
  fetcher_.End(1);
  EXPECT_EQ(Asked(), (std::vector<uint64_t>{0, 1, 2}));
  fetcher_.End(0, Fail(Code::kUnavailable, "the store is away"));  // a failure makes room too
  fetcher_.End(2);
  EXPECT_EQ(Asked(), (std::vector<uint64_t>{0, 1, 2, 3, 4}));
  fetcher_.End(3);
  fetcher_.End(4);
  EXPECT_EQ(gate->on_their_way(), 0U);
}

TEST_F(PrefetchGateTest, NothingPassesAGateOfNone) {
  const auto gate = PrefetchGate::Make(fetcher_, 0);
  EXPECT_FALSE(gate->Fetch(Chunk(0)));
  EXPECT_TRUE(fetcher_.requests.empty());
}

TEST_F(PrefetchGateTest, WhatWasCalledOffIsNeverAskedFor) {
  const auto gate = PrefetchGate::Make(fetcher_, 1);
  std::stop_source stop;
  gate->Fetch(Chunk(0));
  gate->Fetch(Chunk(1, stop.get_token()));
  gate->Fetch(Chunk(2));
  stop.request_stop();
  fetcher_.End(0);
  EXPECT_EQ(Asked(), (std::vector<uint64_t>{0, 2}));
}

TEST_F(PrefetchGateTest, WhatWaitsIsBoundedAndMadeRoomForByWhatWasCalledOff) {
  const auto gate = PrefetchGate::Make(fetcher_, 1, 3);
  std::stop_source stop;
  for (uint64_t chunk = 0; chunk < 4; ++chunk) EXPECT_TRUE(gate->Fetch(Chunk(chunk, stop.get_token())));
  EXPECT_FALSE(gate->Fetch(Chunk(4)));
  stop.request_stop();
  EXPECT_TRUE(gate->Fetch(Chunk(5)));
  EXPECT_EQ(gate->waiting(), 1U);
}

TEST_F(PrefetchGateTest, WhatEndsAtOnceNeedsNoDepth) {
  fetcher_.ends_at_once = false;
  const auto gate = PrefetchGate::Make(fetcher_, 1, 100'000);
  for (uint64_t i = 0; i < 50'000; ++i) gate->Fetch(Chunk(i % 100));
  fetcher_.ends_at_once = true;
  fetcher_.End(0);
  EXPECT_EQ(fetcher_.requests.size(), 50'000U);
  EXPECT_EQ(gate->on_their_way(), 0U);
}

TEST_F(PrefetchGateTest, ClosedItAsksForNothingMore) {
  const auto gate = PrefetchGate::Make(fetcher_, 1);
  gate->Fetch(Chunk(0));
  gate->Fetch(Chunk(1));
  gate->Close();
  EXPECT_FALSE(gate->Fetch(Chunk(2)));
  fetcher_.End(0);
  EXPECT_EQ(Asked(), (std::vector<uint64_t>{0}));
  EXPECT_EQ(gate->waiting(), 0U);
}

// Over the real fetcher: a reader passes what its mount's gate holds back.
TEST(PrefetchGateOverFetcherTest, AReaderDoesNotWaitBehindIt) {
  fetch::FetchWorld world;
  const fetch::Source source = world.Make("file", 8 * kChunkBytes);
  const auto gate = PrefetchGate::Make(*world.fetcher, 1);
  world.store->BlockReads();
  for (uint64_t chunk = 0; chunk < 4; ++chunk) {
    EXPECT_TRUE(gate->Fetch({.source = source, .range = {chunk * kChunkBytes, kChunkBytes}, .job = "", .stop = {}}));
  }
  world.store->WaitForBlockedReads(1);
  EXPECT_EQ(gate->waiting(), 3U);
  fetch::Call read(100);
  world.fetcher->Read(source, 3 * kChunkBytes, read.out(), {}, read.Done());
  world.store->WaitForBlockedReads(2);  // the reader's own fetch is under way beside the one that holds the gate
  EXPECT_EQ(world.store->read_log().back().priority, store::Priority::kDemand);
  world.store->UnblockReads();
  EXPECT_TRUE(read.Wait().has_value());
  ASSERT_TRUE(world.Settle(source).has_value());
  EXPECT_EQ(world.store->read_bytes(), 8 * kChunkBytes);  // and nothing came twice
  gate->Close();
}

TEST(PrefetchGateOverFetcherTest, NeverMoreAtOnceThanAllowedWithManyThreads) {
  fetch::FetchWorld world;
  const fetch::Source source = world.Make("file", 64 * kChunkBytes);
  const auto gate = PrefetchGate::Make(*world.fetcher, 3);
  std::atomic<size_t> most = 0;
  world.store->set_before_piece([&](const std::string&, uint64_t) {
    const size_t now = gate->on_their_way();
    for (size_t seen = most; now > seen && !most.compare_exchange_weak(seen, now);) continue;
  });
  {
    std::vector<std::jthread> threads;
    for (uint64_t thread = 0; thread < 4; ++thread) {
      threads.emplace_back([&, thread] {
        for (uint64_t chunk = thread; chunk < 64; chunk += 4) {
          gate->Fetch({.source = source, .range = {chunk * kChunkBytes, kChunkBytes}, .job = "", .stop = {}});
        }
      });
    }
  }
  while (gate->waiting() + gate->on_their_way() > 0) std::this_thread::yield();
  EXPECT_LE(most, 3U);
  EXPECT_GE(most, 1U);
  EXPECT_EQ(world.store->read_bytes(), 64 * kChunkBytes);
  gate->Close();
}

}  // namespace
}  // namespace mlcache::prefetch
