#include "shim/errno.h"

#include <gtest/gtest.h>

#include <cerrno>

namespace mlcache::shim {
namespace {

using ring::Op;

TEST(ErrnoTest, SameForEveryOperation) {
  EXPECT_EQ(ErrnoFor(Op::kOpen, Code::kCancelled), EINTR);
  EXPECT_EQ(ErrnoFor(Op::kOpen, Code::kPermissionDenied), EACCES);
  EXPECT_EQ(ErrnoFor(Op::kRead, Code::kDataLoss), EIO);
  EXPECT_EQ(ErrnoFor(Op::kRead, Code::kUnavailable), EIO);
  EXPECT_EQ(ErrnoFor(Op::kRead, Code::kDeadlineExceeded), ETIMEDOUT);
  EXPECT_EQ(ErrnoFor(Op::kReadDir, Code::kResourceExhausted), ENOMEM);
}

TEST(ErrnoTest, AbsenceDependsOnWhatWasAsked) {
  EXPECT_EQ(ErrnoFor(Op::kLookup, Code::kNotFound), ENOENT);
  EXPECT_EQ(ErrnoFor(Op::kGetXattr, Code::kNotFound), ENODATA);
  EXPECT_EQ(ErrnoFor(Op::kOpen, Code::kNotFound), ESTALE);
  EXPECT_EQ(ErrnoFor(Op::kRead, Code::kNotFound), EIO);
}

TEST(ErrnoTest, AChangedFileIsLookedUpAgainButNeverMixed) {
  EXPECT_EQ(ErrnoFor(Op::kLookup, Code::kFailedPrecondition), ESTALE);
  EXPECT_EQ(ErrnoFor(Op::kOpen, Code::kFailedPrecondition), ESTALE);
  EXPECT_EQ(ErrnoFor(Op::kRead, Code::kFailedPrecondition), EIO);
}

TEST(ErrnoTest, NothingEverLatchesInTheKernel) {
  for (uint32_t op = 0; op <= 20; ++op) {
    for (int code = 1; code <= 16; ++code) {
      const int number = ErrnoFor(static_cast<Op>(op), static_cast<Code>(code));
      EXPECT_GT(number, 0);
      EXPECT_NE(number, ENOSYS) << "operation " << op << ", code " << code;
    }
  }
}

TEST(ErrnoTest, CodesFromAnotherProcessAreChecked) {
  EXPECT_EQ(CodeOf(0), std::nullopt);
  EXPECT_EQ(CodeOf(5), Code::kNotFound);
  EXPECT_EQ(CodeOf(-1), Code::kUnknown);
  EXPECT_EQ(CodeOf(1000), Code::kUnknown);
}

}  // namespace
}  // namespace mlcache::shim
