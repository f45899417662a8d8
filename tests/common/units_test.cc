#include "common/units.h"

#include <gtest/gtest.h>

namespace mlcache {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(ParseSize, AcceptsBinaryAndDecimalUnits) {
  EXPECT_EQ(ParseSize("0").value(), 0);
  EXPECT_EQ(ParseSize("4096").value(), 4096);
  EXPECT_EQ(ParseSize("4KiB").value(), 4096);
  EXPECT_EQ(ParseSize("1GB").value(), 1000000000);
  EXPECT_EQ(ParseSize("1.5GiB").value(), 3 * kGiB / 2);
  EXPECT_EQ(ParseSize("10 MB").value(), 10000000);
  EXPECT_EQ(ParseSize("2T").value(), 2048 * kGiB);
}

TEST(ParseSize, RefusesWhatIsNoSizeAndNamesIt) {
  for (const char* text : {"", "x", "-1", "1e3", "5 apples", "99999999TiB", "GiB", "nan", "inf"}) {
    const auto size = ParseSize(text);
    ASSERT_FALSE(size.has_value()) << text;
    EXPECT_EQ(size.error().code(), Code::kInvalidArgument);
    EXPECT_NE(size.error().message().find("'" + std::string(text) + "'"), std::string::npos);
  }
}

TEST(FormatSize, UsesTheLargestUnitThatFits) {
  EXPECT_EQ(FormatSize(0), "0 B");
  EXPECT_EQ(FormatSize(1023), "1023 B");
  EXPECT_EQ(FormatSize(1536), "1.5 KiB");
  EXPECT_EQ(FormatSize(kGiB), "1.0 GiB");
}

TEST(ParseDuration, AcceptsSecondsAndUnits) {
  EXPECT_EQ(ParseDuration("600s").value(), seconds(600));
  EXPECT_EQ(ParseDuration("0").value(), seconds(0));
  EXPECT_EQ(ParseDuration("1.5m").value(), seconds(90));
  EXPECT_EQ(ParseDuration("250ms").value(), milliseconds(250));
  EXPECT_FALSE(ParseDuration("soon").has_value());
}

}  // namespace
}  // namespace mlcache
