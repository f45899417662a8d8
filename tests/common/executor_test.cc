#include "common/executor.h"

#include <gtest/gtest.h>

#include <atomic>
#include <latch>

namespace mlcache {
namespace {

TEST(ThreadPool, RunsEveryTaskBeforeItsDestructorReturns) {
  std::atomic<int> ran = 0;
  {
    const auto pool = MakeThreadPool("test", 4, 1000);
    for (int i = 0; i < 500; ++i) ASSERT_TRUE(pool->Submit([&ran] { ++ran; }));
  }
  EXPECT_EQ(ran, 500);
}

TEST(ThreadPool, RefusesWhatItsBoundedQueueCannotHold) {
  std::latch started(1);
  std::latch release(1);
  const auto pool = MakeThreadPool("test", 1, 2);
  ASSERT_TRUE(pool->Submit([&] {
    started.count_down();
    release.wait();
  }));
  started.wait();
  EXPECT_TRUE(pool->Submit([] {}));
  EXPECT_TRUE(pool->Submit([] {}));
  EXPECT_FALSE(pool->Submit([] {}));
  release.count_down();
}

}  // namespace
}  // namespace mlcache
