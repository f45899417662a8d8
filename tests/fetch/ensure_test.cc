// Ensure: lazily generated background fetches, their order, promotion, budget, and the books of prefetching.
#include "cached/fetch/prefetch_ledger.h"
#include "tests/fetch/fetch_fixture.h"

namespace mlcache::fetch {
namespace {

using std::chrono::milliseconds;
using store::Priority;

std::vector<std::string> PathsRead(const FakeObjectStore& store) {
  std::vector<std::string> paths;
  for (const auto& read : store.read_log()) paths.push_back(read.path);
  return paths;
}

TEST(EnsureTest, BringsEveryMissingByteOnce) {
  FetchWorld world;
  const size_t size = 9 * kChunkBytes + 123;
  const Source source = world.Make("file", size);
  ASSERT_TRUE(world.ReadNow(source, 2 * kChunkBytes, 10).has_value());
  ASSERT_TRUE(world.Settle(source).has_value());
  EXPECT_EQ(source.object->CachedBytes(), size);
  EXPECT_EQ(Total(world.metrics.store_read_bytes), size);
  EXPECT_EQ(world.store->reads(), 10U);
  ASSERT_TRUE(world.Settle(source).has_value());
  EXPECT_EQ(world.store->reads(), 10U);
  std::string bytes;
  ASSERT_TRUE(world.ReadNow(source, 0, size, &bytes).has_value());
  EXPECT_EQ(bytes, Content(size, 1));
}

TEST(EnsureTest, BringsOnlyTheRangeAskedFor) {
  FetchWorld world;
  const Source source = world.Make("file", 3 * kChunkBytes);
  Call call(0);
  world.fetcher->Ensure(source, {kChunkBytes - 10, 20}, {.priority = Priority::kPlan}, call.Done());
  ASSERT_TRUE(call.Wait().has_value());
  EXPECT_EQ(source.object->CachedBytes(), 2 * kBlockBytes);
  Call beyond(0);
  world.fetcher->Ensure(source, {3 * kChunkBytes - 1, 1000}, {.priority = Priority::kPlan}, beyond.Done());
  ASSERT_TRUE(beyond.Wait().has_value());
  EXPECT_EQ(source.object->CachedBytes(), 3 * kBlockBytes);
}

TEST(EnsureTest, HigherPriorityGoesFirstAndEqualsTakeTurns) {
  FetchWorld world({.background_workers = 1});
  const Source first = world.Make("first", kBlockBytes);
  const Source warm_one = world.Make("warm_one", 2 * kChunkBytes);
  const Source warm_two = world.Make("warm_two", 2 * kChunkBytes);
  const Source soon = world.Make("soon", kBlockBytes);
  world.store->BlockReads();
  std::vector<std::unique_ptr<Call>> calls;
  const auto ensure = [&](const Source& source, Priority priority) {
    calls.push_back(std::make_unique<Call>(0));
    world.fetcher->Ensure(source, {0, source.ref.size}, {.priority = priority}, calls.back()->Done());
  };
  ensure(first, Priority::kWarmup);
  world.store->WaitForBlockedReads(1);
  ensure(warm_one, Priority::kWarmup);
  ensure(warm_two, Priority::kWarmup);
  ensure(soon, Priority::kSequential);
  world.store->UnblockReads();
  for (const auto& call : calls) ASSERT_TRUE(call->Wait().has_value());
  EXPECT_EQ(PathsRead(*world.store),
            (std::vector<std::string>{"first", "soon", "warm_one", "warm_two", "warm_one", "warm_two"}));
}

TEST(EnsureTest, DemandNeverWaitsBehindBackgroundAndOvertakesWhatIsQueued) {
  FetchWorld world({.demand_workers = 1, .background_workers = 1});
  const Source source = world.Make("file", 3 * kChunkBytes);
  world.store->BlockReads();
  Call ensure(0);
  world.fetcher->Ensure(source, {0, source.ref.size}, {.priority = Priority::kWarmup}, ensure.Done());
  world.store->WaitForBlockedReads(1);
  // The last chunk is only queued: a reader takes it to the demand worker, and warm-up then does not fetch it again.
  Call read(100);
  world.fetcher->Read(source, 2 * kChunkBytes, read.out(), {}, read.Done());
  world.store->WaitForBlockedReads(2);
  EXPECT_EQ(world.store->read_log()[1].offset, 2 * kChunkBytes);
  EXPECT_EQ(world.store->read_log()[1].priority, Priority::kDemand);
  // The first chunk is on its way already: its reader joins.
  Call joined(100);
  world.fetcher->Read(source, 0, joined.out(), {}, joined.Done());
  world.store->UnblockReads();
  for (Call* call : {&read, &joined, &ensure}) EXPECT_TRUE(call->Wait().has_value());
  EXPECT_EQ(world.store->reads(), 3U);
}

TEST(EnsureTest, DemandPriorityUsesTheDemandWorkers) {
  FetchWorld world({.demand_workers = 1, .background_workers = 1});
  const Source busy = world.Make("busy", kChunkBytes);
  const Source wanted = world.Make("wanted", kBlockBytes);
  world.store->BlockReads();
  Call background(0);
  world.fetcher->Ensure(busy, {0, kChunkBytes}, {.priority = Priority::kWarmup}, background.Done());
  world.store->WaitForBlockedReads(1);
  Call demand(0);
  world.fetcher->Ensure(wanted, {0, kBlockBytes}, {.priority = Priority::kDemand}, demand.Done());
  world.store->WaitForBlockedReads(2);
  world.store->UnblockReads();
  EXPECT_TRUE(demand.Wait().has_value());
  EXPECT_TRUE(background.Wait().has_value());
}

TEST(EnsureTest, StopEndsItSoonAndTheRestIsNotFetched) {
  FetchWorld world({.background_workers = 1});
  const Source source = world.Make("file", 8 * kChunkBytes);
  world.store->BlockReads();
  std::stop_source stop;
  Call call(0);
  world.fetcher->Ensure(source, {0, source.ref.size}, {.priority = Priority::kSequential, .stop = stop.get_token()},
                        call.Done());
  world.store->WaitForBlockedReads(1);
  stop.request_stop();
  EXPECT_EQ(call.Wait().error().code(), Code::kCancelled);
  world.store->UnblockReads();
  ASSERT_TRUE(world.ReadNow(source, 0, 10).has_value());  // the chunk that was on its way still came
  EXPECT_EQ(world.store->reads(), 1U);
}

TEST(EnsureTest, ErrorsReachTheCallerAndEndTheRest) {
  FetchWorld world({.background_workers = 1});
  const Source source = world.Make("a/file", 8 * kChunkBytes);
  world.store->FailNext(FakeObjectStore::Op::kRead, Error(Code::kPermissionDenied, "no"));
  Call call(0);
  world.fetcher->Ensure(source, {0, source.ref.size}, {.priority = Priority::kWarmup}, call.Done());
  const Status status = call.Wait();
  ASSERT_FALSE(status.has_value());
  EXPECT_EQ(status.error().code(), Code::kPermissionDenied);
  EXPECT_THAT(status.error().message(), ::testing::HasSubstr("a/file"));
  EXPECT_EQ(world.store->reads(), 1U);
}

TEST(EnsureTest, SilentStoreEndsAWarmUpAtTheRequestTimeout) {
  FetchWorld world({.request_timeout = milliseconds(50)});
  const Source source = world.Make("file", kChunkBytes);
  world.store->BlockReads();
  EXPECT_EQ(world.Settle(source).error().code(), Code::kDeadlineExceeded);
}

TEST(EnsureTest, ReadGoesOnWhileBackgroundHoldsTheWholeBudget) {
  FetchWorld world({.background_workers = 4, .in_flight_bytes = 2 * kChunkBytes});
  const Source warm = world.Make("warm", 8 * kChunkBytes);
  const Source wanted = world.Make("wanted", kChunkBytes);
  world.store->BlockReads();
  Call ensure(0);
  world.fetcher->Ensure(warm, {0, warm.ref.size}, {.priority = Priority::kWarmup}, ensure.Done());
  world.store->WaitForBlockedReads(1);
  Call read(10);
  world.fetcher->Read(wanted, 0, read.out(), {}, read.Done());
  world.store->WaitForBlockedReads(2);
  EXPECT_EQ(world.store->reads(), 2U);  // background keeps off the chunk that is demand's
  EXPECT_EQ(world.metrics.fetches_in_flight.Value(), 2);
  world.store->UnblockReads();
  EXPECT_TRUE(read.Wait().has_value());
  EXPECT_TRUE(ensure.Wait().has_value());
  world.fetcher.reset();
  EXPECT_EQ(world.metrics.fetches_in_flight.Value(), 0);
  EXPECT_EQ(world.metrics.fetch_queue_depth.Value(), 0);
}

TEST(EnsureTest, PrefetchIsAccountedToTheByte) {
  FetchWorld world;
  const size_t size = 2 * kChunkBytes + 100;
  const Source source = world.Make("file", size);
  Call call(0);
  world.fetcher->Ensure(source, {0, size}, {.priority = Priority::kSequential}, call.Done());
  ASSERT_TRUE(call.Wait().has_value());
  EXPECT_EQ(world.metrics.prefetch_issued_bytes.Value(), size);
  EXPECT_EQ(world.metrics.prefetch_used_bytes.Value(), 0);
  ASSERT_TRUE(world.ReadNow(source, 10, 10).has_value());
  ASSERT_TRUE(world.ReadNow(source, 20, 10).has_value());
  EXPECT_EQ(world.metrics.prefetch_used_bytes.Value(), kBlockBytes);
  ASSERT_TRUE(world.ReadNow(source, 2 * kChunkBytes - 1, 101).has_value());
  EXPECT_EQ(world.metrics.prefetch_used_bytes.Value(), 2 * kBlockBytes + 100);
  Call warm(0);
  const Source other = world.Make("other", size);
  world.fetcher->Ensure(other, {0, size}, {.priority = Priority::kWarmup}, warm.Done());
  ASSERT_TRUE(warm.Wait().has_value());
  EXPECT_EQ(world.metrics.prefetch_issued_bytes.Value(), size);  // warm-up is asked for, not guessed
}

class LedgerTest : public ::testing::Test {
 protected:
  std::shared_ptr<cache::CachedObject> Object(const std::string& path, uint64_t size) {
    return *cache_.Acquire({.store = "s", .path = path, .version = "v", .size = size});
  }
  void Fill(cache::CachedObject& object, uint64_t bytes) {
    auto room = object.Reserve({0, bytes}, {});
    ASSERT_TRUE(room.has_value());
    ASSERT_TRUE(object.Fill(**room, 0, std::vector<std::byte>(bytes)).has_value());
  }

  cache::FakeObjectCache cache_;
  Metrics metrics_;
  PrefetchLedger ledger_{metrics_.prefetch_used_bytes, metrics_.prefetch_wasted_bytes, 2};
};

TEST_F(LedgerTest, WhatIsEvictedUnreadIsWasted) {
  auto object = Object("file", kChunkBytes);
  ledger_.Issue(object, 0, {{0, kChunkBytes}});
  ledger_.Sweep(10);  // still on its way: nothing is lost
  EXPECT_EQ(metrics_.prefetch_wasted_bytes.Value(), 0);
  Fill(*object, kChunkBytes);
  ledger_.Land(*object, 0);
  ledger_.Use(*object, 0, kMiB);
  ledger_.Sweep(10);
  EXPECT_EQ(metrics_.prefetch_wasted_bytes.Value(), 0);
  cache_.Evict(object->key());
  ledger_.Sweep(10);
  EXPECT_EQ(metrics_.prefetch_used_bytes.Value(), kMiB);
  EXPECT_EQ(metrics_.prefetch_wasted_bytes.Value(), 3 * kMiB);
  ledger_.Use(*object, 0, kChunkBytes);
  EXPECT_EQ(metrics_.prefetch_used_bytes.Value(), kMiB);
}

TEST_F(LedgerTest, WhatNobodyHoldsAnyMoreAndWhatOverflowsIsWasted) {
  auto object = Object("file", 4 * kChunkBytes);
  for (uint64_t chunk = 0; chunk < 3; ++chunk) ledger_.Issue(object, chunk, {{chunk * kChunkBytes, kMiB}});
  EXPECT_EQ(metrics_.prefetch_wasted_bytes.Value(), kMiB);  // of the first chunk: only two are remembered
  object.reset();
  ledger_.Sweep(10);
  EXPECT_EQ(metrics_.prefetch_wasted_bytes.Value(), 3 * kMiB);
}

TEST_F(LedgerTest, WithdrawnBytesAreNeitherUsedNorWasted) {
  auto object = Object("file", kBlockBytes + 7);
  ledger_.Issue(object, 0, {{0, kBlockBytes + 7}});
  ledger_.Withdraw(*object, 0);
  ledger_.Use(*object, 0, kBlockBytes + 7);
  object.reset();
  ledger_.Sweep(10);
  EXPECT_EQ(metrics_.prefetch_used_bytes.Value() + metrics_.prefetch_wasted_bytes.Value(), 0);
}

}  // namespace
}  // namespace mlcache::fetch
