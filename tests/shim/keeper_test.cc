#include "shim/keeper.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shim/control_files.h"
#include "shim/directory_locks.h"

namespace mlcache::shim {
namespace {

TEST(SharedStateTest, OutlivesTheProcessThatWroteIt) {
  const SharedStatePointer state = *CreateSharedState();
  const pid_t child = ::fork();
  if (child == 0) {
    state->beats[1].unique = 42 | kResendBit;
    ::_exit(0);
  }
  ::waitpid(child, nullptr, 0);
  EXPECT_EQ(state->beats[1].unique, 42 | kResendBit);
}

TEST(SharedStateTest, TwoCrashesPoison) {
  const SharedStatePointer state = *CreateSharedState();
  state->beats[0].unique = 42;
  ChargeDeath(*state, kCrashPoints);
  EXPECT_EQ(state->beats[0].unique, 0U);
  EXPECT_FALSE(IsPoison(*state, 42));
  state->beats[1].unique = 42 | kResendBit;  // the same request, sent again, on another worker
  ChargeDeath(*state, kCrashPoints);
  EXPECT_TRUE(IsPoison(*state, 42));
  EXPECT_TRUE(IsPoison(*state, 42 | kResendBit));
  EXPECT_FALSE(IsPoison(*state, 44));
}

TEST(SharedStateTest, KillsFromOutsideHardlyCount) {
  const SharedStatePointer state = *CreateSharedState();
  for (uint32_t i = 0; i + 1 < kPoisonPoints; ++i) {
    state->beats[0].unique = 42;
    ChargeDeath(*state, kKilledPoints);
  }
  EXPECT_FALSE(IsPoison(*state, 42));
}

TEST(SharedStateTest, AFullTableForgetsTheLeastSuspicious) {
  const SharedStatePointer state = *CreateSharedState();
  for (int death = 0; death < 2; ++death) {
    state->beats[0].unique = 7;
    ChargeDeath(*state, kCrashPoints);
  }
  for (uint64_t unique = 1000; unique < 1200; ++unique) {
    state->beats[0].unique = unique;
    ChargeDeath(*state, kKilledPoints);
  }
  EXPECT_TRUE(IsPoison(*state, 7));
}

TEST(HangDetectorTest, OnlyLastingSilenceIsAHang) {
  const SharedStatePointer state = *CreateSharedState();
  state->workers = 2;
  HangDetector detector(3);
  for (int look = 0; look < 10; ++look) {
    ++state->beats[0].progress;
    ++state->beats[1].progress;
    EXPECT_FALSE(detector.Look(*state));
  }
  // One worker is enough.
  for (int look = 1; look <= 3; ++look) {
    ++state->beats[0].progress;
    EXPECT_EQ(detector.Look(*state), look == 3);
  }
  detector.Reset();
  EXPECT_FALSE(detector.Look(*state));
}

TEST(FuseMountOptionsTest, EscapesTheSource) {
  CommandLine command;
  command.store_url = "s3://bucket/a,b?endpoint=x";
  command.options.allow_other = true;
  EXPECT_EQ(FuseMountOptions(command),
            "ro,default_permissions,subtype=mlcache,max_read=1048576,allow_other,fsname=s3://bucket/a\\,b?endpoint=x");
}

TEST(DirectoryLocksTest, CountsHolders) {
  DirectoryLocks locks;
  locks.Enter(17);
  locks.Enter(17);
  locks.Leave(17);
  EXPECT_TRUE(locks.IsBusy(17));
  locks.Leave(17);
  EXPECT_FALSE(locks.IsBusy(17));
  EXPECT_TRUE(DirectoryLocks::Holds(ring::Op::kLookup));
  EXPECT_FALSE(DirectoryLocks::Holds(ring::Op::kRead));
}

TEST(ControlFilesTest, KeepsOneTextForEachNode) {
  ControlFiles files(1, 2);
  EXPECT_EQ(ControlFiles::Lookup(1, ".mlcache"), ControlFiles::Name::kDirectory);
  EXPECT_EQ(ControlFiles::Lookup(kControlDirectoryNode, "stats"), ControlFiles::Name::kStats);
  EXPECT_EQ(ControlFiles::Lookup(5, ".mlcache"), ControlFiles::Name::kNone);
  EXPECT_EQ(files.Attributes(kControlDirectoryNode)->st_uid, 1U);
  const uint64_t first = files.Add("abcdef");
  const uint64_t second = files.Add("xyz");
  EXPECT_NE(first, second);
  EXPECT_TRUE(IsControlNode(first) && ControlFiles::IsStats(first));
  EXPECT_EQ(files.Attributes(first)->st_size, 6);
  EXPECT_EQ(files.Attributes(first)->st_ino, files.Attributes(second)->st_ino);
  EXPECT_EQ(files.Read(first, 2, 3), "cde");
  EXPECT_EQ(files.Read(first, 6, 3), "");
  EXPECT_EQ(files.Read(second, 0, 3), "xyz");
  EXPECT_EQ(files.Read(second + 1, 0, 3), std::nullopt);
  EXPECT_FALSE(files.Attributes(second + 1).has_value());
  files.Restore(second + 1, "of a predecessor");
  EXPECT_EQ(files.Read(second + 1, 0, 2), "of");
  for (int i = 0; i < 1000; ++i) files.Add("text");  // bounded, whatever readers forget
  EXPECT_EQ(files.Read(first, 2, 3), std::nullopt);
}

}  // namespace
}  // namespace mlcache::shim
