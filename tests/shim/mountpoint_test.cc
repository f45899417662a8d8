#include "shim/mountpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace mlcache::shim {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

TEST(MountInfoTest, ReadsLinesWithAndWithoutOptionalFields) {
  const auto mounts = ParseMountInfo(
      "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
      "40 22 0:35 / /mnt/a\\040b\\012c ro,nosuid,nodev - fuse.mlcache s3://b/p\\134x ro,user_id=0\n"
      "garbage\n"
      "\n");
  ASSERT_THAT(mounts, SizeIs(2));
  EXPECT_EQ(mounts[0].device, "8:1");
  EXPECT_EQ(mounts[0].type, "ext4");
  EXPECT_EQ(mounts[1].mountpoint, "/mnt/a b\nc");
  EXPECT_EQ(mounts[1].type, kFileSystemType);
  EXPECT_EQ(mounts[1].source, "s3://b/p\\x");
}

TEST(MountInfoTest, FindsTheRoot) {
  EXPECT_TRUE(FindMount("/").has_value());
  EXPECT_FALSE(FindMount("/no/such/mount").has_value());
}

class CheckMountpointTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string made = std::filesystem::temp_directory_path() / "mlcache-mountpoint-XXXXXX";
    ASSERT_NE(::mkdtemp(made.data()), nullptr);
    directory_ = std::filesystem::canonical(made);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::string directory_;
};

TEST_F(CheckMountpointTest, ResolvesLinksAndDots) {
  std::filesystem::create_directory(directory_ + "/real");
  std::filesystem::create_directory_symlink(directory_ + "/real", directory_ + "/link");
  EXPECT_EQ(*CheckMountpoint(directory_ + "/./link/"), directory_ + "/real");
}

TEST_F(CheckMountpointTest, SaysWhatIsWrong) {
  const auto missing = CheckMountpoint(directory_ + "/missing");
  ASSERT_FALSE(missing.has_value());
  EXPECT_THAT(missing.error().message(), HasSubstr("mkdir -p"));
  std::ofstream(directory_ + "/file") << "x";
  const auto file = CheckMountpoint(directory_ + "/file");
  ASSERT_FALSE(file.has_value());
  EXPECT_THAT(file.error().message(), HasSubstr("no directory"));
}

}  // namespace
}  // namespace mlcache::shim
