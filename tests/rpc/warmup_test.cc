#include "cached/rpc/warmup.h"

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <mutex>
#include <thread>

#include "tests/rpc/world.h"

namespace mlcache::rpc {
namespace {

using testing::FakeObjectStore;
using testing::World;

class Recorder final : public WarmupObserver {
 public:
  bool Report(const control::WarmupProgress& progress) override {
    const std::lock_guard lock(mutex);
    ++reports;
    last = progress;
    for (const control::Failure& failure : progress.failures()) failures.push_back(failure);
    return true;
  }
  bool Cancelled() override { return cancelled; }

  std::atomic<bool> cancelled = false;
  std::mutex mutex;
  int reports = 0;
  control::WarmupProgress last;
  std::vector<control::Failure> failures;
};

WarmupOptions Quick() {
  return {.request_timeout = std::chrono::seconds(10),
          .report_interval = std::chrono::milliseconds(20),
          .settle_wait = std::chrono::milliseconds(1)};
}

Status WarmUp(World& world, const std::string& path, Recorder& recorder, const WarmupOptions& options = Quick()) {
  const ResolvedTargets targets = world.Targets(path);
  return RunWarmup(targets, options, *world.fetcher, SystemClock(), recorder);
}

TEST(Warmup, CachesEveryByteAndCountsExactly) {
  World world;
  const std::vector<uint64_t> sizes = {0, 1, cache::kBlockBytes, cache::kChunkBytes + 1, 5 * cache::kChunkBytes - 1};
  uint64_t bytes = 0;
  for (size_t i = 0; i < sizes.size(); ++i) {
    world.store->Put("dir" + std::to_string(i) + "/file", std::string(sizes[i], 'x'));
    bytes += sizes[i];
  }
  Recorder recorder;
  const Status done = WarmUp(world, "", recorder);
  ASSERT_TRUE(done.has_value()) << done.error();
  EXPECT_TRUE(recorder.last.done());
  EXPECT_TRUE(recorder.last.listing_done());
  EXPECT_EQ(recorder.last.files_total(), sizes.size());
  EXPECT_EQ(recorder.last.files_done(), sizes.size());
  EXPECT_EQ(recorder.last.files_failed(), 0U);
  EXPECT_EQ(recorder.last.directories(), sizes.size() + 1);
  EXPECT_EQ(recorder.last.bytes_total(), bytes);
  EXPECT_EQ(recorder.last.bytes_done(), bytes);
  EXPECT_EQ(recorder.last.bytes_fetched(), bytes);
  EXPECT_EQ(world.store->read_bytes(), bytes);
  for (size_t i = 0; i < sizes.size(); ++i) EXPECT_EQ(world.Cached("dir" + std::to_string(i) + "/file"), sizes[i]);

  Recorder again;
  ASSERT_TRUE(WarmUp(world, "", again).has_value());
  EXPECT_EQ(again.last.bytes_done(), bytes);
  EXPECT_EQ(again.last.bytes_fetched(), 0U);
  EXPECT_EQ(world.store->read_bytes(), bytes);
}

TEST(Warmup, FetchesOnlyWhatIsMissing) {
  World world;
  const uint64_t size = 2 * cache::kChunkBytes;
  world.store->Put("file", std::string(size, 'x'));
  const auto info = world.volume->Stat("file", Nanos::zero(), {});
  const auto source = world.volume->Open("file", info.value());
  auto room = source->object->Reserve({.offset = 0, .length = cache::kBlockBytes}, {});
  const std::string block(cache::kBlockBytes, 'x');
  ASSERT_TRUE(source->object->Fill(**room, 0, std::as_bytes(std::span(block))).has_value());
  Recorder recorder;
  ASSERT_TRUE(WarmUp(world, "file", recorder).has_value());
  EXPECT_EQ(recorder.last.bytes_done(), size);
  EXPECT_EQ(recorder.last.bytes_fetched(), size - cache::kBlockBytes);
}

TEST(Warmup, MetadataOnlyReadsNoByte) {
  World world;
  for (const char* path : {"a/x", "a/y", "b"}) world.store->Put(path, "123");
  WarmupOptions options = Quick();
  options.metadata_only = true;
  Recorder recorder;
  ASSERT_TRUE(WarmUp(world, "", recorder, options).has_value());
  EXPECT_EQ(recorder.last.files_done(), 3U);
  EXPECT_EQ(recorder.last.directories(), 2U);
  EXPECT_EQ(world.store->reads(), 0U);
}

TEST(Warmup, NamesEachFailureAndGoesOn) {
  World world;
  for (const char* path : {"a", "b", "c"}) world.store->Put(path, "123");
  world.store->FailNext(FakeObjectStore::Op::kRead, Error(Code::kPermissionDenied, "not allowed"));
  Recorder recorder;
  ASSERT_TRUE(WarmUp(world, "", recorder).has_value());
  EXPECT_EQ(recorder.last.files_done(), 2U);
  EXPECT_EQ(recorder.last.files_failed(), 1U);
  EXPECT_EQ(recorder.last.bytes_done(), 6U);
  ASSERT_EQ(recorder.failures.size(), 1U);
  EXPECT_TRUE(recorder.failures[0].path().starts_with("/mnt/data/"));
  EXPECT_EQ(recorder.failures[0].code(), static_cast<int>(Code::kPermissionDenied));
}

TEST(Warmup, NamesWhatDoesNotFit) {
  World world(2 * cache::kBlockBytes);
  world.store->Put("large", std::string(4 * cache::kBlockBytes, 'x'));
  Recorder recorder;
  ASSERT_TRUE(WarmUp(world, "", recorder).has_value());
  EXPECT_EQ(recorder.last.files_done() + recorder.last.files_failed(), 1U);
  EXPECT_EQ(recorder.last.files_failed(), 1U);
  ASSERT_EQ(recorder.failures.size(), 1U);
  EXPECT_EQ(recorder.failures[0].code(), static_cast<int>(Code::kResourceExhausted)) << recorder.failures[0].message();
}

TEST(Warmup, LooksAgainAtAFileThatWasTooYoung) {
  World world;
  world.store->Put("young", "123");
  world.store->Edit("young", [](store::ObjectInfo& info) { info.settled = false; });
  WarmupOptions options = Quick();
  options.settle_attempts = 1'000'000;
  Recorder recorder;
  std::jthread settling([&] {
    // Once it was seen unsettled.
    while (world.store->stats() + world.store->lists() < 2) std::this_thread::yield();
    world.store->Edit("young", [](store::ObjectInfo& info) { info.settled = true; });
  });
  ASSERT_TRUE(WarmUp(world, "", recorder, options).has_value());
  EXPECT_EQ(recorder.last.files_done(), 1U);
  EXPECT_EQ(recorder.last.bytes_done(), 3U);
  EXPECT_EQ(recorder.last.bytes_total(), 3U);
}

TEST(Warmup, AFileThatNeverSettlesIsAFailure) {
  World world;
  world.store->Put("young", "123");
  world.store->Edit("young", [](store::ObjectInfo& info) { info.settled = false; });
  Recorder recorder;
  ASSERT_TRUE(WarmUp(world, "", recorder).has_value());
  EXPECT_EQ(recorder.last.files_failed(), 1U);
  ASSERT_EQ(recorder.failures.size(), 1U);
  EXPECT_EQ(recorder.failures[0].path(), "/mnt/data/young");
}

TEST(Warmup, TakesTheNewVersionOfAFileThatChangedOnTheWay) {
  World world;
  world.store->Put("file", std::string(3 * cache::kBlockBytes, 'o'));
  std::atomic<bool> replaced = false;
  world.store->set_before_piece([&](const std::string& path, uint64_t /*offset*/) {
    if (!replaced.exchange(true)) world.store->Put(path, std::string(cache::kBlockBytes, 'n'));
  });
  Recorder recorder;
  ASSERT_TRUE(WarmUp(world, "", recorder).has_value());
  EXPECT_EQ(recorder.last.files_total(), 1U);
  EXPECT_EQ(recorder.last.files_done(), 1U);
  EXPECT_EQ(recorder.last.bytes_total(), cache::kBlockBytes);
  EXPECT_EQ(recorder.last.bytes_done(), cache::kBlockBytes);
  EXPECT_TRUE(recorder.failures.empty());
  EXPECT_EQ(world.Cached("file"), cache::kBlockBytes);
}

TEST(Warmup, ReportsWhileItWaitsAndStopsWhenCalledOff) {
  World world;
  for (int i = 0; i < 50; ++i) world.store->Put(std::to_string(i), "123");
  world.store->BlockReads();
  Recorder recorder;
  std::jthread canceller([&] {
    world.store->WaitForBlockedReads(1);
    const auto reports = [&] {
      const std::lock_guard lock(recorder.mutex);
      return recorder.reports;
    };
    while (reports() < 3) std::this_thread::yield();
    recorder.cancelled = true;
  });
  const Status done = WarmUp(world, "", recorder);
  ASSERT_FALSE(done.has_value());
  EXPECT_EQ(done.error().code(), Code::kCancelled);
  EXPECT_FALSE(recorder.last.done());
  EXPECT_EQ(recorder.last.files_done(), 0U);
}

}  // namespace
}  // namespace mlcache::rpc
