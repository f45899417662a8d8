// Readahead: what it asks of the fetcher for each pattern, and that it lets go when the handle turns or closes.
#include "cached/prefetch/readahead.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <vector>

#include "cached/metrics/metrics.h"
#include "tests/fakes/fake_object_cache.h"

namespace mlcache::prefetch {
namespace {

using cache::ByteRange;
using cache::kChunkBytes;

class RecordingFetcher final : public fetch::Fetcher {
 public:
  struct Request {
    ByteRange range;
    store::Priority priority;
    std::string job;
    std::stop_token stop;
  };

  void Read(const fetch::Source&, uint64_t, std::span<std::byte>, const store::CallContext&,
            fetch::ReadDone done) override {
    done(Fail(Code::kUnimplemented, "readahead reads nothing"));
  }
  void Ensure(const fetch::Source&, ByteRange range, const store::CallContext& context, fetch::ReadDone) override {
    requests.push_back({range, context.priority, std::string(context.job), context.stop});
  }

  std::vector<Request> requests;
};

class ReadaheadTest : public ::testing::Test {
 protected:
  void Open(uint64_t size, const ReadaheadOptions& options = {}) {
    source_.ref = {.path = "file", .version = "v", .size = size, .layout = nullptr};
    source_.object = *cache_.Acquire({.store = "s", .path = "file", .version = "v", .size = size});
    readahead_.emplace(source_, fetcher_, metrics_, "job", options);
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

  cache::FakeObjectCache cache_;
  Metrics metrics_;
  RecordingFetcher fetcher_;
  fetch::Source source_;
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

TEST_F(ReadaheadTest, WindowBeginsSmallDoublesAndIsCapped) {
  Open(1000 * kChunkBytes);
  readahead_->OnRead(0, kMiB);
  readahead_->OnRead(kMiB, kMiB);
  ASSERT_EQ(Ranges(), (std::vector<ByteRange>{{kChunkBytes, 2 * kChunkBytes}}));
  EXPECT_EQ(fetcher_.requests[0].priority, store::Priority::kSequential);
  EXPECT_EQ(fetcher_.requests[0].job, "job");
  Sequential(2 * kMiB, 200 * kChunkBytes);
  uint64_t until = kChunkBytes;
  uint64_t largest = 0;
  for (const ByteRange& range : Ranges()) {
    EXPECT_EQ(range.offset, until);  // each chunk once, in order
    until = range.offset + range.length;
    largest = std::max(largest, range.length);
  }
  EXPECT_GE(until, 208 * kChunkBytes);  // at least half a window ahead
  EXPECT_LE(until, 217 * kChunkBytes);  // never more than the cap
  EXPECT_LE(largest, 16 * kChunkBytes);
  EXPECT_LT(fetcher_.requests.size(), 40U);  // and not a request a read
  EXPECT_EQ(metrics_.sequential_detected.Value(), 1);
}

TEST_F(ReadaheadTest, EveryChunkBehindTheFirstIsAskedForOnceUpToTheEnd) {
  Open(10 * kChunkBytes + 5);
  Sequential(0, 10 * kChunkBytes + 5);
  uint64_t until = kChunkBytes;
  for (const ByteRange& range : Ranges()) {
    EXPECT_EQ(range.offset, until);
    until = range.offset + range.length;
  }
  EXPECT_EQ(until, 10 * kChunkBytes + 5);
}

TEST_F(ReadaheadTest, TurnCallsOffWhatIsQueuedAndStops) {
  Open(1000 * kChunkBytes);
  Sequential(0, 8 * kChunkBytes);
  ASSERT_FALSE(fetcher_.requests.empty());
  EXPECT_FALSE(fetcher_.requests.back().stop.stop_requested());
  for (const uint64_t chunk : {700, 300, 900, 50, 600}) readahead_->OnRead(chunk * kChunkBytes, 4096);
  EXPECT_STREQ(readahead_->pattern_name(), "random");
  EXPECT_TRUE(fetcher_.requests.back().stop.stop_requested());
  const size_t before = fetcher_.requests.size();
  for (const uint64_t chunk : {100, 800, 200}) readahead_->OnRead(chunk * kChunkBytes, 4096);
  EXPECT_EQ(fetcher_.requests.size(), before);
  Sequential(400 * kChunkBytes, 404 * kChunkBytes);  // back again: with a small window
  ASSERT_GT(fetcher_.requests.size(), before);
  EXPECT_EQ(fetcher_.requests[before].range.length, 2 * kChunkBytes);
  EXPECT_FALSE(fetcher_.requests.back().stop.stop_requested());
  EXPECT_EQ(metrics_.sequential_detected.Value(), 2);
}

TEST_F(ReadaheadTest, CloseCallsOffWhatIsQueued) {
  Open(100 * kChunkBytes);
  Sequential(0, 2 * kChunkBytes);
  readahead_.reset();
  ASSERT_FALSE(fetcher_.requests.empty());
  for (const auto& request : fetcher_.requests) EXPECT_TRUE(request.stop.stop_requested());
}

TEST_F(ReadaheadTest, WideStrideIsFetchedReadByRead) {
  Open(1000 * kChunkBytes);
  const uint64_t stride = 3 * kChunkBytes;
  for (uint64_t i = 0; i < 20; ++i) readahead_->OnRead(100 * kChunkBytes + i * stride, 4096);
  EXPECT_STREQ(readahead_->pattern_name(), "strided");
  ASSERT_FALSE(fetcher_.requests.empty());
  uint64_t next = fetcher_.requests.front().range.offset;
  for (const ByteRange& range : Ranges()) {
    EXPECT_EQ(range, (ByteRange{next, 4096}));
    next += stride;
  }
  EXPECT_GT(next, 100 * kChunkBytes + 20 * stride);
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

}  // namespace
}  // namespace mlcache::prefetch
