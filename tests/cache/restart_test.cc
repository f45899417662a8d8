// What survives a restart, and what is verified after it.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "common/unique_fd.h"
#include "tests/cache/cache_world.h"
#include "tests/cache/faulty_file_ops.h"

namespace mlcache::cache {
namespace {

void Overwrite(const std::string& path, uint64_t offset) {
  ASSERT_EQ(::chmod(path.c_str(), 0600), 0);
  const UniqueFd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  const char bad = '!';
  ASSERT_EQ(::pwrite(file.get(), &bad, 1, static_cast<off_t>(offset)), 1) << path;
}

class RestartTest : public ::testing::Test {
 protected:
  TempDirectory directory_{"/dev/shm"};
  CacheWorld world_{directory_.path()};
};

TEST_F(RestartTest, KeepsCompleteAndIncompleteObjectsAndVerifiesNothing) {
  const ObjectKey small = KeyOf("small", 110'000);
  const ObjectKey large = KeyOf("large", 3 * kChunkBytes + 1);
  const ObjectKey part = KeyOf("part", 3 * kChunkBytes);
  ASSERT_TRUE(FillRange(*world_.Get(small), 0, small.size).has_value());
  ASSERT_TRUE(FillRange(*world_.Get(large), 0, large.size).has_value());
  ASSERT_TRUE(FillRange(*world_.Get(part), kChunkBytes, 2 * kBlockBytes).has_value());
  const uint64_t used = world_.cache().Tiers().front().used_bytes;
  for (int round = 0; round < 2; ++round) {
    world_.Reopen();
    EXPECT_NEAR(static_cast<double>(world_.cache().Tiers().front().used_bytes), static_cast<double>(used), 1e6);
    EXPECT_EQ(world_.cache().Tiers().front().objects, 3U);
    EXPECT_TRUE(ReadsBack(*world_.cache().Find(small), 0, small.size));
    EXPECT_TRUE(ReadsBack(*world_.cache().Find(large), 0, large.size));
    EXPECT_TRUE(ReadsBack(*world_.cache().Find(part), kChunkBytes, 2 * kBlockBytes));
    EXPECT_EQ(world_.Get(part)->CachedBytes(), 2 * kBlockBytes);
    EXPECT_EQ(world_.Get(part)->Missing(0, part.size).size(), 2U);
    EXPECT_EQ(world_.Verified(), 0);
  }
  ASSERT_TRUE(FillRange(*world_.Get(part), 0, part.size).has_value());
  world_.Reopen();
  EXPECT_TRUE(ReadsBack(*world_.cache().Find(part), 0, part.size));
  EXPECT_EQ(world_.Verified(), 0);
}

TEST_F(RestartTest, AnotherBootVerifiesEachBlockOnceAndRemembersIt) {
  const ObjectKey key = KeyOf("a", kChunkBytes + 100);
  ASSERT_TRUE(FillRange(*world_.Get(key), 0, key.size).has_value());
  world_.Close();
  world_.options().boot_id = "another boot";
  world_.Open();
  std::vector<std::byte> out(1);
  EXPECT_EQ(world_.Get(key)->Read(0, out, Wait::kNever).error().code(), Code::kUnavailable);
  EXPECT_TRUE(ReadsBack(*world_.Get(key), 5, 1));
  EXPECT_EQ(world_.Verified(), kBlockBytes);
  world_.Reopen();
  EXPECT_TRUE(ReadsBack(*world_.Get(key), 5, 1));
  EXPECT_EQ(world_.Verified(), 0);
  EXPECT_TRUE(ReadsBack(*world_.Get(key), 0, key.size));
  EXPECT_EQ(world_.Verified(), key.size - kBlockBytes);
  EXPECT_TRUE(ReadsBack(*world_.Get(key), 0, key.size));
  EXPECT_EQ(world_.Verified(), key.size - kBlockBytes);
  world_.Reopen();
  EXPECT_TRUE(ReadsBack(*world_.Get(key), 0, key.size));
  EXPECT_EQ(world_.Verified(), 0);
  EXPECT_TRUE(world_.Get(key)->Read(0, out, Wait::kNever).has_value());
}

TEST_F(RestartTest, ADamagedBlockIsFoundDroppedAndFilledAgain) {
  const ObjectKey key = KeyOf("damaged", 2 * kChunkBytes);
  ASSERT_TRUE(FillRange(*world_.Get(key), 0, key.size).has_value());
  world_.Close();
  Overwrite(FileOf(directory_.path(), key), kChunkBytes + kBlockBytes + 17);
  world_.Open();
  const auto object = world_.Get(key);
  EXPECT_TRUE(ReadsBack(*object, 0, kChunkBytes));
  std::vector<std::byte> out(1);
  EXPECT_EQ(object->Read(kChunkBytes + kBlockBytes, out, Wait::kMayBlock).error().code(), Code::kDataLoss);
  EXPECT_EQ(world_.Corrupt(), 1);
  EXPECT_THAT(object->Missing(0, key.size), ::testing::ElementsAre(ByteRange{kChunkBytes + kBlockBytes, kBlockBytes}));
  ASSERT_TRUE(FillRange(*object, kChunkBytes + kBlockBytes, kBlockBytes).has_value());
  EXPECT_TRUE(ReadsBack(*object, 0, key.size));
}

TEST_F(RestartTest, BlocksOfAnotherPlaceOrObjectDoNotPass) {
  const ObjectKey one = KeyOf("one", kBlockBytes);
  const ObjectKey two = KeyOf("two", kBlockBytes);
  for (const ObjectKey& key : {one, two}) ASSERT_TRUE(FillRange(*world_.Get(key), 0, key.size).has_value());
  world_.Close();
  std::filesystem::rename(FileOf(directory_.path(), one), FileOf(directory_.path(), two));
  world_.Open();
  EXPECT_EQ(world_.cache().Find(one), nullptr);
  std::vector<std::byte> out(1);
  EXPECT_EQ(world_.Get(two)->Read(0, out, Wait::kMayBlock).error().code(), Code::kDataLoss);
}

TEST_F(RestartTest, AShortenedFileIsDamagedAndAStrangeOneIsRemoved) {
  const ObjectKey key = KeyOf("short", 3 * kBlockBytes);
  ASSERT_TRUE(FillRange(*world_.Get(key), 0, key.size).has_value());
  world_.Close();
  ASSERT_EQ(::chmod(FileOf(directory_.path(), key).c_str(), 0600), 0);
  std::filesystem::resize_file(FileOf(directory_.path(), key), 100);
  const std::string strange = FileOf(directory_.path(), KeyOf("strange", 1));
  std::ofstream(strange) << "x";
  world_.Open();
  EXPECT_FALSE(std::filesystem::exists(strange));
  std::vector<std::byte> out(10);
  EXPECT_EQ(world_.Get(key)->Read(kBlockBytes, out, Wait::kMayBlock).error().code(), Code::kDataLoss);
  EXPECT_FALSE(world_.Get(key)->Missing(kBlockBytes, 1).empty());
}

TEST_F(RestartTest, NodesAreForgottenAtABootAndMetadataIsNot) {
  for (KeyValue* store : {&world_.metadata(), &world_.nodes()}) {
    ASSERT_TRUE(store->Write({{"a/1", "x"}, {"a/2", "y"}, {"b", "z"}}).has_value());
    ASSERT_TRUE(store->Write({{"a/2", std::nullopt}}).has_value());
  }
  world_.Reopen();
  EXPECT_EQ(world_.nodes().Get("a/1").value(), "x");
  EXPECT_EQ(world_.nodes().Get("a/2").value(), std::nullopt);
  world_.Close();
  world_.options().boot_id = "another";
  world_.Open();
  EXPECT_EQ(world_.nodes().Get("a/1").value(), std::nullopt);
  std::vector<std::string> seen;
  ASSERT_TRUE(world_.metadata()
                  .Scan("a/",
                        [&](std::string_view key, std::string_view value) {
                          seen.push_back(std::string(key) + "=" + std::string(value));
                          return true;
                        })
                  .has_value());
  EXPECT_THAT(seen, ::testing::ElementsAre("a/1=x"));
}

TEST_F(RestartTest, ASmallerBudgetEvictsTheLeastRecentlyUsed) {
  for (int i = 0; i < 10; ++i) {
    const ObjectKey key = KeyOf("o" + std::to_string(i), 3 * kMiB);
    ASSERT_TRUE(FillRange(*world_.Get(key), 0, key.size).has_value());
    world_.clock.Advance(std::chrono::seconds(1));
  }
  world_.Get(KeyOf("o0", 3 * kMiB))->Touch({0, 1}, {});
  world_.Close();
  world_.options().tiers.front().capacity_bytes = 32 * kMiB;
  world_.Open();
  EXPECT_LE(world_.cache().Tiers().front().used_bytes, 32 * kMiB);
  EXPECT_NE(world_.cache().Find(KeyOf("o0", 3 * kMiB)), nullptr);
  EXPECT_NE(world_.cache().Find(KeyOf("o9", 3 * kMiB)), nullptr);
  EXPECT_EQ(world_.cache().Find(KeyOf("o1", 3 * kMiB)), nullptr);
}

// Runs `work` over a cache of its own in a child that kills itself at `moment`.
template <typename Work>
void DieAt(const CacheOptions& options, const std::string& moment, Work work) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    FaultyFileOps ops;
    CacheOptions with_faults = options;
    with_faults.file_ops = &ops;
    CacheWorld world(with_faults);
    work(world, ops, moment);
    ::_exit(3);  // the moment was never reached
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << "exit " << WEXITSTATUS(status);
}

class CrashTest : public ::testing::TestWithParam<std::string> {};

TEST_P(CrashTest, NothingCommittedIsLostAndNothingIsLeftOver) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "the thread sanitizer cannot follow a fork of a process with threads";
#endif
  const TempDirectory directory("/dev/shm");
  const CacheOptions options{.tiers = {{directory.path(), 64 * kMiB}}, .commit_interval = std::chrono::hours(1)};
  const ObjectKey kept = KeyOf("kept", 2 * kChunkBytes);
  const ObjectKey part = KeyOf("part", 3 * kChunkBytes);
  const ObjectKey late = KeyOf("late", 5 * kBlockBytes);
  DieAt(options, GetParam(), [&](CacheWorld& world, FaultyFileOps& ops, const std::string& moment) {
    Try(FillRange(*world.Get(kept), 0, kept.size));
    Try(FillRange(*world.Get(part), 0, 2 * kChunkBytes));
    Try(world.cache().Flush());
    ops.die_at = moment;
    if (moment.starts_with("evict")) world.cache().Evict(part);
    if (moment.starts_with("drop")) {
      for (int i = 0; i < 14; ++i) {
        const ObjectKey filler = KeyOf("filler" + std::to_string(i), kChunkBytes);
        world.Get(kept)->Touch({0, 1}, {});
        Try(FillRange(*world.Get(filler), 0, filler.size));
      }
    }
    Try(FillRange(*world.Get(late), 0, late.size));
    Try(world.cache().Flush());
  });
  CacheWorld world(options);
  EXPECT_TRUE(ReadsBack(*world.Get(kept), 0, kept.size));
  if (!GetParam().starts_with("evict") && !GetParam().starts_with("drop")) {
    EXPECT_EQ(world.Get(part)->CachedBytes(), 2 * kChunkBytes);
  }
  for (const ObjectKey& key : {part, late}) {
    const auto object = world.Get(key);
    for (uint64_t offset = 0; offset < key.size; offset += kBlockBytes) {
      const uint64_t length = std::min(kBlockBytes, key.size - offset);
      if (!object->Missing(offset, length).empty()) continue;
      EXPECT_TRUE(ReadsBack(*object, offset, length)) << offset;
    }
  }
  EXPECT_EQ(world.Corrupt(), 0);
  if (GetParam() == "commit.after_rows") {
    EXPECT_TRUE(ReadsBack(*world.Get(late), 0, late.size));
  }
  // What the files take is what is charged: nothing was left over.
  uint64_t cached = 0;
  for (const ObjectKey& key : {kept, part, late}) cached += world.Get(key)->CachedBytes();
  for (int i = 0; i < 14; ++i) cached += world.Get(KeyOf("filler" + std::to_string(i), kChunkBytes))->CachedBytes();
  EXPECT_EQ(SpaceBelow(directory.path() + "/objects"), cached);
  EXPECT_LE(SpaceBelow(directory.path()), world.cache().Tiers().front().used_bytes);
}

INSTANTIATE_TEST_SUITE_P(Moments, CrashTest,
                         ::testing::Values("fill.after_write", "commit.before_sync", "commit.after_sync",
                                           "commit.after_rows", "evict.after_rows", "evict.after_unlink",
                                           "drop.after_rows", "drop.after_punch"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::ranges::replace(name, '.', '_');
                           return name;
                         });

}  // namespace
}  // namespace mlcache::cache
