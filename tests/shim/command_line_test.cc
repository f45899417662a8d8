#include "shim/command_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "shim/suggest.h"

namespace mlcache::shim {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

Result<CommandLine> Parse(std::vector<std::string_view> arguments) { return ParseCommandLine(arguments); }

std::string Complaint(std::vector<std::string_view> arguments) {
  const Result<CommandLine> parsed = ParseCommandLine(arguments);
  EXPECT_FALSE(parsed.has_value());
  return parsed.has_value() ? "" : parsed.error().message();
}

TEST(CommandLineTest, TheUsualForm) {
  const Result<CommandLine> parsed =
      Parse({"bin/mlcache-mount", "s3://b/p?endpoint=x", "/mnt", "-o", "job=a,immutable", "-oattr_ttl=5s",
             "--socket_dir=/s", "--foreground", "--log_file", "/var/log/m", "--hang_timeout=3s"});
  ASSERT_TRUE(parsed.has_value()) << parsed.error();
  EXPECT_EQ(parsed->action, CommandLine::Action::kMount);
  EXPECT_FALSE(parsed->as_helper);
  EXPECT_EQ(parsed->store_url, "s3://b/p?endpoint=x");
  EXPECT_EQ(parsed->mountpoint, "/mnt");
  EXPECT_EQ(parsed->socket_dir, "/s");
  EXPECT_TRUE(parsed->foreground);
  EXPECT_EQ(parsed->log_file, "/var/log/m");
  EXPECT_EQ(parsed->hang_timeout, std::chrono::seconds(3));
  EXPECT_EQ(parsed->options.job, "a");
  EXPECT_TRUE(parsed->options.immutable);
  EXPECT_EQ(parsed->options.attr_ttl, std::chrono::seconds(5));
}

TEST(CommandLineTest, AsMountsHelper) {
  const Result<CommandLine> parsed =
      Parse({"/sbin/mount.mlcache", "file:///d", "/mnt", "-sfnv", "-t", "mlcache", "-o", "rw,bogus,socket_dir=/s"});
  ASSERT_TRUE(parsed.has_value()) << parsed.error();
  EXPECT_TRUE(parsed->as_helper);
  EXPECT_TRUE(parsed->dry_run);
  EXPECT_TRUE(parsed->options.read_only);
  EXPECT_EQ(parsed->socket_dir, "/s");
  EXPECT_THAT(parsed->notes, SizeIs(2));  // rw, bogus
  EXPECT_THAT(Complaint({"mount.mlcache", "file:///d", "/mnt", "-o", "bogus"}), HasSubstr("bogus"));
  EXPECT_THAT(Complaint({"mount.mlcache", "file:///d", "/mnt", "-t", "ext4"}), HasSubstr("ext4"));
}

TEST(CommandLineTest, TheFlagBeatsTheOption) {
  const Result<CommandLine> parsed =
      Parse({"mlcache-mount", "file:///d", "/mnt", "--socket_dir=/flag", "-o", "socket_dir=/option"});
  EXPECT_EQ(parsed->socket_dir, "/flag");
}

TEST(CommandLineTest, WhatDoesNothingYetIsNoted) {
  const Result<CommandLine> parsed = Parse({"mlcache-mount", "file:///d", "/mnt", "-o", "seal=on,scratch=/tmp"});
  EXPECT_THAT(parsed->notes, SizeIs(1));
}

TEST(CommandLineTest, HelpAndVersionNeedNothingElse) {
  EXPECT_EQ(Parse({"mlcache-mount", "--help"})->action, CommandLine::Action::kHelp);
  EXPECT_EQ(Parse({"mlcache-mount", "--version"})->action, CommandLine::Action::kVersion);
  EXPECT_THAT(HelpText(false), HasSubstr("io_timeout"));
  EXPECT_THAT(HelpText(true), HasSubstr("mount.mlcache"));
}

TEST(CommandLineTest, MistakesAreNamed) {
  EXPECT_THAT(Complaint({"mlcache-mount", "file:///d", "/mnt", "--foregroud"}), HasSubstr("'--foreground'"));
  EXPECT_THAT(Complaint({"mlcache-mount", "file:///d", "/mnt", "-x"}), HasSubstr("'-x'"));
  EXPECT_THAT(Complaint({"mlcache-mount", "file:///d"}), HasSubstr("got 1 argument"));
  EXPECT_THAT(Complaint({"mlcache-mount", "a", "b", "c"}), HasSubstr("got 3 arguments"));
  EXPECT_THAT(Complaint({"mlcache-mount", "/data", "/mnt"}), HasSubstr("no store URL"));
  EXPECT_THAT(Complaint({"mlcache-mount", "file:///d", "/mnt", "-o"}), HasSubstr("-o needs a value"));
  EXPECT_THAT(Complaint({"mlcache-mount", "file:///d", "/mnt", "--socket_dir="}), HasSubstr("needs a value"));
  EXPECT_THAT(Complaint({"mlcache-mount", "file:///d", "/mnt", "--help=1"}), HasSubstr("takes no value"));
  EXPECT_THAT(Complaint({"mlcache-mount", "file:///d", "/mnt", "-o", "rw"}), HasSubstr("read-only"));
  EXPECT_THAT(Complaint({"mlcache-mount", "file:///d", "/mnt", "--hang_timeout=1ms"}), HasSubstr("at least 1s"));
}

TEST(SuggestTest, CountsEdits) {
  EXPECT_EQ(EditDistance("", "abc"), 3U);
  EXPECT_EQ(EditDistance("kitten", "sitting"), 3U);
  EXPECT_EQ(EditDistance("same", "same"), 0U);
  EXPECT_EQ(Nearest("x", {}), "");
}

}  // namespace
}  // namespace mlcache::shim
