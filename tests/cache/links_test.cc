// Hard links to object files (object_links.h): what they keep, what they cost, and that they are not taken for
// tampering.
#include <fcntl.h>
#include <unistd.h>

#include <atomic>

#include "common/unique_fd.h"
#include "tests/cache/cache_world.h"

namespace mlcache::cache {
namespace {

constexpr uint64_t kSize = 3 * kMiB + 12345;

class LinksTest : public ::testing::Test {
 protected:
  LinksTest() : world_(directory_.path()) {
    std::filesystem::create_directory(Directory());
    links_fd_.Reset(::open(Directory().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  }

  std::string Directory() const { return directory_.path() + "/view"; }
  std::string NameOf(const ObjectKey& key) const { return Directory() + "/" + ToHex(IdOf(key)); }
  uint64_t Used() { return world_.cache().Tiers().front().used_bytes; }

  Result<ObjectLink> Link(const ObjectKey& key) {
    const int directory = links_fd_.get();
    return world_.links().Link(key, std::span(&directory, 1));
  }

  ObjectKey Fill(const std::string& path, uint64_t size = kSize) {
    const ObjectKey key = KeyOf(path, size);
    EXPECT_TRUE(FillRange(*world_.Get(key), 0, size).has_value());
    return key;
  }

  // Until no more of them is kept: everything that may leave has left.
  void Crowd() {
    for (int i = 0; i < 40; ++i) {
      const ObjectKey key = KeyOf("crowd" + std::to_string(i), kSize);
      Try(FillRange(*world_.Get(key), 0, kSize));
    }
  }

  TempDirectory directory_;
  CacheWorld world_;
  UniqueFd links_fd_;
};

TEST_F(LinksTest, ALinkShowsTheBytesAndNothingIsVerifiedAgain) {
  const ObjectKey key = Fill("a");
  ASSERT_TRUE(world_.cache().Flush().has_value());
  const double verified = world_.Verified();
  auto link = Link(key);
  ASSERT_TRUE(link.has_value()) << link.error();
  struct stat info{};
  ASSERT_EQ(::stat(NameOf(key).c_str(), &info), 0);
  EXPECT_EQ(info.st_nlink, 2U);
  EXPECT_EQ(static_cast<uint64_t>(info.st_size), kSize);
  ASSERT_TRUE(world_.cache().Flush().has_value());
  EXPECT_TRUE(ReadsBack(*world_.Get(key), 0, kSize));
  world_.links().Unlink(*std::move(link), links_fd_.get());
  EXPECT_NE(::stat(NameOf(key).c_str(), &info), 0);
  ASSERT_TRUE(world_.cache().Flush().has_value());
  EXPECT_TRUE(ReadsBack(*world_.Get(key), 0, kSize));
  EXPECT_EQ(world_.Verified(), verified);
  world_.Reopen();
  EXPECT_TRUE(ReadsBack(*world_.Get(key), 0, kSize));
  EXPECT_EQ(world_.Verified(), 0) << "after a restart of the daemon alone";
}

TEST_F(LinksTest, OnlyWhatIsCompleteIsLinked) {
  const ObjectKey key = KeyOf("part", kSize);
  EXPECT_EQ(Link(key).error().code(), Code::kNotFound);
  ASSERT_TRUE(FillRange(*world_.Get(key), 0, kMiB).has_value());
  EXPECT_EQ(Link(key).error().code(), Code::kNotFound);
  ASSERT_TRUE(FillRange(*world_.Get(key), kMiB, kSize - kMiB).has_value());
  EXPECT_TRUE(Link(key).has_value());
}

TEST_F(LinksTest, WhatThisBootHasNotSeenIsVerifiedFirst) {
  const ObjectKey good = Fill("good");
  const ObjectKey bad = Fill("bad");
  world_.Close();
  {
    const UniqueFd file(::open(FileOf(directory_.path(), bad).c_str(), O_RDONLY));
    ASSERT_EQ(::fchmod(file.get(), 0600), 0);
    const UniqueFd writable(::open(FileOf(directory_.path(), bad).c_str(), O_WRONLY));
    ASSERT_EQ(::pwrite(writable.get(), "x", 1, 2 * kMiB), 1);
  }
  world_.options().boot_id = "another boot";
  world_.Open();
  auto link = Link(good);
  ASSERT_TRUE(link.has_value()) << link.error();
  EXPECT_EQ(world_.Verified(), static_cast<double>(kSize));
  EXPECT_EQ(Link(bad).error().code(), Code::kDataLoss);
  struct stat info{};
  EXPECT_NE(::stat(NameOf(bad).c_str(), &info), 0);
}

TEST_F(LinksTest, LinkedObjectsOutliveEveryoneAndTheContentionIsTold) {
  std::atomic<int> told = 0;
  world_.links().OnContention([&] { ++told; });
  const ObjectKey key = Fill("kept");
  const ObjectKey other = Fill("other");
  auto link = Link(key);
  ASSERT_TRUE(link.has_value());
  for (int i = 0; i < 8; ++i) Fill("few" + std::to_string(i));
  EXPECT_EQ(told, 0) << "there was room";
  Crowd();
  EXPECT_EQ(world_.cache().Find(other), nullptr);
  EXPECT_EQ(world_.Get(key)->CachedBytes(), kSize);
  EXPECT_GT(told, 0) << "others were evicted in its stead";
  told = 0;
  // Everything linked: no room is left to be made.
  std::vector<ObjectLink> links;
  for (int i = 0; i < 40; ++i) {
    const ObjectKey more = KeyOf("crowd" + std::to_string(i), kSize);
    if (auto linked = Link(more); linked.has_value()) links.push_back(*std::move(linked));
  }
  ASSERT_GT(links.size(), 10U);
  Crowd();
  EXPECT_GT(told, 0);
  for (ObjectLink& each : links) world_.links().Unlink(std::move(each), links_fd_.get());
  world_.links().Unlink(*std::move(link), links_fd_.get());
  Crowd();
  Crowd();
  EXPECT_EQ(world_.cache().Find(key), nullptr) << "the policy's again";
}

TEST_F(LinksTest, EvictedBytesStayChargedUntilTheirLinkIsGone) {
  const ObjectKey key = Fill("a");
  ASSERT_TRUE(world_.cache().Flush().has_value());
  auto link = Link(key);
  ASSERT_TRUE(link.has_value());
  const uint64_t used = Used();
  EXPECT_EQ(world_.cache().Evict(key), kSize);
  EXPECT_EQ(world_.Get(key)->CachedBytes(), 0U);
  EXPECT_GE(Used() + 64 * kKiB, used);
  EXPECT_GE(Used(), SpaceBelow(Directory()));
  // Filled anew it is another file; the old one's link counts on.
  ASSERT_TRUE(FillRange(*world_.Get(key), 0, kSize).has_value());
  EXPECT_GE(Used(), used + kSize);
  world_.links().Unlink(*std::move(link), links_fd_.get());
  EXPECT_LE(Used(), used + 64 * kKiB);
  EXPECT_TRUE(ReadsBack(*world_.Get(key), 0, kSize));
}

TEST_F(LinksTest, ADamagedBlockOfALinkedFileIsNeverPunched) {
  const ObjectKey key = Fill("a");
  world_.Close();
  world_.Open();
  auto link = Link(key);
  ASSERT_TRUE(link.has_value());
  ASSERT_TRUE(world_.cache().Flush().has_value());
  {  // a stranger's write, noticed by the file's identity
    ASSERT_EQ(::chmod(NameOf(key).c_str(), 0600), 0);
    const UniqueFd writable(::open(NameOf(key).c_str(), O_WRONLY));
    ASSERT_EQ(::pwrite(writable.get(), "x", 1, 70'000), 1);
  }
  world_.Reopen();
  std::vector<std::byte> out(kSize);
  EXPECT_EQ(world_.Get(key)->Read(0, out, Wait::kMayBlock).error().code(), Code::kDataLoss);
  struct stat info{};
  ASSERT_EQ(::stat(NameOf(key).c_str(), &info), 0);
  EXPECT_GE(static_cast<uint64_t>(info.st_blocks) * 512, kSize) << "no hole";
  EXPECT_EQ(info.st_nlink, 1U) << "the object has let go of it";
}

TEST_F(LinksTest, LinksOfAnEarlierRunAreAdopted) {
  const ObjectKey key = Fill("a");
  const ObjectKey gone = Fill("gone");
  ASSERT_TRUE(Link(key).has_value());
  ASSERT_TRUE(Link(gone).has_value());
  ASSERT_TRUE(world_.cache().Flush().has_value());
  const uint64_t used = Used();
  world_.cache().Evict(gone);
  world_.Reopen();
  auto kept = world_.links().Adopt(IdOf(key), 0, links_fd_.get());
  auto stray = world_.links().Adopt(IdOf(gone), 0, links_fd_.get());
  ASSERT_TRUE(kept.has_value() && stray.has_value());
  EXPECT_GE(Used() + kMiB, used) << "what has no object any more is counted too";
  EXPECT_TRUE(ReadsBack(*world_.Get(key), 0, kSize));
  EXPECT_EQ(world_.Verified(), 0);
  Crowd();
  EXPECT_EQ(world_.Get(key)->CachedBytes(), kSize);
  const uint64_t before = Used();
  world_.links().Unlink(*std::move(stray), links_fd_.get());
  EXPECT_LE(Used() + kSize, before + kMiB);
  world_.links().Unlink(*std::move(kept), links_fd_.get());
  EXPECT_TRUE(std::filesystem::is_empty(Directory()));
}

TEST_F(LinksTest, SpaceBesideTheLinksIsCharged) {
  const uint64_t used = Used();
  auto held = world_.links().Hold(0, 5 * kMiB);
  ASSERT_TRUE(held.has_value());
  EXPECT_GE(Used(), used + 5 * kMiB);
  EXPECT_EQ(world_.links().Hold(0, 10 * kGiB).error().code(), Code::kResourceExhausted);
  held->reset();
  EXPECT_LE(Used(), used + 64 * kKiB);
}

}  // namespace
}  // namespace mlcache::cache
