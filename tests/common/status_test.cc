#include "common/status.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <sstream>

namespace mlcache {
namespace {

Result<int> Half(int number) {
  if (number % 2 != 0) return Fail(Code::kInvalidArgument, "odd");
  return number / 2;
}

Result<int> Quarter(int number) {
  MLCACHE_ASSIGN_OR_RETURN(const int half, Half(number));
  MLCACHE_ASSIGN_OR_RETURN(const int quarter, Half(half));
  return quarter;
}

Status Check(int number) {
  MLCACHE_RETURN_IF_ERROR(Half(number));
  return {};
}

TEST(Status, MacrosPassValuesAndErrors) {
  EXPECT_EQ(Quarter(8).value(), 2);
  EXPECT_EQ(Quarter(6).error().message(), "odd");
  EXPECT_TRUE(Check(2).has_value());
  EXPECT_EQ(Check(1).error().code(), Code::kInvalidArgument);
}

TEST(Status, PrintsCodeAndContext) {
  std::ostringstream out;
  out << Error(Code::kNotFound, "gone").WithContext("a/b");
  EXPECT_EQ(out.str(), "NOT_FOUND: a/b: gone");
}

TEST(Status, MapsErrnoAndKeepsItsText) {
  EXPECT_EQ(ErrnoError(ENOENT, "open x").code(), Code::kNotFound);
  EXPECT_EQ(ErrnoError(EACCES, "open x").code(), Code::kPermissionDenied);
  EXPECT_EQ(ErrnoError(ENOSPC, "open x").code(), Code::kResourceExhausted);
  EXPECT_EQ(ErrnoError(ENOENT, "open x").message(), "open x: No such file or directory");
}

}  // namespace
}  // namespace mlcache
