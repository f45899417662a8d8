// What a mount's readahead is paced by: the two speeds, the throttle, and replayed streams, of which as much as is
// promised of what was fetched ahead is read.
#include "cached/prefetch/pacer.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <set>
#include <vector>

#include "cached/fetch/prefetch_ledger.h"
#include "cached/metrics/metrics.h"
#include "cached/prefetch/readahead.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/fake_object_cache.h"
#include "tests/fetch/recording_fetcher.h"

namespace mlcache::prefetch {
namespace {

using cache::kBlockBytes;
using cache::kChunkBytes;
using std::chrono::milliseconds;

TEST(StoreSpeedTest, AChunkTakesTheFirstByteAndItsOwnTime) {
  StoreSpeed speed;
  EXPECT_FALSE(speed.ChunkSeconds().has_value());
  speed.Add(kChunkBytes, milliseconds(20), milliseconds(30));
  EXPECT_NEAR(*speed.ChunkSeconds(), 0.030, 1e-9);
  speed.Add(4096, milliseconds(20), milliseconds(500));  // too short to tell the rate
  EXPECT_NEAR(*speed.ChunkSeconds(), 0.030, 1e-9);
  for (int i = 0; i < 50; ++i) speed.Add(kChunkBytes, milliseconds(100), milliseconds(110));
  EXPECT_NEAR(*speed.ChunkSeconds(), 0.110, 1e-3);
}

TEST(StoreSpeedTest, ManyAtOnceThatShareTheWayDoNotMakeItLongerForGood) {
  StoreSpeed speed;
  for (int i = 0; i < 100; ++i) {
    speed.Add(kChunkBytes, milliseconds(20), milliseconds(100));
    speed.Add(kChunkBytes, milliseconds(20), milliseconds(30));
  }
  EXPECT_LT(*speed.ChunkSeconds(), 0.040);
}

TEST(ReaderSpeedTest, APauseCountsLittle) {
  ReaderSpeed speed;
  Nanos now = std::chrono::hours(1);
  speed.Add(kMiB, now);
  EXPECT_FALSE(speed.BytesPerSecond().has_value());
  for (int i = 0; i < 100; ++i) speed.Add(kMiB, now += milliseconds(10));
  EXPECT_NEAR(*speed.BytesPerSecond(), 100.0 * kMiB, kMiB);
  speed.Add(kMiB, now += std::chrono::minutes(5));
  EXPECT_GT(*speed.BytesPerSecond(), 80.0 * kMiB);
}

TEST(AccuracyThrottleTest, ShrinksBelowFullEndsAtTheFloorAndComesBackByProbes) {
  AccuracyThrottle throttle;
  EXPECT_EQ(throttle.Grant(32), 32U);
  throttle.Wasted(8 * kMiB);
  EXPECT_EQ(throttle.Grant(32), 32U);
  throttle.Wasted(32 * kMiB);
  EXPECT_LT(throttle.Grant(32), 32U);
  EXPECT_GE(throttle.Grant(32), 2U);
  throttle.Wasted(kGiB);
  uint64_t granted = 0;
  for (int i = 0; i < 160; ++i) granted += throttle.Grant(32);
  EXPECT_EQ(granted, 10 * AccuracyThrottle::kProbeWindow);
  throttle.Used(20 * kMiB);
  EXPECT_LT(throttle.Grant(32), 32U);
  throttle.Used(256 * kMiB);
  EXPECT_EQ(throttle.Grant(32), 32U);
}

TEST(AccuracyThrottleTest, AccuracyIsAShareWhateverHappens) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    std::mt19937_64 random(seed);
    AccuracyThrottle throttle;
    for (int i = 0; i < 2000; ++i) {
      const uint64_t bytes = random() >> (random() % 64);
      if (random() % 2 == 0) {
        throttle.Used(bytes);
      } else {
        throttle.Wasted(bytes);
      }
      ASSERT_GE(throttle.accuracy(), 0) << "seed " << seed;
      ASSERT_LE(throttle.accuracy(), 1) << "seed " << seed;
      ASSERT_LE(throttle.Grant(8), 8U) << "seed " << seed;
    }
  }
}

TEST(PacerTest, TheWindowIsLatencyTimesSpeedWithinItsBounds) {
  RecordingFetcher fetcher;
  testing::FakeClock clock;
  Pacer pacer({}, fetcher, clock);
  EXPECT_EQ(pacer.Window(100), 8U);  // nothing known of the store
  pacer.Fetched(kChunkBytes, milliseconds(20), milliseconds(30));
  EXPECT_EQ(pacer.Window(std::nullopt), 8U);
  EXPECT_EQ(pacer.Window(100), 7U);  // 3 on their way, as many for margin, and one
  EXPECT_EQ(pacer.Window(1), 2U);
  EXPECT_EQ(pacer.Window(100'000), 32U);
  EXPECT_EQ(Pacer({.optimizes = false}, fetcher, clock).Window(100), 0U);
  EXPECT_EQ(Pacer({.workers = 0}, fetcher, clock).Window(100), 0U);
}

TEST(PacerTest, CountsHowLongReadsWaited) {
  RecordingFetcher fetcher;
  testing::FakeClock clock;
  Pacer pacer({}, fetcher, clock);
  pacer.Stalled(milliseconds(20));
  pacer.Stalled(milliseconds(10));
  EXPECT_NEAR(pacer.stall_seconds(), 0.030, 1e-9);
}

// One handle after the other over one huge object, of which what is brought stays. Counts bytes in whole blocks.
class Replay {
 public:
  explicit Replay(uint64_t size) : size_(size) {
    source_.ref = {.path = "file", .version = "v", .size = size, .layout = nullptr};
    source_.object = *cache_.Acquire({.store = "s", .path = "file", .version = "v", .size = size});
    pacer_ = std::make_shared<Pacer>(PacerOptions(), fetcher_, clock_);
    fetcher_.arrived = [this](const fetch::Source&, cache::ByteRange range, const std::stop_token& stop) {
      Bring(range.offset, range.offset + range.length, stop);
    };
    Reopen();
  }

  void Reopen() { readahead_ = std::make_unique<Readahead>(source_, pacer_, metrics_); }

  void Read(uint64_t offset, uint64_t length) {
    clock_.Advance(milliseconds(1));
    readahead_->OnRead(offset, length);
    read_bytes += length;
    for (uint64_t block = offset / kBlockBytes; block * kBlockBytes < offset + length; ++block) {
      ++wanted_blocks;
      if (present_.contains(block)) ++covered_blocks;
    }
    ledger_.Use(*source_.object, offset, offset + length);
    // What misses is brought by the read itself, which the ledger does not see.
    for (uint64_t block = offset / kBlockBytes; block * kBlockBytes < offset + length; ++block) present_.insert(block);
    ledger_.Sweep(1000);
  }

  double used() const { return used_.Value(); }
  double accuracy() const { return used() / static_cast<double>(issued_bytes); }
  double coverage() const { return static_cast<double>(covered_blocks) / static_cast<double>(wanted_blocks); }
  const Pacer& pacer() const { return *pacer_; }

  uint64_t issued_bytes = 0;
  uint64_t read_bytes = 0;
  uint64_t wanted_blocks = 0;
  uint64_t covered_blocks = 0;

 private:
  void Bring(uint64_t begin, uint64_t end, const std::stop_token& stop) {
    for (uint64_t block = begin / kBlockBytes; block * kBlockBytes < end; ++block) {
      if (!present_.insert(block).second) continue;
      const uint64_t bytes = std::min(kBlockBytes, size_ - block * kBlockBytes);
      issued_bytes += bytes;
      fresh_.push_back({block * kBlockBytes, bytes});
    }
    while (!fresh_.empty()) {
      const uint64_t chunk = fresh_.front().offset / kChunkBytes;
      std::vector<cache::ByteRange> ranges;
      while (!fresh_.empty() && fresh_.front().offset / kChunkBytes == chunk) {
        ranges.push_back(fresh_.front());
        fresh_.erase(fresh_.begin());
      }
      ledger_.Issue(source_.object, chunk, ranges, pacer_, stop);
    }
  }

  const uint64_t size_;
  cache::FakeObjectCache cache_;
  Metrics metrics_;
  testing::FakeClock clock_;
  RecordingFetcher fetcher_;
  fetch::Source source_;
  prometheus::Counter used_;
  prometheus::Counter wasted_;
  fetch::PrefetchLedger ledger_{used_, wasted_};
  std::shared_ptr<Pacer> pacer_;
  std::unique_ptr<Readahead> readahead_;
  std::set<uint64_t> present_;
  std::vector<cache::ByteRange> fresh_;
};

TEST(PrefetchAccuracyTest, SequentialStreams) {
  for (const uint64_t length : {128 * kKiB, kMiB, 100'000UL}) {
    Replay replay(200 * kChunkBytes);
    for (uint64_t at = 0; at + length <= 200 * kChunkBytes; at += length) replay.Read(at, length);
    EXPECT_GE(replay.accuracy(), 0.95) << length;
    EXPECT_GE(replay.coverage(), 0.95) << length;
  }
}

TEST(PrefetchAccuracyTest, ReorderedSequentialStreams) {
  std::mt19937_64 random(3);
  Replay replay(400 * kChunkBytes);
  std::vector<uint64_t> order;
  for (uint64_t i = 0; i < 1600; ++i) order.push_back(i);
  for (auto four = order.begin(); four != order.end(); four += 4) std::shuffle(four, four + 4, random);
  for (const uint64_t i : order) replay.Read(i * kMiB, kMiB);
  EXPECT_GE(replay.accuracy(), 0.95);
  EXPECT_GE(replay.coverage(), 0.95);
}

TEST(PrefetchAccuracyTest, StridedStreams) {
  struct Case {
    uint64_t stride;
    uint64_t length;
  };
  for (const Case& one : {Case{10 * kMiB, 64 * kKiB}, Case{10 * kMiB, 4 * kKiB}, Case{kMiB, 64 * kKiB},
                          Case{6 * kMiB, kMiB}, Case{512 * kKiB, 128 * kKiB}}) {
    Replay replay(4000 * kMiB);
    const uint64_t reads = std::min<uint64_t>(1000, 4000 * kMiB / one.stride);
    for (uint64_t i = 0; i < reads; ++i) replay.Read(i * one.stride, one.length);
    EXPECT_GE(replay.accuracy(), 0.90) << one.stride << " " << one.length;
    EXPECT_GE(replay.coverage(), 0.90) << one.stride << " " << one.length;
  }
}

TEST(PrefetchAccuracyTest, RandomReadsFetchNothingAhead) {
  std::mt19937_64 random(5);
  Replay replay(10'000 * kChunkBytes);
  for (int i = 0; i < 2000; ++i) replay.Read(random() % (9'999 * kChunkBytes), 16 * kKiB);
  EXPECT_LE(replay.issued_bytes, replay.read_bytes / 10);
}

// Streams that look like runs and are none: a few reads in a row, then elsewhere. Whatever their shape, what is wasted
// stays a small part of what is read once the throttle has seen it; and a long run brings the windows back.
TEST(PrefetchAccuracyTest, PropertyWasteIsBoundedOverRandomStreamsAndTheWindowComesBack) {
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    std::mt19937_64 random(seed);
    Replay replay(100'000 * kChunkBytes);
    const uint64_t longest = 2 + random() % 6;
    const bool reopens = random() % 2 == 0;
    const auto burst = [&] {
      if (reopens) replay.Reopen();
      uint64_t at = random() % 99'000 * kChunkBytes + random() % kChunkBytes / 4096 * 4096;
      for (uint64_t i = 1 + random() % longest; i > 0; --i, at += kMiB) replay.Read(at, kMiB);
    };
    for (int i = 0; i < 300; ++i) burst();
    const uint64_t issued = replay.issued_bytes;
    const double used = replay.used();
    const uint64_t read = replay.read_bytes;
    for (int i = 0; i < 1000; ++i) burst();
    const double wasted = static_cast<double>(replay.issued_bytes - issued) - (replay.used() - used);
    EXPECT_LE(wasted, 0.5 * static_cast<double>(replay.read_bytes - read))
        << "seed " << seed << ", bursts of up to " << longest << (reopens ? ", reopened" : "");
    replay.Reopen();
    const auto run = [&](uint64_t begin, uint64_t end) {
      replay.wanted_blocks = replay.covered_blocks = 0;
      for (uint64_t at = begin * kChunkBytes; at < end * kChunkBytes; at += kMiB) replay.Read(at, kMiB);
      return replay.coverage();
    };
    run(99'000, 99'300);
    EXPECT_GE(run(99'300, 99'500), 0.95) << "seed " << seed;
    EXPECT_GE(replay.pacer().accuracy(), 0.75) << "seed " << seed;
  }
}

}  // namespace
}  // namespace mlcache::prefetch
