// Readahead: what it asks for with each pattern, that it lets go when the handle turns or closes, and that it is far
// enough ahead of a fast reader of a far store.
#include "cached/prefetch/readahead.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <optional>
#include <random>
#include <vector>

#include "cached/metrics/metrics.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/fake_object_cache.h"
#include "tests/fetch/recording_fetcher.h"

namespace mlcache::prefetch {
namespace {

using cache::ByteRange;
using cache::kChunkBytes;

class ReadaheadTest : public ::testing::Test {
 protected:
  void Open(uint64_t size, const PacerOptions& options = {}) {
    source_.ref = {.path = "file", .version = "v", .size = size, .layout = nullptr};
    source_.object = *cache_.Acquire({.store = "s", .path = "file", .version = "v", .size = size});
    pacer_ = std::make_shared<Pacer>(options, fetcher_, clock_);
    readahead_.emplace(source_, pacer_, metrics_, "job");
  }
  void Sequential(uint64_t begin, uint64_t end, uint64_t length = kMiB) {
    for (uint64_t at = begin; at < end; at += length) readahead_->OnRead(at, std::min(length, end - at));
  }
  std::vector<ByteRange> Ranges() const {
    std::vector<ByteRange> ranges;
    ranges.reserve(fetcher_.requests.size());
    for (const auto& request : fetcher_.requests) ranges.push_back(request.range);
    return ranges;
  }
  // The end of what was asked for, which must be chunk by chunk from `begin` on.
  uint64_t ContiguousFrom(uint64_t begin) const {
    for (const ByteRange& range : Ranges()) {
      EXPECT_EQ(range.offset, begin);
      EXPECT_LE(range.length, kChunkBytes);
      begin = range.offset + range.length;
    }
    return begin;
  }

  cache::FakeObjectCache cache_;
  Metrics metrics_;
  testing::FakeClock clock_;
  RecordingFetcher fetcher_;
  fetch::Source source_;
  std::shared_ptr<Pacer> pacer_;
  std::optional<Readahead> readahead_;
};

TEST_F(ReadaheadTest, OneLookAtTheHeaderAsksForNothing) {
  Open(100 * kChunkBytes);
  readahead_->OnRead(0, 4096);
  EXPECT_TRUE(fetcher_.requests.empty());
  EXPECT_STREQ(readahead_->pattern_name(), "sequential");
}

TEST_F(ReadaheadTest, SmallFileHasNothingAhead) {
  Open(kChunkBytes);
  Sequential(0, kChunkBytes);
  EXPECT_TRUE(fetcher_.requests.empty());
}

TEST_F(ReadaheadTest, SeveralChunksAreOnTheirWayFromTheSecondReadOn) {
  fetcher_.ends_at_once = false;
  Open(1000 * kChunkBytes);
  readahead_->OnRead(0, 64 * kKiB);
  readahead_->OnRead(64 * kKiB, 64 * kKiB);
  EXPECT_EQ(Ranges(), (std::vector<ByteRange>{{kChunkBytes, kChunkBytes}, {2 * kChunkBytes, kChunkBytes}}));
}

TEST_F(ReadaheadTest, WindowBeginsSmallGrowsChunkByChunkAndIsBounded) {
  Open(1000 * kChunkBytes, {.max_window = 16, .unmeasured_window = 16});
  readahead_->OnRead(0, kMiB);
  readahead_->OnRead(kMiB, kMiB);
  ASSERT_EQ(ContiguousFrom(kChunkBytes), 3 * kChunkBytes);
  EXPECT_EQ(fetcher_.requests[0].priority, store::Priority::kSequential);
  EXPECT_EQ(fetcher_.requests[0].job, "job");
  Sequential(2 * kMiB, 2 * kChunkBytes);
  EXPECT_EQ(ContiguousFrom(kChunkBytes), 5 * kChunkBytes);  // three ahead of chunk 1
  Sequential(2 * kChunkBytes, 200 * kChunkBytes);
  EXPECT_EQ(ContiguousFrom(kChunkBytes), 216 * kChunkBytes);
  EXPECT_EQ(metrics_.sequential_detected.Value(), 1);
}

TEST_F(ReadaheadTest, WindowShrinksForASlowerReader) {
  Open(1000 * kChunkBytes);
  pacer_->Fetched(kChunkBytes, std::chrono::milliseconds(90), std::chrono::milliseconds(100));
  const auto read = [&](uint64_t begin, uint64_t end, Nanos each) {
    for (uint64_t at = begin; at < end; at += kMiB) {
      clock_.Advance(each);
      readahead_->OnRead(at, kMiB);
    }
    return (ContiguousFrom(kChunkBytes) - end) / kChunkBytes;
  };
  EXPECT_EQ(read(0, 100 * kChunkBytes, std::chrono::milliseconds(1)), 32U);  // 250 chunks/s need 50: the bound
  const uint64_t slow = read(100 * kChunkBytes, 400 * kChunkBytes, std::chrono::milliseconds(20));
  EXPECT_GE(slow, 3U);  // 12.5 chunks/s need 2.5
  EXPECT_LE(slow, 5U);
}

TEST_F(ReadaheadTest, EveryChunkBehindTheFirstIsAskedForOnceUpToTheEnd) {
  Open(10 * kChunkBytes + 5);
  Sequential(0, 10 * kChunkBytes + 5);
  EXPECT_EQ(ContiguousFrom(kChunkBytes), 10 * kChunkBytes + 5);
}

TEST_F(ReadaheadTest, ReorderedReadsOfParallelWorkersAskForEachChunkOnce) {
  Open(1000 * kChunkBytes);
  std::mt19937_64 random(7);  // reads of four workers overtake each other
  std::vector<uint64_t> order;
  for (uint64_t i = 0; i < 1600; ++i) order.push_back(i);
  for (auto four = order.begin(); four != order.end(); four += 4) std::shuffle(four, four + 4, random);
  for (const uint64_t i : order) readahead_->OnRead(i * kMiB, kMiB);
  std::map<uint64_t, int> asked;
  for (const ByteRange& range : Ranges()) ++asked[range.offset / kChunkBytes];
  int missed = 0;
  for (uint64_t chunk = 10; chunk < 400; ++chunk) {
    EXPECT_LE(asked[chunk], 1) << chunk;
    missed += asked[chunk] == 0 ? 1 : 0;
  }
  EXPECT_LE(missed, 4);
}

TEST_F(ReadaheadTest, TurnCallsOffWhatIsQueuedAndStops) {
  Open(1000 * kChunkBytes);
  Sequential(0, 8 * kChunkBytes);
  ASSERT_FALSE(fetcher_.requests.empty());
  EXPECT_FALSE(fetcher_.requests.back().stop.stop_requested());
  const size_t before = fetcher_.requests.size();
  for (const uint64_t chunk : {700, 300, 900, 50, 600}) readahead_->OnRead(chunk * kChunkBytes, 4096);
  EXPECT_STREQ(readahead_->pattern_name(), "random");
  EXPECT_TRUE(fetcher_.requests.back().stop.stop_requested());
  for (const uint64_t chunk : {100, 800, 200}) readahead_->OnRead(chunk * kChunkBytes, 4096);
  EXPECT_EQ(fetcher_.requests.size(), before);
  Sequential(400 * kChunkBytes, 404 * kChunkBytes);  // back again: with a small window
  ASSERT_GT(fetcher_.requests.size(), before);
  EXPECT_LE(fetcher_.requests.back().range.offset, 408 * kChunkBytes);
  EXPECT_FALSE(fetcher_.requests.back().stop.stop_requested());
  EXPECT_EQ(metrics_.sequential_detected.Value(), 2);
}

TEST_F(ReadaheadTest, WhatWaitsForAJumpedReaderIsNeverAskedFor) {
  fetcher_.ends_at_once = false;
  Open(1000 * kChunkBytes, {.workers = 1});
  Sequential(0, 8 * kChunkBytes);
  ASSERT_EQ(fetcher_.requests.size(), 1U);
  Sequential(500 * kChunkBytes, 501 * kChunkBytes);  // one long jump: still sequential, elsewhere
  EXPECT_STREQ(readahead_->pattern_name(), "sequential");
  EXPECT_TRUE(fetcher_.requests[0].stop.stop_requested());
  fetcher_.End(0);
  ASSERT_EQ(fetcher_.requests.size(), 2U);
  EXPECT_EQ(fetcher_.requests[1].range.offset, 501 * kChunkBytes);
}

TEST_F(ReadaheadTest, ReaderThatBeginsAnewIsFollowed) {
  Open(1000 * kChunkBytes);
  Sequential(0, 100 * kChunkBytes);
  const size_t before = fetcher_.requests.size();
  Sequential(0, 2 * kChunkBytes);
  ASSERT_GT(fetcher_.requests.size(), before);
  EXPECT_EQ(fetcher_.requests[before].range.offset, kChunkBytes);
}

TEST_F(ReadaheadTest, CloseCallsOffWhatIsQueued) {
  Open(100 * kChunkBytes);
  Sequential(0, 2 * kChunkBytes);
  readahead_.reset();
  ASSERT_FALSE(fetcher_.requests.empty());
  for (const auto& request : fetcher_.requests) EXPECT_TRUE(request.stop.stop_requested());
}

TEST_F(ReadaheadTest, WideStrideIsFetchedReadByRead) {
  for (const int64_t sign : {1, -1}) {
    fetcher_.requests.clear();
    Open(1000 * kChunkBytes);
    const int64_t stride = sign * static_cast<int64_t>(3 * kChunkBytes);
    const auto begin = static_cast<int64_t>((sign > 0 ? 100 : 900) * kChunkBytes);
    for (int64_t i = 0; i < 20; ++i) readahead_->OnRead(static_cast<uint64_t>(begin + i * stride), 4096);
    EXPECT_STREQ(readahead_->pattern_name(), "strided");
    ASSERT_FALSE(fetcher_.requests.empty());
    auto next = static_cast<int64_t>(fetcher_.requests.front().range.offset);
    for (const ByteRange& range : Ranges()) {
      EXPECT_EQ(range, (ByteRange{static_cast<uint64_t>(next), 4096}));
      next += stride;
    }
    EXPECT_GT(sign * next, sign * (begin + 20 * stride));
  }
}

TEST_F(ReadaheadTest, ReverseRunsBackwardsToTheBeginning) {
  Open(40 * kChunkBytes);
  for (uint64_t at = 20 * kChunkBytes; at > 0; at -= kMiB) readahead_->OnRead(at - kMiB, kMiB);
  EXPECT_STREQ(readahead_->pattern_name(), "reverse");
  ASSERT_FALSE(fetcher_.requests.empty());
  uint64_t until = fetcher_.requests.front().range.offset + kChunkBytes;
  for (const ByteRange& range : Ranges()) {
    EXPECT_EQ(range, (ByteRange{until - kChunkBytes, kChunkBytes}));
    until -= kChunkBytes;
  }
  EXPECT_EQ(until, 0U);
}

TEST_F(ReadaheadTest, VersionThatMustNotBeKeptIsNotFetchedAhead) {
  source_.hints.keep = false;
  Open(100 * kChunkBytes);
  Sequential(0, 10 * kChunkBytes);
  EXPECT_TRUE(fetcher_.requests.empty());
  EXPECT_STREQ(readahead_->pattern_name(), "sequential");
}

TEST_F(ReadaheadTest, WithoutOptimizationNothingIsConcludedOrFetchedAhead) {
  Open(100 * kChunkBytes, {.optimizes = false});
  Sequential(0, 10 * kChunkBytes);
  EXPECT_TRUE(fetcher_.requests.empty());
  EXPECT_STREQ(readahead_->pattern_name(), "unknown");
  EXPECT_EQ(metrics_.sequential_detected.Value(), 0);
}

TEST_F(ReadaheadTest, WithoutWorkersNothingIsFetchedAhead) {
  Open(100 * kChunkBytes, {.workers = 0});
  Sequential(0, 10 * kChunkBytes);
  EXPECT_TRUE(fetcher_.requests.empty());
  EXPECT_STREQ(readahead_->pattern_name(), "sequential");
}

// A reader before a store that takes `latency` to begin an answer and then sends at `bandwidth`, shared by all, in the
// order of the requests. All on a clock of the test's: no timing of this machine goes into it.
class FarStore {
 public:
  FarStore(testing::FakeClock& clock, RecordingFetcher& fetcher, Pacer& pacer, double latency, double bandwidth)
      : clock_(clock), fetcher_(fetcher), pacer_(pacer), latency_(latency), bandwidth_(bandwidth) {
    fetcher_.ends_at_once = false;
  }

  double Now() const { return std::chrono::duration<double>(clock_.Now()).count(); }

  void Ask(uint64_t chunk, uint64_t bytes, std::optional<size_t> request) {
    if (chunks_.contains(chunk)) return;
    const double first = std::max(Now() + latency_, free_at_);
    free_at_ = first + static_cast<double>(bytes) / bandwidth_;
    chunks_[chunk] = first;
    arrivals_.push_back({.at = free_at_, .asked = Now(), .first = first, .bytes = bytes, .request = request});
    most_at_once = std::max(most_at_once, arrivals_.size());
  }

  // Lets the time pass and everything happen that does until then.
  void PassUntil(double time) {
    Take();
    while (!arrivals_.empty() && arrivals_.front().at <= time) {
      const Arrival arrival = arrivals_.front();
      arrivals_.pop_front();
      SetNow(arrival.at);
      pacer_.Fetched(arrival.bytes, Span(arrival.first - arrival.asked), Span(arrival.at - arrival.asked));
      if (arrival.request) fetcher_.End(*arrival.request);
      Take();
    }
    SetNow(time);
  }

  // When the byte `offset` of a chunk that was asked for comes.
  double ComesAt(uint64_t chunk, uint64_t offset) const {
    return chunks_.at(chunk) + static_cast<double>(offset) / bandwidth_;
  }

  // What was asked of the fetcher meanwhile goes to the store.
  void Take() {
    for (; taken_ < fetcher_.requests.size(); ++taken_) {
      const ByteRange range = fetcher_.requests[taken_].range;
      Ask(range.offset / kChunkBytes, range.length, taken_);
    }
  }

  size_t most_at_once = 0;

 private:
  struct Arrival {
    double at, asked, first;
    uint64_t bytes;
    std::optional<size_t> request;
  };
  static Nanos Span(double seconds) { return Nanos(static_cast<int64_t>(seconds * 1e9)); }
  void SetNow(double time) {
    if (time > Now()) clock_.Advance(Span(time) - clock_.Now());
  }

  testing::FakeClock& clock_;
  RecordingFetcher& fetcher_;
  Pacer& pacer_;
  const double latency_;
  const double bandwidth_;
  double free_at_ = 0;
  size_t taken_ = 0;
  std::map<uint64_t, double> chunks_;  // when its first byte comes
  std::deque<Arrival> arrivals_;
};

class FarStoreTest : public ReadaheadTest {
 protected:
  // Bytes a second of one reader that takes a GiB in reads of 1 MiB, and could take `appetite` bytes a second.
  double Bandwidth(double latency, double bandwidth, double appetite, const PacerOptions& options = {}) {
    constexpr uint64_t kSize = 256 * kChunkBytes;
    Open(kSize, options);
    FarStore store(clock_, fetcher_, *pacer_, latency, bandwidth);
    const double begin = store.Now();
    for (uint64_t at = 0; at < kSize; at += kMiB) {
      readahead_->OnRead(at, kMiB);
      store.Take();
      store.Ask(at / kChunkBytes, kChunkBytes, std::nullopt);  // demand's own
      store.PassUntil(std::max(store.Now(), store.ComesAt(at / kChunkBytes, at % kChunkBytes + kMiB)));
      store.PassUntil(store.Now() + kMiB / appetite);
    }
    most_at_once_ = store.most_at_once;
    return static_cast<double>(kSize) / (store.Now() - begin);
  }

  size_t most_at_once_ = 0;
};

TEST_F(FarStoreTest, IsReadAtItsBandwidth) {
  EXPECT_GE(Bandwidth(0.020, 400e6, 1e9), 0.95 * 400e6);
  EXPECT_GE(most_at_once_, 3U);
  EXPECT_LE(most_at_once_, 9U);  // eight ahead, and demand's first
}

TEST_F(FarStoreTest, WithoutLookAheadEachChunkCostsItsLatency) {
  EXPECT_LE(Bandwidth(0.020, 400e6, 1e9, {.optimizes = false}), 0.4 * 400e6);
  EXPECT_EQ(most_at_once_, 1U);
}

TEST_F(FarStoreTest, ASlowReaderIsNotRunAheadOfFar) {
  EXPECT_GE(Bandwidth(0.020, 400e6, 20e6), 0.95 * 20e6);
  EXPECT_LE(most_at_once_, 4U);
}

TEST_F(FarStoreTest, SoManyAtOnceAsTheMountAllows) {
  Bandwidth(0.100, 1e9, 1e9, {.workers = 2});
  EXPECT_LE(most_at_once_, 3U);
}

}  // namespace
}  // namespace mlcache::prefetch
