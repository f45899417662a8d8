// Failing disks, bad tiers, budgets: what the cache says and does then.
#include <sys/statvfs.h>

#include <atomic>
#include <fstream>
#include <thread>

#include "tests/cache/cache_world.h"
#include "tests/cache/faulty_file_ops.h"

namespace mlcache::cache {
namespace {

using ::testing::HasSubstr;

class FaultTest : public ::testing::Test {
 protected:
  FaultTest() : world_(Options()) {}
  CacheOptions Options() {
    CacheOptions options{.tiers = {{first_.path(), 64 * kMiB}}, .commit_interval = std::chrono::hours(1)};
    options.file_ops = &ops_;
    return options;
  }
  TempDirectory first_{"/dev/shm"};
  FaultyFileOps ops_;
  CacheWorld world_;
};

TEST_F(FaultTest, AFullDiskIsBypassedWhatIsThereIsServedAndItIsTriedAgain) {
  const ObjectKey kept = KeyOf("kept", 100);
  const ObjectKey late = KeyOf("late", 3 * kBlockBytes);
  ASSERT_TRUE(FillRange(*world_.Get(kept), 0, kept.size).has_value());
  ops_.write_error = ENOSPC;
  const uint64_t used = world_.cache().Tiers().front().used_bytes;
  EXPECT_EQ(FillRange(*world_.Get(late), 0, late.size).error().code(), Code::kResourceExhausted);
  EXPECT_GT(ops_.faults, 0);
  EXPECT_NE(world_.cache().Tiers().front().state, "ok");
  EXPECT_LT(world_.cache().Tiers().front().used_bytes, used + kBlockBytes);  // a row or two
  EXPECT_FALSE(std::filesystem::exists(FileOf(first_.path(), late)));
  EXPECT_TRUE(ReadsBack(*world_.Get(kept), 0, kept.size));
  EXPECT_EQ(world_.Get(late)->Reserve({0, 1}, {}).error().code(), Code::kResourceExhausted);
  world_.clock.Advance(std::chrono::seconds(31));
  ASSERT_TRUE(world_.cache().Flush().has_value());
  EXPECT_EQ(world_.Isolated(), 1);
  ops_.write_error = 0;
  world_.clock.Advance(std::chrono::seconds(31));
  ASSERT_TRUE(world_.cache().Flush().has_value());
  EXPECT_EQ(world_.Isolated(), 0);
  EXPECT_TRUE(FillRange(*world_.Get(late), 0, late.size).has_value());
  EXPECT_TRUE(ReadsBack(*world_.Get(late), 0, late.size));
}

TEST_F(FaultTest, AReadErrorIsolatesTheTierAndTheObjectIsMissing) {
  const ObjectKey key = KeyOf("a", 100);
  ASSERT_TRUE(FillRange(*world_.Get(key), 0, key.size).has_value());
  ops_.read_error = EIO;
  std::vector<std::byte> out(1);
  EXPECT_EQ(world_.Get(key)->Read(0, out, Wait::kMayBlock).error().code(), Code::kUnavailable);
  EXPECT_EQ(world_.cache().Find(key), nullptr);
  EXPECT_FALSE(world_.Get(key)->Missing(0, 1).empty());
  EXPECT_THAT(world_.cache().Tiers().front().state, HasSubstr("Input/output error"));
  EXPECT_FALSE(FillRange(*world_.Get(key), 0, key.size).has_value());
}

TEST_F(FaultTest, ShortWritesAreCompleted) {
  ops_.most_written_at_once = 10'001;
  const ObjectKey key = KeyOf("short", kChunkBytes + 17);
  ASSERT_TRUE(FillRange(*world_.Get(key), 0, key.size).has_value());
  EXPECT_TRUE(ReadsBack(*world_.Get(key), 0, key.size));
}

TEST_F(FaultTest, AFileSystemThatCannotPunchLosesTheObjectInstead) {
  const ObjectKey large = KeyOf("large", 2 * kChunkBytes);
  ASSERT_TRUE(FillRange(*world_.Get(large), 0, kChunkBytes + kBlockBytes).has_value());
  ops_.punch_error = EOPNOTSUPP;
  for (int i = 0; i < 16; ++i) {
    const ObjectKey other = KeyOf("o" + std::to_string(i), kChunkBytes);
    ASSERT_TRUE(FillRange(*world_.Get(other), 0, other.size).has_value());
  }
  EXPECT_GT(ops_.faults, 0);
  EXPECT_EQ(world_.Get(large)->CachedBytes(), 0U);
  EXPECT_FALSE(std::filesystem::exists(FileOf(first_.path(), large)));
}

TEST(FaultOnDiskTest, AfterAFailedSyncNothingOfTheGroupIsTrusted) {
  const TempDirectory directory;
  FaultyFileOps ops;
  CacheOptions options{.tiers = {{directory.path(), 64 * kMiB}}, .commit_interval = std::chrono::hours(1)};
  options.file_ops = &ops;
  CacheWorld world(options);
  if (world.cache().Tiers().front().kind != "disk") GTEST_SKIP() << "the temporary directory is on tmpfs";
  const ObjectKey key = KeyOf("a", 100);
  ASSERT_TRUE(FillRange(*world.Get(key), 0, key.size).has_value());
  ops.sync_error = EIO;
  EXPECT_EQ(world.cache().Flush().error().code(), Code::kUnavailable);
  EXPECT_EQ(world.cache().Find(key), nullptr);
}

TEST(TierOptionsTest, ParsesAndNamesWhatIsWrong) {
  const auto tiers = ParseTiers("/dev/shm/a:1GiB,/b:with:colon/:2MiB").value();
  ASSERT_EQ(tiers.size(), 2U);
  EXPECT_EQ(tiers[0].directory, "/dev/shm/a");
  EXPECT_EQ(tiers[0].capacity_bytes, kGiB);
  EXPECT_EQ(tiers[1].directory, "/b:with:colon");
  for (const char* bad : {"", "/a", "/a:", "/a:x", ":1GiB", "/a:1GiB,", "/a:1GiB,/a/:1GiB"}) {
    const auto parsed = ParseTiers(bad);
    ASSERT_FALSE(parsed.has_value()) << bad;
    EXPECT_EQ(parsed.error().code(), Code::kInvalidArgument);
    EXPECT_THAT(parsed.error().message(), HasSubstr("DIR:SIZE"));
  }
}

Error OpenError(const CacheOptions& options) {
  Metrics metrics;
  auto opened = OpenCache(options, SystemClock(), metrics);
  if (opened.has_value()) return {Code::kUnknown, "opened"};
  return opened.error();
}

TEST(BadTierTest, EachSaysWhatAndHowToMendIt) {
  const TempDirectory directory("/dev/shm");
  EXPECT_THAT(OpenError({}).message(), HasSubstr("at least one"));
  const Error missing = OpenError({.tiers = {{directory.path() + "/none", kGiB}}});
  EXPECT_EQ(missing.code(), Code::kNotFound);
  EXPECT_THAT(missing.message(), HasSubstr("make the directory first"));
  const Error small = OpenError({.tiers = {{directory.path(), kMiB}}});
  EXPECT_EQ(small.code(), Code::kInvalidArgument);
  EXPECT_THAT(small.message(), HasSubstr("at least 32"));
  std::ofstream(directory.path() + "/file") << "x";
  EXPECT_THAT(OpenError({.tiers = {{directory.path() + "/file", kGiB}}}).message(), HasSubstr("/file"));
  EXPECT_FALSE(std::filesystem::exists(directory.path() + "/objects"));
}

TEST(BadTierTest, ATierHasOneOwner) {
  const TempDirectory directory("/dev/shm");
  const CacheWorld world(directory.path());
  const Error error = OpenError({.tiers = {{directory.path(), 64 * kMiB}}});
  EXPECT_EQ(error.code(), Code::kAlreadyExists);
  EXPECT_THAT(error.message(), HasSubstr("pid " + std::to_string(::getpid())));
}

TEST(FloorTest, ATierStopsGrowingAtTheFloor) {
  const TempDirectory directory;
  struct statvfs space{};
  ASSERT_EQ(::statvfs(directory.path().c_str(), &space), 0);
  const uint64_t more_than_free = static_cast<uint64_t>(space.f_bavail) * space.f_frsize * 2;
  CacheWorld world(CacheOptions{.tiers = {{directory.path(), 64 * kMiB}},
                                .free_space_floor_bytes = more_than_free,
                                .commit_interval = std::chrono::hours(1)});
  if (world.cache().Tiers().front().kind != "disk") GTEST_SKIP() << "the temporary directory is on tmpfs";
  EXPECT_EQ(FillRange(*world.Get(KeyOf("a", 100)), 0, 100).error().code(), Code::kResourceExhausted);
}

TEST(TiersTest, SmallObjectsGoToMemoryLargeOnesToDisk) {
  const TempDirectory memory("/dev/shm");
  const TempDirectory disk;
  CacheWorld world(CacheOptions{.tiers = {{memory.path(), 64 * kMiB}, {disk.path(), 64 * kMiB}},
                                .free_space_floor_bytes = 0,
                                .commit_interval = std::chrono::hours(1)});
  if (world.cache().Tiers().back().kind != "disk") GTEST_SKIP() << "the temporary directory is on tmpfs";
  ASSERT_TRUE(FillRange(*world.Get(KeyOf("small", 1000)), 0, 1000).has_value());
  ASSERT_TRUE(FillRange(*world.Get(KeyOf("large", 8 * kMiB)), 0, kChunkBytes).has_value());
  EXPECT_EQ(world.Get(KeyOf("small", 1000))->TierKind(), "memory");
  EXPECT_EQ(world.Get(KeyOf("large", 8 * kMiB))->TierKind(), "disk");
}

// A scanner looks at the disk all the while: what the directory takes is never more than the budget.
TEST(BudgetTest, HoldsAtEveryInstant) {
  constexpr uint64_t kCapacity = 40 * kMiB;
  const TempDirectory directory("/dev/shm");
  CacheWorld world(CacheOptions{.tiers = {{directory.path(), kCapacity}},
                                .commit_interval = std::chrono::milliseconds(20),
                                .commit_bytes = 4 * kMiB});
  std::atomic<bool> done = false;
  uint64_t most = 0;
  std::thread scanner([&] {
    while (!done) most = std::max(most, SpaceBelow(directory.path()));
  });
  std::vector<std::thread> fillers;
  fillers.reserve(3);
  std::atomic<int> kept = 0;
  for (int worker = 0; worker < 3; ++worker) {
    fillers.emplace_back([&, worker] {
      for (int i = 0; i < 150; ++i) {
        const uint64_t size = i % 3 == 0 ? kChunkBytes + kMiB : 110'000;
        const auto object = world.Get(KeyOf(std::to_string(worker) + "/" + std::to_string(i), size));
        const uint64_t length = i % 2 == 0 ? size : std::min(size, 3 * kBlockBytes);
        if (FillRange(*object, 0, length).has_value()) ++kept;
        Try(world.metadata().Write({{object->key().path, std::string(2000, 'x')}}));
      }
    });
  }
  for (std::thread& filler : fillers) filler.join();
  done = true;
  scanner.join();
  EXPECT_GT(kept, 300);
  EXPECT_GT(most, kCapacity / 4);
  EXPECT_LE(most, kCapacity);
}

}  // namespace
}  // namespace mlcache::cache
