// How a mount's files are opened, and when `auto` goes over to no-open.
#include "shim/serving.h"

#include <gtest/gtest.h>

namespace mlcache::shim {
namespace {

class ServingTest : public ::testing::Test {
 protected:
  SharedStatePointer state_ = *CreateSharedState();
  OpenTable opens_{*state_};
};

TEST_F(ServingTest, NoOpenEndsOpensAtTheFirst) {
  Serving serving("noopen", *state_, opens_);
  serving.SetLending(true, "");
  EXPECT_FALSE(serving.WantsLease());
  EXPECT_TRUE(serving.EndsOpens());
  EXPECT_EQ(serving.Report().mode, "noopen");
}

TEST_F(ServingTest, CachedNeverLendsAndNeverEndsOpens) {
  Serving serving("cached", *state_, opens_);
  serving.SetLending(true, "");
  for (int i = 0; i < 1000; ++i) serving.Saw(1000);
  EXPECT_FALSE(serving.WantsLease());
  EXPECT_FALSE(serving.EndsOpens());
  EXPECT_EQ(serving.Report().mode, "cached");
  EXPECT_EQ(serving.Report().reason, "");
}

TEST_F(ServingTest, AutoStaysWithPassthroughInATreeOfLargeFiles) {
  Serving serving("auto", *state_, opens_);
  serving.SetLending(true, "");
  for (int i = 0; i < 200; ++i) serving.Saw(uint64_t{256} << 20);
  EXPECT_TRUE(serving.WantsLease());
  EXPECT_FALSE(serving.EndsOpens());
  EXPECT_EQ(serving.Report().mode, "passthrough");
}

TEST_F(ServingTest, AutoEndsOpensInATreeOfSmallFilesOnceItHasSeenEnough) {
  Serving serving("auto", *state_, opens_);
  serving.SetLending(true, "");
  for (uint64_t i = 0; i + 1 < Serving::kEnoughFiles; ++i) serving.Saw(110'000);
  EXPECT_FALSE(serving.EndsOpens());
  serving.Saw(110'000);
  EXPECT_TRUE(serving.EndsOpens());
  EXPECT_FALSE(serving.WantsLease());
  EXPECT_EQ(serving.Report().mode, "noopen");
  serving.SetLending(true, "");
  EXPECT_FALSE(serving.WantsLease()) << "the kernel asks for no open any more";
}

TEST_F(ServingTest, AFewSmallFilesBesideLargeOnesDecideNothing) {
  Serving serving("auto", *state_, opens_);
  serving.SetLending(true, "");
  for (int i = 0; i < 100; ++i) serving.Saw(2000);
  for (int i = 0; i < 5; ++i) serving.Saw(uint64_t{1} << 30);
  EXPECT_FALSE(serving.EndsOpens());
}

TEST_F(ServingTest, AutoWaitsUntilTheKernelReadsNoFileByItself) {
  Serving serving("auto", *state_, opens_);
  serving.SetLending(true, "");
  for (uint64_t i = 0; i < Serving::kEnoughFiles; ++i) serving.Saw(1);
  const OpenTable::Open open{.node = 10, .unique = 2, .pid = 1, .handle = 0, .waiter = {}};
  const OpenTable::Decision asked = opens_.OpenLent(open);
  state_->backings[asked.record].id = 3;
  opens_.Registered(10, asked.record, true);
  const OpenTable::Decision opened = *opens_.Reopen(open);
  EXPECT_FALSE(serving.EndsOpens());
  opens_.Release(opened.file_handle);
  EXPECT_TRUE(serving.EndsOpens());
}

TEST_F(ServingTest, SaysWhyNothingFaster) {
  Serving serving("auto", *state_, opens_);
  int changes = 0;
  serving.set_on_change([&] { ++changes; });
  serving.SetLending(false, "not root");
  EXPECT_EQ(serving.Report().mode, "cached");
  EXPECT_EQ(serving.Report().reason, "not root");
  EXPECT_EQ(changes, 1);
}

TEST_F(ServingTest, ASuccessorGoesOnWithNoOpen) {
  state_->no_open = 1;
  Serving serving("auto", *state_, opens_);
  serving.SetLending(true, "");
  EXPECT_FALSE(serving.WantsLease());
  EXPECT_TRUE(serving.EndsOpens());
}

}  // namespace
}  // namespace mlcache::shim
