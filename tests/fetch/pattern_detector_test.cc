// The detector of one handle: each pattern, its transitions both ways, and what must not change its mind.
#include "cached/detect/pattern_detector.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace mlcache::detect {
namespace {

constexpr uint64_t kKi = 1024;
constexpr uint64_t kMi = 1024 * kKi;

class DetectorTest : public ::testing::Test {
 protected:
  void Read(uint64_t offset, uint64_t length) { detector_->OnRead(offset, length); }
  // `count` reads one behind the other; the offset behind the last.
  uint64_t Sequential(uint64_t offset, int count, uint64_t length = 128 * kKi) {
    for (int i = 0; i < count; ++i, offset += length) Read(offset, length);
    return offset;
  }
  void Random(int count, uint64_t length = 4 * kKi) {
    for (int i = 0; i < count; ++i) Read(random_() % (10'000 * kMi), length);
  }
  Pattern pattern() const { return detector_->Current().pattern; }

  std::mt19937_64 random_{42};  // a fixed stream: the cases are about order, not about luck
  std::unique_ptr<PatternDetector> detector_ = MakeHandleDetector();
};

TEST_F(DetectorTest, NothingIsKnownBeforeTheFirstRead) {
  EXPECT_EQ(pattern(), Pattern::kUnknown);
  EXPECT_FALSE(detector_->Current().predictable);
}

TEST_F(DetectorTest, ReadFromTheBeginningIsSequentialAtOnceAndPrefetchedFromTheSecondOn) {
  Read(0, 128 * kKi);
  EXPECT_EQ(pattern(), Pattern::kSequential);
  EXPECT_FALSE(detector_->Current().predictable);  // it may have been a look at the header
  Read(128 * kKi, 128 * kKi);
  EXPECT_TRUE(detector_->Current().predictable);
}

TEST_F(DetectorTest, ALongRunBecomesCertain) {
  Sequential(0, 160);  // 20 MiB
  EXPECT_TRUE(detector_->Current().predictable);
  EXPECT_DOUBLE_EQ(detector_->Current().confidence, 1.0);
}

TEST_F(DetectorTest, RunInTheMiddleIsFoundToo) {
  Sequential(500 * kMi, 3);
  EXPECT_EQ(pattern(), Pattern::kSequential);
}

TEST_F(DetectorTest, ReorderedAndOverlappingReadsStaySequential) {
  for (const uint64_t at : {0, 1, 3, 2, 4, 6, 5, 7, 7, 9, 8, 10, 12, 11}) {
    Read(at * 256 * kKi, 256 * kKi);
    EXPECT_EQ(pattern(), Pattern::kSequential) << at;
  }
  for (const uint64_t at : {16, 13, 14, 15, 20, 17, 18, 19, 24, 21, 22, 23}) {
    Read(at * 256 * kKi, 256 * kKi);
    EXPECT_EQ(pattern(), Pattern::kSequential) << at;
  }
}

TEST_F(DetectorTest, SmallGapsStaySequential) {
  uint64_t offset = 0;
  for (int i = 0; i < 50; ++i) {
    Read(offset, 64 * kKi);
    offset += 64 * kKi + random_() % (16 * kKi);
  }
  EXPECT_EQ(pattern(), Pattern::kSequential);
}

TEST_F(DetectorTest, OneLookAtTheFooterDoesNotEndARun) {
  const uint64_t at = Sequential(0, 10);
  EXPECT_TRUE(detector_->Current().agrees);
  Read(900 * kMi, 64 * kKi);
  EXPECT_FALSE(detector_->Current().agrees);
  Sequential(at, 10);
  EXPECT_TRUE(detector_->Current().agrees);
  EXPECT_EQ(pattern(), Pattern::kSequential);
}

TEST_F(DetectorTest, SeekMovesTheRun) {
  Sequential(0, 10);
  Sequential(700 * kMi, 10);
  EXPECT_EQ(pattern(), Pattern::kSequential);
}

TEST_F(DetectorTest, StrideIsFound) {
  for (uint64_t i = 0; i < 6; ++i) Read(kMi + i * 10 * kMi, 64 * kKi);
  EXPECT_EQ(pattern(), Pattern::kStrided);
  EXPECT_EQ(detector_->Current().stride, static_cast<int64_t>(10 * kMi));
  for (uint64_t i = 0; i < 6; ++i) Read(200 * kMi + i * 7 * kMi, 64 * kKi);
  EXPECT_EQ(pattern(), Pattern::kStrided);
  EXPECT_EQ(detector_->Current().stride, static_cast<int64_t>(7 * kMi));
}

TEST_F(DetectorTest, StrideBackwardsIsNegative) {
  for (uint64_t i = 0; i < 6; ++i) Read(100 * kMi - i * 10 * kMi, 64 * kKi);
  EXPECT_EQ(pattern(), Pattern::kStrided);
  EXPECT_EQ(detector_->Current().stride, -static_cast<int64_t>(10 * kMi));
}

TEST_F(DetectorTest, ReverseIsFound) {
  for (uint64_t i = 0; i < 10; ++i) Read(100 * kMi - i * 128 * kKi, 128 * kKi);
  EXPECT_EQ(pattern(), Pattern::kReverse);
  EXPECT_TRUE(detector_->Current().predictable);
}

TEST_F(DetectorTest, RandomIsFoundAndNotPrefetched) {
  Random(20);
  EXPECT_EQ(pattern(), Pattern::kRandom);
  EXPECT_FALSE(detector_->Current().predictable);
}

TEST_F(DetectorTest, SequentialTurnsToRandomAfterSeveralReadsAndBack) {
  Sequential(0, 50);
  Random(3);
  EXPECT_EQ(pattern(), Pattern::kSequential);
  Random(5);
  EXPECT_EQ(pattern(), Pattern::kRandom);
  uint64_t at = Sequential(300 * kMi, 3);
  EXPECT_EQ(pattern(), Pattern::kRandom);
  Sequential(at, 4);
  EXPECT_EQ(pattern(), Pattern::kSequential);
}

TEST_F(DetectorTest, SequentialTurnsToStridedAndBack) {
  Sequential(0, 20);
  for (uint64_t i = 0; i < 10; ++i) Read(100 * kMi + i * 10 * kMi, 64 * kKi);
  EXPECT_EQ(pattern(), Pattern::kStrided);
  Sequential(500 * kMi, 10);
  EXPECT_EQ(pattern(), Pattern::kSequential);
}

TEST_F(DetectorTest, ReverseTurnsToSequentialAndBack) {
  for (uint64_t i = 0; i < 10; ++i) Read(100 * kMi - i * 128 * kKi, 128 * kKi);
  Sequential(200 * kMi, 10);
  EXPECT_EQ(pattern(), Pattern::kSequential);
  for (uint64_t i = 0; i < 10; ++i) Read(150 * kMi - i * 128 * kKi, 128 * kKi);
  EXPECT_EQ(pattern(), Pattern::kReverse);
}

TEST_F(DetectorTest, AnyReadsAtAllGiveBoundedAnswers) {
  for (int i = 0; i < 20'000; ++i) {
    Read(random_() >> (random_() % 64), 1 + (random_() % kMi));
    const Conclusion now = detector_->Current();
    ASSERT_GE(now.confidence, 0);
    ASSERT_LE(now.confidence, 1);
    ASSERT_FALSE(now.predictable && now.pattern == Pattern::kRandom);
  }
}

TEST_F(DetectorTest, NamesAreTheMetricLabels) {
  EXPECT_EQ(PatternName(Pattern::kUnknown), "unknown");
  EXPECT_EQ(PatternName(Pattern::kSequential), "sequential");
  EXPECT_EQ(PatternName(Pattern::kStrided), "strided");
  EXPECT_EQ(PatternName(Pattern::kReverse), "reverse");
  EXPECT_EQ(PatternName(Pattern::kRandom), "random");
}

}  // namespace
}  // namespace mlcache::detect
