#include "shim/answers.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <limits>

namespace mlcache::shim {
namespace {

TEST(EntryTest, CarriesEveryAttribute) {
  ring::NodeAttributes attributes;
  attributes.node = 77;
  attributes.inode = 88;
  attributes.size = 513;
  attributes.atime_ns = 1;
  attributes.mtime_ns = 1'500'000'000'000'000'002;
  attributes.ctime_ns = -1;  // before 1970
  attributes.entry_timeout_ns = 1'500'000'000;
  attributes.attr_timeout_ns = std::numeric_limits<uint64_t>::max();
  attributes.mode = S_IFREG | 0640;
  attributes.nlink = 3;
  attributes.uid = 10;
  attributes.gid = 20;
  const fuse_entry_param entry = EntryOf(attributes);
  EXPECT_EQ(entry.ino, 77U);
  EXPECT_EQ(entry.attr.st_ino, 88U);
  EXPECT_EQ(entry.attr.st_size, 513);
  EXPECT_EQ(entry.attr.st_blocks, 2);
  EXPECT_EQ(entry.attr.st_atim.tv_nsec, 1);
  EXPECT_EQ(entry.attr.st_mtim.tv_sec, 1'500'000'000);
  EXPECT_EQ(entry.attr.st_mtim.tv_nsec, 2);
  EXPECT_EQ(entry.attr.st_ctim.tv_sec, -1);
  EXPECT_EQ(entry.attr.st_ctim.tv_nsec, 999'999'999);
  EXPECT_DOUBLE_EQ(entry.entry_timeout, 1.5);
  EXPECT_DOUBLE_EQ(entry.attr_timeout, 1e8);
  EXPECT_EQ(entry.attr.st_mode, static_cast<mode_t>(S_IFREG | 0640));
  EXPECT_EQ(entry.attr.st_nlink, 3U);
  EXPECT_EQ(entry.attr.st_uid, 10U);
  EXPECT_EQ(entry.attr.st_gid, 20U);
}

}  // namespace
}  // namespace mlcache::shim
