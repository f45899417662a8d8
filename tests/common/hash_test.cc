#include "common/hash.h"

#include <gtest/gtest.h>

namespace mlcache {
namespace {

// The empty input's digests are published in xxHash's own tests; the names of object files depend on them.
TEST(Hash, IsXxh3AndStable) {
  EXPECT_EQ(Hash64(std::string_view("")), 0x2D06800538D394C2U);
  EXPECT_EQ(ToHex(Hash128("")), "99aa06d3014798d86001c324468d497f");
  EXPECT_NE(Hash64(std::string_view("a"), 1), Hash64(std::string_view("a"), 2));
}

}  // namespace
}  // namespace mlcache
