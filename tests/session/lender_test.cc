// Lending to a mount: what it must send first, what it is sent, and what it is told when a file leaves the cache.
#include "cached/session/lender.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

#include "common/ring/socket.h"
#include "tests/cache/cache_world.h"

#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#endif

namespace mlcache::session {
namespace {

using cache::BytesOf;
using cache::CachedObject;
using cache::CacheWorld;
using cache::KeyOf;
using cache::ObjectKey;
using cache::Wait;

// As a keeper makes it; invalid without the privilege.
UniqueFd Clone(const std::string& path, bool read_only) {
  UniqueFd clone(::open_tree(AT_FDCWD, path.c_str(), OPEN_TREE_CLONE | O_CLOEXEC));
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_RDONLY;
  if (clone.valid() && read_only &&
      ::mount_setattr(clone.get(), "", AT_EMPTY_PATH, &attributes, sizeof(attributes)) != 0) {
    clone.Reset();
  }
  return clone;
}

class LenderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "cloning a mount takes root: run as root";
    std::array<int, 2> ends{};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()), 0);
    theirs_.Reset(ends[0]);
    ours_.Reset(ends[1]);
  }

  Status Begin(UniqueFd root) {
    std::vector<UniqueFd> descriptors;
    descriptors.push_back(std::move(theirs_));
    descriptors.push_back(std::move(root));
    return lender_.Begin(std::move(descriptors));
  }
  std::string Objects() { return world_.cache().ObjectsDirectories().front().path; }

  std::shared_ptr<CachedObject> Filled(const ObjectKey& key) {
    auto object = *world_.cache().Acquire(key);
    EXPECT_TRUE(cache::FillRange(*object, 0, key.size).has_value());
    return object;
  }

  cache::TempDirectory directory_;
  CacheWorld world_{directory_.path()};
  Metrics metrics_;
  Lender lender_{world_.cache(), metrics_};
  UniqueFd theirs_;  // the daemon's end, until it is sent
  UniqueFd ours_;    // the shim's
};

TEST_F(LenderTest, LendsNothingBeforeTheDirectoriesHaveCome) {
  const auto object = Filled(KeyOf("a", 100'000));
  EXPECT_FALSE(lender_.ready());
  EXPECT_EQ(lender_.Lend(10, *object, {}, Wait::kMayBlock).error().code(), Code::kFailedPrecondition);
}

TEST_F(LenderTest, SendsADescriptorThatCannotBeOpenedForWriting) {
  ASSERT_TRUE(Begin(Clone(Objects(), true)).has_value());
  const ObjectKey key = KeyOf("a", 100'000);
  const auto object = Filled(key);
  const Result<uint64_t> lease = lender_.Lend(10, *object, {}, Wait::kNever);
  ASSERT_TRUE(lease.has_value()) << lease.error();
  Result<ring::Message> message = ring::Receive(ours_.get(), 1000);
  ASSERT_TRUE(message.has_value());
  uint64_t number = 0;
  ASSERT_EQ(message->bytes.size(), sizeof(number));
  std::memcpy(&number, message->bytes.data(), sizeof(number));
  EXPECT_EQ(number, *lease);
  ASSERT_EQ(message->descriptors.size(), 1U);
  const int file = message->descriptors.front().get();
  std::vector<std::byte> bytes(key.size);
  EXPECT_EQ(::pread(file, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
  EXPECT_EQ(bytes, BytesOf(key, 0, key.size));
  const UniqueFd writable(::open(("/proc/self/fd/" + std::to_string(file)).c_str(), O_RDWR | O_CLOEXEC));
  EXPECT_FALSE(writable.valid());
  EXPECT_EQ(errno, EROFS);
}

TEST_F(LenderTest, RefusesAWritableViewAndForeignDirectories) {
  EXPECT_EQ(Begin(Clone(Objects(), false)).error().code(), Code::kPermissionDenied);
  EXPECT_EQ(Begin(Clone(directory_.path(), true)).error().code(), Code::kPermissionDenied);
  EXPECT_EQ(Begin(UniqueFd(::open("/proc/self/status", O_RDONLY | O_CLOEXEC))).error().code(), Code::kPermissionDenied);
  EXPECT_EQ(lender_.Begin({}).error().code(), Code::kInvalidArgument);
  EXPECT_FALSE(lender_.ready());
}

TEST_F(LenderTest, AMountThatDoesNotTakeItsDescriptorsIsLentNoMore) {
  ASSERT_TRUE(Begin(Clone(Objects(), true)).has_value());
  const auto object = Filled(KeyOf("a", 100'000));
  for (uint64_t i = 0; i < Lender::kMostUnderWay; ++i) {
    ASSERT_TRUE(lender_.Lend(10, *object, {}, Wait::kMayBlock).has_value());
  }
  EXPECT_EQ(lender_.Lend(10, *object, {}, Wait::kMayBlock).error().code(), Code::kUnavailable);
  lender_.Taken(1);
  EXPECT_TRUE(lender_.Lend(10, *object, {}, Wait::kMayBlock).has_value());
  lender_.Taken(1'000'000);  // a lie
  for (uint64_t i = 0; i < Lender::kMostUnderWay; ++i) {
    ASSERT_TRUE(lender_.Lend(10, *object, {}, Wait::kMayBlock).has_value());
  }
  EXPECT_EQ(lender_.Lend(10, *object, {}, Wait::kMayBlock).error().code(), Code::kUnavailable);
}

TEST_F(LenderTest, ASocketWithoutRoomHoldsNobodyUp) {
  const int small = 1;  // the kernel makes it as small as it goes
  ASSERT_EQ(::setsockopt(theirs_.get(), SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
  ASSERT_TRUE(Begin(Clone(Objects(), true)).has_value());
  const auto object = Filled(KeyOf("a", 100'000));
  uint64_t sent = 0;
  while (lender_.Lend(10, *object, {}, Wait::kMayBlock).has_value()) ++sent;
  ASSERT_GT(sent, 0U);
  ASSERT_LT(sent, Lender::kMostUnderWay) << "the socket was full before the limit";
  EXPECT_EQ(lender_.Lend(10, *object, {}, Wait::kMayBlock).error().code(), Code::kDeadlineExceeded);
  ASSERT_TRUE(ring::Receive(ours_.get(), 1000).has_value());
  const Result<uint64_t> next = lender_.Lend(10, *object, {}, Wait::kMayBlock);
  ASSERT_TRUE(next.has_value()) << next.error();
  EXPECT_EQ(*next, sent + 1) << "no number is given to what was not sent";
}

TEST_F(LenderTest, KnowsTheNodeOfWhatLeaves) {
  ASSERT_TRUE(Begin(Clone(Objects(), true)).has_value());
  std::vector<uint64_t> revoked;
  world_.cache().TellOfLeaving([&](const cache::ObjectId& id) {
    if (const auto node = lender_.Leave(id)) revoked.push_back(*node);
  });
  const ObjectKey key = KeyOf("a", 100'000);
  const auto object = Filled(key);
  ASSERT_TRUE(lender_.Lend(10, *object, {}, Wait::kMayBlock).has_value());
  world_.cache().Evict(key);
  EXPECT_THAT(revoked, ::testing::ElementsAre(10));
  Filled(key);
  world_.cache().Evict(key);
  EXPECT_EQ(revoked.size(), 1U) << "it was not lent again";
}

TEST_F(LenderTest, CountsOpensAsHitsOfTheWholeFile) {
  ASSERT_TRUE(Begin(Clone(Objects(), true)).has_value());
  const auto object = Filled(KeyOf("a", 100'000));
  ASSERT_TRUE(lender_.Lend(10, *object, {}, Wait::kMayBlock).has_value());
  const std::array<uint64_t, 3> nodes = {10, 10, 999};
  lender_.Accessed(nodes);
  const char* const tier = object->TierKind() == "memory" ? "memory" : "disk";
  EXPECT_EQ(metrics_.cache_hit_bytes.Add({{"tier", tier}, {"pattern", "whole"}}).Value(), 300'000);
  EXPECT_EQ(metrics_.cache_hits.Add({{"pattern", "whole"}}).Value(), 3);
}

}  // namespace
}  // namespace mlcache::session
