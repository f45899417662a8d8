// Fetcher over fakes: single flight, streaming, priorities, cancellation, failures, and that every byte is counted
// once.
#include <latch>
#include <thread>

#include "tests/fetch/fetch_fixture.h"

namespace mlcache::fetch {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;
using ::testing::Le;

TEST(FetcherTest, EightReadersOfOneChunkCauseOneRequest) {
  FetchWorld world;
  const Source source = world.Make("d/file", kChunkBytes, 7);
  const std::string content = Content(kChunkBytes, 7);
  world.store->BlockReads();
  constexpr size_t kReaders = 8;
  constexpr size_t kPart = kChunkBytes / kReaders;
  std::vector<std::unique_ptr<Call>> calls;
  calls.reserve(kReaders);
  for (size_t i = 0; i < kReaders; ++i) calls.push_back(std::make_unique<Call>(kPart));
  {
    std::latch start(kReaders);
    std::vector<std::jthread> readers;
    readers.reserve(kReaders);
    for (size_t i = 0; i < kReaders; ++i) {
      readers.emplace_back([&, i] {
        start.arrive_and_wait();
        world.fetcher->Read(source, i * kPart, calls[i]->out(), {}, calls[i]->Done());
      });
    }
  }
  world.store->WaitForBlockedReads(1);
  world.store->UnblockReads();
  for (size_t i = 0; i < kReaders; ++i) {
    ASSERT_TRUE(calls[i]->Wait().has_value());
    EXPECT_EQ(calls[i]->bytes(), content.substr(i * kPart, kPart));
  }
  EXPECT_EQ(world.store->reads(), 1U);
  EXPECT_EQ(Total(world.metrics.store_read_bytes), kChunkBytes);
  EXPECT_EQ(Total(world.metrics.cache_misses), kReaders);
  EXPECT_EQ(Total(world.metrics.cache_miss_bytes), kChunkBytes);
}

TEST(FetcherTest, SecondReadIsServedInlineFromTheCache) {
  FetchWorld world;
  Source source = world.Make("file", 3 * kBlockBytes + 17);
  source.pattern = "sequential";
  ASSERT_TRUE(world.ReadNow(source, 0, 3 * kBlockBytes + 17).has_value());
  ASSERT_TRUE(world.Settle(source).has_value());
  Call call(100);
  world.fetcher->Read(source, kBlockBytes - 50, call.out(), {}, call.Done());
  ASSERT_TRUE(call.ended());
  EXPECT_EQ(call.bytes(), Content(source.ref.size, 1).substr(kBlockBytes - 50, 100));
  EXPECT_EQ(world.store->reads(), 1U);
  EXPECT_EQ(world.metrics.cache_hit_bytes.Add({{"tier", "memory"}, {"pattern", "sequential"}}).Value(), 100);
  EXPECT_EQ(world.metrics.cache_hits.Add({{"pattern", "sequential"}}).Value(), 1);
}

TEST(FetcherTest, WhatIsNotInThePageCacheIsReadByTheDiskThreads) {
  FetchWorld world;
  const Source source = world.Make("file", 2 * kChunkBytes);
  ASSERT_TRUE(world.ReadNow(source, 0, 2 * kChunkBytes).has_value());
  ASSERT_TRUE(world.Settle(source).has_value());
  world.cache.never_wait_is_unavailable = true;
  std::string bytes;
  ASSERT_TRUE(world.ReadNow(source, kChunkBytes - 1000, 2000, &bytes).has_value());
  EXPECT_EQ(bytes, Content(2 * kChunkBytes, 1).substr(kChunkBytes - 1000, 2000));
  EXPECT_EQ(world.store->reads(), 2U);
}

TEST(FetcherTest, ReaderGetsItsBytesWhileTheRestOfTheChunkIsHeldUp) {
  FetchWorld world;
  const Source source = world.Make("file", kChunkBytes);
  std::latch go(1);
  world.store->set_before_piece([&](const std::string&, uint64_t offset) {
    if (offset == 2 * kMiB) go.wait();
  });
  Call early(kMiB);
  Call late(kMiB);
  world.fetcher->Read(source, kMiB / 2, early.out(), {}, early.Done());
  world.fetcher->Read(source, 2 * kMiB, late.out(), {}, late.Done());
  EXPECT_TRUE(early.Wait().has_value());
  EXPECT_EQ(early.bytes(), Content(kChunkBytes, 1).substr(kMiB / 2, kMiB));
  EXPECT_FALSE(late.ended());
  Call joined(1000);  // comes when its bytes are in the buffer already: served inline
  world.fetcher->Read(source, 0, joined.out(), {}, joined.Done());
  EXPECT_TRUE(joined.ended());
  go.count_down();
  EXPECT_TRUE(late.Wait().has_value());
  EXPECT_EQ(late.bytes(), Content(kChunkBytes, 1).substr(2 * kMiB, kMiB));
  EXPECT_EQ(world.store->reads(), 1U);
}

TEST(FetcherTest, ReadAcrossChunksEndsOnceWithAllItsBytes) {
  FetchWorld world;
  const size_t size = 3 * kChunkBytes + 5;
  const Source source = world.Make("file", size, 3);
  std::string bytes;
  ASSERT_TRUE(world.ReadNow(source, kChunkBytes - 10, 2 * kChunkBytes + 15, &bytes).has_value());
  EXPECT_EQ(bytes, Content(size, 3).substr(kChunkBytes - 10, 2 * kChunkBytes + 15));
  EXPECT_EQ(world.store->reads(), 4U);
  EXPECT_EQ(Total(world.metrics.store_read_bytes), size);
}

TEST(FetcherTest, EmptyReadsAndObjectsAreDoneAtOnceAndReadsPastTheEndRefused) {
  FetchWorld world;
  const Source source = world.Make("empty", 0);
  Call read(0);
  world.fetcher->Read(source, 0, read.out(), {}, read.Done());
  EXPECT_TRUE(read.ended() && read.Wait().has_value());
  Call ensure(0);
  world.fetcher->Ensure(source, {0, 1}, {}, ensure.Done());
  EXPECT_TRUE(ensure.ended() && ensure.Wait().has_value());
  const Status beyond = world.ReadNow(source, 0, 1);
  ASSERT_FALSE(beyond.has_value());
  EXPECT_EQ(beyond.error().code(), Code::kOutOfRange);
  EXPECT_EQ(world.store->reads(), 0U);
}

TEST(FetcherTest, OnlyWhatIsMissingIsFetchedInOneRequestARun) {
  FetchWorld world;
  const Source source = world.Make("file", kChunkBytes, 9);
  const std::string content = Content(kChunkBytes, 9);
  auto room = source.object->Reserve({kMiB, kMiB}, {});
  ASSERT_TRUE(source.object->Fill(**room, kMiB, std::as_bytes(std::span(content).subspan(kMiB, kMiB))).has_value());
  std::string bytes;
  ASSERT_TRUE(world.ReadNow(source, kMiB - 5, kMiB + 10, &bytes).has_value());  // missing, present and missing bytes
  EXPECT_EQ(bytes, content.substr(kMiB - 5, kMiB + 10));
  ASSERT_TRUE(world.Settle(source).has_value());
  const auto log = world.store->read_log();
  ASSERT_EQ(log.size(), 2U);
  EXPECT_EQ(log[0].offset, 0U);
  EXPECT_EQ(log[0].length, kMiB);
  EXPECT_EQ(log[1].offset, 2 * kMiB);
  EXPECT_EQ(log[1].length, 2 * kMiB);
  EXPECT_EQ(Total(world.metrics.store_read_bytes), 3 * kMiB);
}

TEST(FetcherTest, RandomReadersAreNotBroughtWholeChunks) {
  FetchWorld world;
  Source source = world.Make("file", kChunkBytes);
  source.pattern = "random";
  std::string bytes;
  ASSERT_TRUE(world.ReadNow(source, kMiB + 100, 4096, &bytes).has_value());
  EXPECT_EQ(bytes, Content(kChunkBytes, 1).substr(kMiB + 100, 4096));
  EXPECT_THAT(world.store->read_bytes(), Le(256 * kKiB));
  // A reader that wants more of the same chunk, while a piece of it is on its way or after, gets it in a second flight.
  ASSERT_TRUE(world.ReadNow(source, 0, kChunkBytes, &bytes).has_value());
  EXPECT_EQ(bytes, Content(kChunkBytes, 1));
  ASSERT_TRUE(world.Settle(source).has_value());
  EXPECT_EQ(Total(world.metrics.store_read_bytes), kChunkBytes);
}

TEST(FetcherTest, OfAFileLargerThanTheCacheOnlyTheBlocksThatAreReadAreFetched) {
  FetchWorld world;
  Source source = world.Make("file", 2 * kChunkBytes);
  source.outsized = true;
  std::string bytes;
  const auto land = [&] {
    while (world.metrics.fetches_in_flight.Value() > 0) std::this_thread::yield();
  };
  for (const char* pattern : {"unknown", "random"}) {
    source.pattern = pattern;
    for (const uint64_t offset : {kMiB + 100, 3 * kMiB, kChunkBytes + kBlockBytes - 10}) {
      const uint64_t before = world.store->read_bytes();
      const uint64_t at = offset + (source.pattern == "random" ? 8 * kBlockBytes : 0);
      const uint64_t blocks = (at + 4096 - 1) / kBlockBytes - at / kBlockBytes + 1;
      ASSERT_TRUE(world.ReadNow(source, at, 4096, &bytes).has_value());
      EXPECT_EQ(bytes, Content(2 * kChunkBytes, 1).substr(at, 4096));
      land();
      EXPECT_EQ(world.store->read_bytes() - before, blocks * kBlockBytes) << pattern << " at " << at;
    }
  }
  // Who reads on gets chunks.
  source.pattern = "sequential";
  ASSERT_TRUE(world.ReadNow(source, kMiB / 2, 4096, &bytes).has_value());
  land();
  EXPECT_TRUE(source.object->Missing(0, kChunkBytes).empty());
}

TEST(FetcherTest, DamagedBlockIsFetchedAgainUnseenByTheReader) {
  FetchWorld world;
  const Source source = world.Make("file", 4 * kBlockBytes);
  ASSERT_TRUE(world.ReadNow(source, 0, 4 * kBlockBytes).has_value());
  ASSERT_TRUE(world.Settle(source).has_value());
  // Everything is kept, but its flight may not have left the board yet, and would serve the reader from its buffer.
  while (world.metrics.fetches_in_flight.Value() > 0) std::this_thread::yield();
  world.cache.Corrupt(source.object->key(), kBlockBytes);
  std::string bytes;
  ASSERT_TRUE(world.ReadNow(source, 0, 4 * kBlockBytes, &bytes).has_value());
  EXPECT_EQ(bytes, Content(4 * kBlockBytes, 1));
  EXPECT_EQ(world.store->reads(), 2U);
  EXPECT_EQ(world.store->read_log()[1].length, kBlockBytes);
}

// Reads of one source that are all begun before any has ended.
class Reads {
 public:
  Reads(FetchWorld& world, const Source& source) : world_(world), source_(source) {}

  void Begin(uint64_t offset, size_t length) {
    offsets_.push_back(offset);
    calls_.push_back(std::make_unique<Call>(length));
    world_.fetcher->Read(source_, offset, calls_.back()->out(), {}, calls_.back()->Done());
  }

  void ExpectAll(const std::string& content) {
    for (size_t i = 0; i < calls_.size(); ++i) {
      ASSERT_TRUE(calls_[i]->Wait().has_value());
      EXPECT_TRUE(calls_[i]->bytes() == content.substr(offsets_[i], calls_[i]->bytes().size())) << offsets_[i];
    }
  }

 private:
  FetchWorld& world_;
  const Source source_;
  std::vector<uint64_t> offsets_;
  std::vector<std::unique_ptr<Call>> calls_;
};

TEST(FetcherTest, FullCacheIsBypassedInOneFlightOfWhatItsReadersWaitFor) {
  FetchWorld world({.demand_workers = 1});
  world.cache.refuse_reservations = true;
  const Source source = world.Make("file", 2 * kChunkBytes);
  const std::string content = Content(source.ref.size, 1);
  world.store->BlockReads();
  Reads reads(world, source);
  reads.Begin(kChunkBytes, 1);  // keeps the one worker busy while the others gather
  world.store->WaitForBlockedReads(1);
  reads.Begin(3 * kMiB, kMiB);
  reads.Begin(3 * kMiB + 5, 10);
  reads.Begin(kMiB / 2, kMiB);
  reads.Begin(0, kMiB);
  world.store->UnblockReads();
  reads.ExpectAll(content);
  EXPECT_EQ(world.Settle(source).error().code(), Code::kResourceExhausted);
  EXPECT_EQ(source.object->CachedBytes(), 0U);
  const auto log = world.store->read_log();
  ASSERT_EQ(log.size(), 3U);
  EXPECT_EQ(log[1].offset, 0U);
  EXPECT_EQ(log[1].length, 3 * kMiB / 2);
  EXPECT_EQ(log[2].offset, 3 * kMiB);
  EXPECT_EQ(log[2].length, kMiB);
  const uint64_t waited_for = 1 + 3 * kMiB / 2 + kMiB;
  EXPECT_EQ(world.store->read_bytes(), waited_for);
  EXPECT_EQ(Total(world.metrics.bypass_bytes), waited_for);
  EXPECT_EQ(Total(world.metrics.store_read_bytes), waited_for);
}

TEST(FetcherTest, LateReaderOfABypassedChunkSharesTheFlightOrWaitsItsTurn) {
  FetchWorld world;
  world.cache.refuse_reservations = true;
  const Source source = world.Make("file", kChunkBytes);
  world.store->BlockReads();
  Reads reads(world, source);
  reads.Begin(kMiB, kMiB);
  world.store->WaitForBlockedReads(1);
  reads.Begin(kMiB, kMiB);
  reads.Begin(2 * kMiB - 10, 10);
  reads.Begin(0, 100);  // not on its way: a flight of its own, when this one has ended
  world.store->UnblockReads();
  reads.ExpectAll(Content(kChunkBytes, 1));
  EXPECT_EQ(world.store->reads(), 2U);
  EXPECT_EQ(world.store->read_bytes(), kMiB + 100);
}

TEST(FetcherTest, FileThatIsNotKeptIsFetchedOnceByASequentialReader) {
  for (const bool unsettled : {true, false}) {
    FetchWorld world;
    world.cache.refuse_reservations = !unsettled;
    Source source = world.Make("file", kChunkBytes + 3 * kMiB + 9);
    source.hints.keep = !unsettled;
    const std::string content = Content(source.ref.size, 1);
    for (uint64_t at = 0; at < source.ref.size; at += kMiB) {
      std::string bytes;
      const size_t length = std::min<uint64_t>(kMiB, source.ref.size - at);
      ASSERT_TRUE(world.ReadNow(source, at, length, &bytes).has_value());
      ASSERT_EQ(bytes, content.substr(at, length));
    }
    EXPECT_EQ(world.store->reads(), 8U);
    EXPECT_EQ(world.store->read_bytes(), source.ref.size);
    EXPECT_EQ(Total(world.metrics.store_read_bytes), source.ref.size);
  }
}

TEST(FetcherTest, OfAPartlyCachedChunkThatIsFullOnlyTheMissingBytesReadAreFetched) {
  FetchWorld world;
  const Source source = world.Make("file", kChunkBytes, 9);
  const std::string content = Content(kChunkBytes, 9);
  auto room = source.object->Reserve({kMiB, kMiB}, {});
  ASSERT_TRUE(source.object->Fill(**room, kMiB, std::as_bytes(std::span(content).subspan(kMiB, kMiB))).has_value());
  world.cache.refuse_reservations = true;
  std::string bytes;
  ASSERT_TRUE(world.ReadNow(source, kMiB - 5, kMiB + 15, &bytes).has_value());
  EXPECT_EQ(bytes, content.substr(kMiB - 5, kMiB + 15));
  EXPECT_EQ(world.store->reads(), 2U);
  EXPECT_EQ(world.store->read_bytes(), 15U);
}

TEST(FetcherTest, WaitingForManyFlightsOfAChunkThatIsNotKeptIsNoFailure) {
  FetchWorld world({.demand_workers = 2});
  Source source = world.Make("file", kChunkBytes);
  source.hints.keep = false;
  const std::string content = Content(kChunkBytes, 1);
  constexpr int kReaders = 16;
  constexpr int kReadsEach = 64;
  std::vector<std::jthread> readers;
  readers.reserve(kReaders);
  for (int reader = 0; reader < kReaders; ++reader) {
    readers.emplace_back([&, reader] {
      for (int i = 0; i < kReadsEach; ++i) {
        const uint64_t offset = static_cast<uint64_t>(i * kReaders + reader) * 4096;
        std::string bytes;
        ASSERT_TRUE(world.ReadNow(source, offset, 4096, &bytes).has_value());
        ASSERT_TRUE(bytes == content.substr(offset, 4096));
      }
    });
  }
  readers.clear();
  EXPECT_EQ(world.store->read_bytes(), kChunkBytes);
}

TEST(FetcherTest, UnsettledVersionIsServedAndNotKept) {
  FetchWorld world;
  Source source = world.Make("file", kBlockBytes);
  source.hints.keep = false;
  std::string bytes;
  ASSERT_TRUE(world.ReadNow(source, 10, 20, &bytes).has_value());
  EXPECT_EQ(bytes, Content(kBlockBytes, 1).substr(10, 20));
  Call ensure(0);
  world.fetcher->Ensure(source, {0, kBlockBytes}, {}, ensure.Done());
  const Status refused = ensure.Wait();
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), Code::kResourceExhausted);
  world.fetcher.reset();
  EXPECT_EQ(source.object->CachedBytes(), 0U);
  EXPECT_EQ(world.store->reads(), 1U);  // nothing is asked for that nobody reads and that cannot be kept
  EXPECT_EQ(world.store->read_bytes(), 20U);
}

TEST(FetcherTest, FullTierWhileFillingStillServesTheReader) {
  FetchWorld world;
  const Source source = world.Make("file", kChunkBytes);
  world.cache.FailFills(Error(Code::kResourceExhausted, "disk full"));
  std::string bytes;
  ASSERT_TRUE(world.ReadNow(source, 0, kChunkBytes, &bytes).has_value());
  EXPECT_EQ(bytes, Content(kChunkBytes, 1));
  Call ensure(0);
  world.fetcher->Ensure(source, {0, kChunkBytes}, {}, ensure.Done());
  EXPECT_EQ(ensure.Wait().error().code(), Code::kResourceExhausted);
  world.fetcher.reset();
  EXPECT_EQ(world.cache.reserved_bytes(), 0U);
}

TEST(FetcherTest, StoreErrorReachesEveryReaderWithThePathAndKeepsNothing) {
  FetchWorld world;
  const Source source = world.Make("some/file", kChunkBytes);
  world.store->FailNext(FakeObjectStore::Op::kRead, Error(Code::kUnavailable, "connection reset"), 2 * kMiB);
  world.store->BlockReads();
  Call one(kChunkBytes);
  Call two(kMiB);
  world.fetcher->Read(source, 0, one.out(), {}, one.Done());
  world.fetcher->Read(source, 3 * kMiB, two.out(), {}, two.Done());
  world.store->WaitForBlockedReads(1);
  world.store->UnblockReads();
  for (Call* call : {&one, &two}) {
    const Status status = call->Wait();
    ASSERT_FALSE(status.has_value());
    EXPECT_EQ(status.error().code(), Code::kUnavailable);
    EXPECT_THAT(status.error().message(), HasSubstr("some/file"));
  }
  EXPECT_EQ(source.object->CachedBytes(), 0U);
  EXPECT_EQ(Total(world.metrics.store_read_bytes), 0);
  EXPECT_TRUE(world.ReadNow(source, 0, kChunkBytes).has_value());
  EXPECT_EQ(Total(world.metrics.store_read_bytes), kChunkBytes);
}

TEST(FetcherTest, StepsBeforeAFailedOneCountAsWasted) {
  FetchWorld world({}, /*pinned=*/false);
  const Source source = world.Make("file", kChunkBytes);
  world.store->set_before_piece([&](const std::string&, uint64_t offset) {
    if (offset == kMiB) world.store->FailNext(FakeObjectStore::Op::kRead, Error(Code::kUnavailable, "reset"));
  });
  EXPECT_EQ(world.ReadNow(source, 3 * kMiB, 1).error().code(), Code::kUnavailable);
  EXPECT_EQ(Total(world.metrics.store_wasted_bytes), 2 * kMiB);
  EXPECT_EQ(Total(world.metrics.store_read_bytes), 0);
}

TEST(FetcherTest, ShortReplyIsAnError) {
  class ShortStore final : public store::ObjectStore {
   public:
    Result<store::ObjectInfo> Stat(const std::string& path, const store::CallContext&) override {
      return Fail(Code::kNotFound, path);
    }
    Result<store::ListPage> List(const std::string& path, const std::string&, const store::CallContext&) override {
      return Fail(Code::kNotFound, path);
    }
    Status ReadRange(const store::ObjectRef&, uint64_t, uint64_t length, const store::ByteSink& sink,
                     const store::CallContext&) override {
      return sink(std::vector<std::byte>(long_ ? length + 1 : length - 1));
    }
    Result<store::StoreCapacity> Capacity(const store::CallContext&) override { return store::StoreCapacity{}; }
    Status Watch(const std::string& path, const store::ChangeSink&, const store::CallContext&) override {
      return Fail(Code::kUnimplemented, path);
    }
    bool long_ = false;
  };
  FetchWorld world;
  Source source = world.Make("file", kBlockBytes);
  auto broken = std::make_shared<ShortStore>();
  source.store = broken;
  EXPECT_EQ(world.ReadNow(source, 0, 10).error().code(), Code::kDataLoss);
  broken->long_ = true;
  EXPECT_EQ(world.ReadNow(source, 0, 10).error().code(), Code::kDataLoss);
  EXPECT_EQ(source.object->CachedBytes(), 0U);
}

TEST(FetcherTest, CancelledReadEndsSoonAndItsFetchStops) {
  FetchWorld world;
  const Source source = world.Make("file", kChunkBytes);
  world.store->BlockReads();
  Call call(kMiB);
  std::stop_source stop;
  world.fetcher->Read(source, 0, call.out(), {.stop = stop.get_token()}, call.Done());
  world.store->WaitForBlockedReads(1);
  const auto before = std::chrono::steady_clock::now();
  stop.request_stop();
  EXPECT_EQ(call.Wait().error().code(), Code::kCancelled);
  EXPECT_LT(std::chrono::steady_clock::now() - before, milliseconds(1000));  // 100 ms and a loaded machine's delay
  world.fetcher.reset();
  EXPECT_EQ(world.store->reads(), 1U);
  EXPECT_EQ(source.object->CachedBytes(), 0U);
}

TEST(FetcherTest, FetchGoesOnForThoseWhoStillWait) {
  FetchWorld world;
  const Source source = world.Make("file", kChunkBytes);
  world.store->BlockReads();
  Call gone(kMiB);
  Call stays(kMiB);
  std::stop_source stop;
  world.fetcher->Read(source, 0, gone.out(), {.stop = stop.get_token()}, gone.Done());
  world.fetcher->Read(source, 0, stays.out(), {}, stays.Done());
  world.store->WaitForBlockedReads(1);
  stop.request_stop();
  EXPECT_EQ(gone.Wait().error().code(), Code::kCancelled);
  world.store->UnblockReads();
  EXPECT_TRUE(stays.Wait().has_value());
  EXPECT_EQ(stays.bytes(), Content(kChunkBytes, 1).substr(0, kMiB));
  EXPECT_EQ(world.store->reads(), 1U);
}

TEST(FetcherTest, ReadEndsAtItsDeadlineThoughTheStoreIsSilent) {
  FetchWorld world;
  const Source source = world.Make("file", kChunkBytes);
  world.store->BlockReads();
  Call call(kMiB);
  world.fetcher->Read(source, 0, call.out(), {.deadline = SystemClock().Now() + milliseconds(50)}, call.Done());
  EXPECT_EQ(call.Wait().error().code(), Code::kDeadlineExceeded);
}

TEST(FetcherTest, RequestTimeoutEndsAReadWithoutADeadline) {
  FetchWorld world({.request_timeout = milliseconds(50)});
  const Source source = world.Make("file", kChunkBytes);
  world.store->BlockReads();
  EXPECT_EQ(world.ReadNow(source, 0, 1).error().code(), Code::kDeadlineExceeded);
}

TEST(FetcherTest, ShutdownAnswersEveryWaiter) {
  FetchWorld world({.demand_workers = 1, .background_workers = 1});
  const Source source = world.Make("file", 8 * kChunkBytes);
  world.store->BlockReads();
  std::vector<std::unique_ptr<Call>> calls;
  for (int i = 0; i < 4; ++i) {
    calls.push_back(std::make_unique<Call>(kMiB));
    world.fetcher->Read(source, i * kChunkBytes, calls.back()->out(), {}, calls.back()->Done());
  }
  Call ensure(0);
  world.fetcher->Ensure(source, {4 * kChunkBytes, 4 * kChunkBytes}, {.priority = store::Priority::kWarmup},
                        ensure.Done());
  world.store->WaitForBlockedReads(2);
  world.fetcher.reset();
  for (const auto& call : calls) {
    ASSERT_TRUE(call->ended());
    EXPECT_EQ(call->Wait().error().code(), Code::kCancelled);
  }
  ASSERT_TRUE(ensure.ended());
  EXPECT_EQ(ensure.Wait().error().code(), Code::kCancelled);
}

TEST(FetcherTest, ChangeInMidChunkGivesAnErrorAndNeverAMix) {
  for (const bool pinned : {true, false}) {
    FetchWorld world({}, pinned);
    const Source source = world.Make("file", kChunkBytes, 1);
    world.store->set_before_piece([&](const std::string& path, uint64_t offset) {
      if (offset == 2 * kMiB + 512 * kKiB) world.store->Put(path, Content(kChunkBytes, 2));
    });
    Call early(kMiB);
    Call late(kMiB);
    Call last(kMiB);
    world.fetcher->Read(source, 0, early.out(), {}, early.Done());
    world.fetcher->Read(source, 2 * kMiB, late.out(), {}, late.Done());
    world.fetcher->Read(source, 3 * kMiB, last.out(), {}, last.Done());
    const Status first = early.Wait();
    if (first.has_value()) {
      EXPECT_EQ(early.bytes(), Content(kChunkBytes, 1).substr(0, kMiB));
    }
    EXPECT_EQ(late.Wait().error().code(), Code::kFailedPrecondition);
    EXPECT_EQ(last.Wait().error().code(), Code::kFailedPrecondition);
    world.fetcher.reset();
    EXPECT_EQ(source.object->CachedBytes(), 0U);
  }
}

TEST(FetcherTest, WithoutAPinNoReaderIsServedBeforeTheVersionWasCheckedAgain) {
  FetchWorld world({}, /*pinned=*/false);
  const Source source = world.Make("file", kChunkBytes);
  std::latch go(1);
  world.store->set_before_piece([&](const std::string&, uint64_t offset) {
    if (offset == kMiB + 512 * kKiB) go.wait();
  });
  Call checked(kMiB);
  Call unchecked(kBlockBytes);
  world.fetcher->Read(source, 0, checked.out(), {}, checked.Done());
  world.fetcher->Read(source, kMiB, unchecked.out(), {}, unchecked.Done());
  EXPECT_TRUE(checked.Wait().has_value());
  EXPECT_FALSE(unchecked.ended());  // its bytes have come, but not the end of the store's reply
  go.count_down();
  EXPECT_TRUE(unchecked.Wait().has_value());
}

}  // namespace
}  // namespace mlcache::fetch
