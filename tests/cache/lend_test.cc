// Lent files: what is lent, that it never changes, and when its space comes free.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>

#include "tests/cache/cache_world.h"

namespace mlcache::cache {
namespace {

constexpr uint64_t kBytes = 3 * kMiB + 5000;
constexpr uint64_t kCapacity = 64 * kMiB;

class LendTest : public ::testing::Test {
 protected:
  LendTest() {
    std::signal(SIGIO, SIG_IGN);
    const std::vector<ObjectsDirectory> directories = world_.cache().ObjectsDirectories();
    for (const ObjectsDirectory& directory : directories) {
      // What the keeper sends is a read-only mount of this; here the directory itself.
      roots_.directories.emplace_back(::open(directory.path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    }
  }

  // Turns one bit of the object file over behind the cache's back.
  void FlipBit(const ObjectKey& key, off_t offset) const {
    const std::string path = FileOf(world_.directory(), key);
    ASSERT_EQ(::chmod(path.c_str(), 0600), 0);
    const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    unsigned char byte = 0;
    ASSERT_EQ(::pread(fd.get(), &byte, 1, offset), 1);
    byte ^= 1;
    ASSERT_EQ(::pwrite(fd.get(), &byte, 1, offset), 1);
  }

  std::shared_ptr<CachedObject> Filled(const ObjectKey& key) {
    auto object = *world_.cache().Acquire(key);
    EXPECT_TRUE(FillRange(*object, 0, key.size).has_value());
    return object;
  }

  static std::vector<std::byte> Content(int fd, uint64_t bytes) {
    std::vector<std::byte> content(bytes + 1);
    const ssize_t length = ::pread(fd, content.data(), content.size(), 0);
    content.resize(length < 0 ? 0 : static_cast<size_t>(length));
    return content;
  }

  uint64_t Used() { return world_.cache().Tiers().front().used_bytes; }

  TempDirectory directory_;
  CacheWorld world_{directory_.path(), kCapacity};
  LendingRoots roots_;
};

TEST_F(LendTest, ACompleteObjectIsLentForReadingAlone) {
  const auto object = Filled(KeyOf("a", kBytes));
  const Result<UniqueFd> lent = object->Lend(roots_, Wait::kNever);
  ASSERT_TRUE(lent.has_value()) << lent.error();
  EXPECT_EQ(::fcntl(lent->get(), F_GETFL) & O_ACCMODE, O_RDONLY);
  EXPECT_EQ(Content(lent->get(), kBytes), BytesOf(object->key(), 0, kBytes));
}

TEST_F(LendTest, WhatIsNotCompleteIsNotLent) {
  const auto object = *world_.cache().Acquire(KeyOf("a", kBytes));
  EXPECT_EQ(object->Lend(roots_, Wait::kMayBlock).error().code(), Code::kNotFound);
  ASSERT_TRUE(FillRange(*object, 0, kBlockBytes).has_value());
  EXPECT_EQ(object->Lend(roots_, Wait::kMayBlock).error().code(), Code::kNotFound);
}

TEST_F(LendTest, WithoutARootNothingIsLent) {
  const auto object = Filled(KeyOf("a", kBytes));
  EXPECT_EQ(object->Lend({}, Wait::kMayBlock).error().code(), Code::kFailedPrecondition);
}

TEST_F(LendTest, BytesThatWereNotCheckedAreCheckedFirst) {
  const ObjectKey key = KeyOf("a", kBytes);
  Filled(key);
  ASSERT_TRUE(world_.cache().Flush().has_value());
  world_.Close();
  // Another boot, and a bit turned over.
  FlipBit(key, 2 * kMiB);
  world_.options().boot_id = "another boot";
  world_.Open();
  const auto object = *world_.cache().Acquire(key);
  EXPECT_EQ(object->Lend(roots_, Wait::kNever).error().code(), Code::kUnavailable);
  EXPECT_EQ(object->Lend(roots_, Wait::kMayBlock).error().code(), Code::kDataLoss);
  EXPECT_EQ(object->CachedBytes(), kBytes - kBlockBytes);
}

TEST_F(LendTest, EvictedWhileLentItStaysReadableAndCharged) {
  const ObjectKey key = KeyOf("a", kBytes);
  std::vector<ObjectId> left;
  world_.cache().TellOfLeaving([&](const ObjectId& id) { left.push_back(id); });
  const auto object = Filled(key);
  const uint64_t before = Used();
  Result<UniqueFd> lent = object->Lend(roots_, Wait::kMayBlock);
  ASSERT_TRUE(lent.has_value());
  EXPECT_EQ(world_.cache().Evict(key), kBytes);
  EXPECT_THAT(left, ::testing::ElementsAre(IdOf(key)));
  EXPECT_EQ(Content(lent->get(), kBytes), BytesOf(key, 0, kBytes));
  EXPECT_GE(Used() + kMiB, before) << "the space is still taken";
  lent->Reset();
  ASSERT_TRUE(world_.cache().Flush().has_value());  // looks after the dead, too
  EXPECT_LT(Used() + 2 * kMiB, before);
}

TEST_F(LendTest, AMappingThatOutlivesItsDescriptorKeepsTheSpaceCharged) {
  const ObjectKey key = KeyOf("a", kBytes);
  const auto object = Filled(key);
  const uint64_t before = Used();
  Result<UniqueFd> lent = object->Lend(roots_, Wait::kMayBlock);
  ASSERT_TRUE(lent.has_value());
  void* const mapped = ::mmap(nullptr, kBytes, PROT_READ, MAP_SHARED, lent->get(), 0);
  ASSERT_NE(mapped, MAP_FAILED);
  lent->Reset();
  world_.cache().Evict(key);
  ASSERT_TRUE(world_.cache().Flush().has_value());
  EXPECT_GE(Used() + kMiB, before);
  EXPECT_EQ(std::memcmp(mapped, BytesOf(key, 0, kBytes).data(), kBytes), 0);
  ::munmap(mapped, kBytes);
  ASSERT_TRUE(world_.cache().Flush().has_value());
  EXPECT_LT(Used() + 2 * kMiB, before);
}

TEST_F(LendTest, ADamagedFileThatIsLentIsReplacedNotPunched) {
  const ObjectKey key = KeyOf("a", kBytes);
  auto object = Filled(key);
  Result<UniqueFd> lent = object->Lend(roots_, Wait::kMayBlock);
  ASSERT_TRUE(lent.has_value());
  ASSERT_TRUE(world_.cache().Flush().has_value());
  object.reset();
  world_.Close();
  FlipBit(key, kMiB);
  world_.Open();
  object = *world_.cache().Acquire(key);
  std::vector<std::byte> bytes(kBlockBytes);
  EXPECT_EQ(object->Read(kMiB, bytes, Wait::kMayBlock).error().code(), Code::kDataLoss);
  EXPECT_EQ(object->CachedBytes(), 0);
  const std::vector<std::byte> seen = Content(lent->get(), kBytes);
  ASSERT_EQ(seen.size(), kBytes);
  const std::vector<std::byte> whole = BytesOf(key, 0, kBytes);
  EXPECT_TRUE(std::equal(seen.begin() + kMiB + kBlockBytes, seen.end(), whole.begin() + kMiB + kBlockBytes));
  size_t different = 0;
  for (size_t i = 0; i < seen.size(); ++i) different += seen[i] != whole[i] ? 1 : 0;
  EXPECT_EQ(different, 1) << "but for the flipped bit nothing was touched";
}

TEST_F(LendTest, PagesThatReadersKeepThemselvesGoOnceTheyAreOnTheDisk) {
  const ObjectKey key = KeyOf("a", kBytes);
  const auto object = Filled(key);
  if (object->TierKind() == "memory") GTEST_SKIP() << "the temporary directory is in memory: set TMPDIR to a disk";
  const auto resident = [&] {
    const UniqueFd fd(::open(FileOf(world_.directory(), key).c_str(), O_RDONLY | O_CLOEXEC));
    void* const mapped = ::mmap(nullptr, kBytes, PROT_READ, MAP_SHARED, fd.get(), 0);
    std::vector<unsigned char> pages((kBytes + 4095) / 4096);
    EXPECT_EQ(::mincore(mapped, kBytes, pages.data()), 0);
    ::munmap(mapped, kBytes);
    return std::count_if(pages.begin(), pages.end(), [](unsigned char page) { return (page & 1) != 0; });
  };
  EXPECT_GT(resident(), 100);
  object->LetPagesGo();
  EXPECT_GT(resident(), 100) << "not on the disk yet";
  ASSERT_TRUE(world_.cache().Flush().has_value());
  EXPECT_LT(resident(), 100);
  EXPECT_TRUE(ReadsBack(*object, 0, kBytes));
  EXPECT_GT(resident(), 100);
  object->LetPagesGo();
  EXPECT_LT(resident(), 100);
}

TEST_F(LendTest, MakingRoomWaitsForWhatWasToldToGo) {
  // Two objects of which only one fits; the borrower lets go when it is told.
  const uint64_t most = (kCapacity - 8 * kMiB) / 4 * 3 / kChunkBytes * kChunkBytes;
  const ObjectKey first = KeyOf("first", most);
  Result<UniqueFd> lent = Fail(Code::kNotFound, "");
  world_.cache().TellOfLeaving([&](const ObjectId& id) {
    if (id == IdOf(first)) lent = Fail(Code::kNotFound, "");
  });
  {
    const auto object = Filled(first);
    lent = object->Lend(roots_, Wait::kMayBlock);
    ASSERT_TRUE(lent.has_value());
  }
  const auto second = *world_.cache().Acquire(KeyOf("second", most));
  EXPECT_TRUE(FillRange(*second, 0, most).has_value());
  EXPECT_FALSE(lent.has_value());
}

}  // namespace
}  // namespace mlcache::cache
