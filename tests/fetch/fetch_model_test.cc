// Threads that read, warm, evict and damage at random over a cache that is too small and a store that fails: every byte
// that a read gives must be the file's, every call must end, and nothing may be left in flight.
#include <random>
#include <thread>

#include "tests/fetch/fetch_fixture.h"

namespace mlcache::fetch {
namespace {

constexpr int kThreads = 4;
constexpr int kSteps = 500;
constexpr size_t kFiles = 6;

class Walker {
 public:
  Walker(FetchWorld& world, const std::vector<Source>& sources, const std::vector<std::string>& contents, uint32_t seed)
      : world_(world), sources_(sources), contents_(contents), random_(seed) {}

  void Run() {
    for (int step = 0; step < kSteps; ++step) {
      const size_t file = random_() % sources_.size();
      const uint32_t what = random_() % 100;
      if (what < 80) {
        Read(file);
      } else if (what < 90) {
        Ensure(file);
      } else if (what < 93) {
        world_.cache.Evict(sources_[file].object->key());
      } else if (what < 96) {
        world_.cache.Corrupt(sources_[file].object->key(), random_() % contents_[file].size());
      } else {
        world_.store->FailNext(FakeObjectStore::Op::kRead, Error(Code::kUnavailable, "injected"),
                               random_() % kChunkBytes);
      }
    }
  }

  int served() const { return served_; }

 private:
  void Read(size_t file) {
    const std::string& content = contents_[file];
    const uint64_t offset = random_() % content.size();
    const uint64_t length =
        std::min<uint64_t>(content.size() - offset, 1 + random_() % (random_() % 4 == 0 ? kMiB : 9000));
    Source source = sources_[file];
    if (random_() % 4 == 0) source.pattern = "random";
    if (random_() % 16 == 0) source.hints.keep = false;
    std::stop_source stop;
    Call call(length);
    world_.fetcher->Read(source, offset, call.out(), {.stop = stop.get_token()}, call.Done());
    if (random_() % 16 == 0) stop.request_stop();
    const Status status = call.Wait();
    if (status.has_value()) {
      ++served_;
      ASSERT_TRUE(call.bytes() == content.substr(offset, length)) << "file " << file << " at " << offset;
    } else {
      const Code code = status.error().code();
      ASSERT_TRUE(code == Code::kUnavailable || code == Code::kCancelled) << status.error();
    }
  }

  void Ensure(size_t file) {
    Call call(0);
    const uint64_t offset = random_() % contents_[file].size();
    const auto priority = static_cast<store::Priority>(random_() % 5);
    std::stop_source stop;
    world_.fetcher->Ensure(sources_[file], {offset, random_() % (2 * kChunkBytes)},
                           {.priority = priority, .stop = stop.get_token()}, call.Done());
    if (random_() % 4 == 0) stop.request_stop();
    const Status status = call.Wait();  // may fail for want of room; that it ends is what is asked
    if (!status.has_value()) {
      const Code code = status.error().code();
      ASSERT_TRUE(code == Code::kUnavailable || code == Code::kCancelled || code == Code::kResourceExhausted)
          << status.error();
    }
  }

  FetchWorld& world_;
  const std::vector<Source>& sources_;
  const std::vector<std::string>& contents_;
  std::mt19937 random_;
  int served_ = 0;
};

class FetchModelTest : public ::testing::TestWithParam<bool> {};

TEST_P(FetchModelTest, EveryByteIsTheFilesAndEveryCallEnds) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  FetchWorld world(
      {.demand_workers = 3, .background_workers = 2, .disk_workers = 2, .in_flight_bytes = 3 * kChunkBytes}, GetParam(),
      3 * kChunkBytes);
  std::mt19937 random(seed);
  std::vector<Source> sources;
  std::vector<std::string> contents;
  sources.reserve(kFiles);
  contents.reserve(kFiles);
  for (size_t i = 0; i < kFiles; ++i) {
    const size_t size = 1 + random() % (i % 2 == 0 ? 3 * kChunkBytes : 3 * kBlockBytes);
    sources.push_back(world.Make("file" + std::to_string(i), size, i));
    contents.push_back(Content(size, i));
  }
  std::vector<std::unique_ptr<Walker>> walkers;
  walkers.reserve(kThreads);
  for (int i = 0; i < kThreads; ++i) {
    walkers.push_back(std::make_unique<Walker>(world, sources, contents, static_cast<uint32_t>(random())));
  }
  {
    std::vector<std::jthread> threads;
    threads.reserve(kThreads);
    for (const auto& walker : walkers) threads.emplace_back([&walker] { walker->Run(); });
  }
  int served = 0;
  for (const auto& walker : walkers) served += walker->served();
  EXPECT_GT(served, kThreads * kSteps / 2);
  world.fetcher.reset();
  EXPECT_EQ(world.metrics.fetches_in_flight.Value(), 0);
  EXPECT_EQ(world.metrics.fetch_queue_depth.Value(), 0);
  EXPECT_EQ(world.cache.reserved_bytes(), 0U);
}

INSTANTIATE_TEST_SUITE_P(Stores, FetchModelTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Pinned" : "Unpinned"; });

TEST(FetchModelTest, ManyReadersOfAColdDatasetFetchEachByteOnce) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  FetchWorld world;
  std::mt19937 random(seed);
  std::vector<Source> sources;
  uint64_t total = 0;
  for (int i = 0; i < 40; ++i) {
    const size_t size = random() % 8 == 0 ? random() % (3 * kChunkBytes) : random() % (4 * kBlockBytes);
    sources.push_back(world.Make("f" + std::to_string(i), size, i));
    total += size;
  }
  {
    std::vector<std::jthread> readers;
    readers.reserve(8);
    for (int reader = 0; reader < 8; ++reader) {
      readers.emplace_back([&, order = std::mt19937(random())]() mutable {
        std::vector<size_t> files(sources.size());
        for (size_t i = 0; i < files.size(); ++i) files[i] = i;
        std::ranges::shuffle(files, order);
        for (const size_t file : files) {
          const Source source = world.Open("f" + std::to_string(file));
          std::string bytes;
          ASSERT_TRUE(world.ReadNow(source, 0, source.ref.size, &bytes).has_value());
          ASSERT_TRUE(bytes == Content(source.ref.size, file));
        }
      });
    }
  }
  EXPECT_EQ(Total(world.metrics.store_read_bytes), total);
  EXPECT_EQ(world.store->read_bytes(), total);
  EXPECT_EQ(Total(world.metrics.cache_hit_bytes) + Total(world.metrics.cache_miss_bytes), 8 * total);
}

}  // namespace
}  // namespace mlcache::fetch
