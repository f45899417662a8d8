#include <gtest/gtest.h>

#include <filesystem>
#include <sstream>

#include "ctl/arguments.h"
#include "ctl/console.h"
#include "ctl/progress.h"
#include "ctl/target.h"
#include "tests/fakes/temp_directory.h"

namespace mlcache::ctl {
namespace {

TEST(Arguments, SortsOptionsAndPaths) {
  const std::vector<OptionForm> forms = {{"--json"}, {"--progress", true}, {"-f", true}};
  const auto arguments = ParseArguments({"a", "--json", "-f", "list", "--progress=none", "--", "-b", "--json"}, forms);
  ASSERT_TRUE(arguments.has_value()) << arguments.error();
  EXPECT_EQ(arguments->paths, (std::vector<std::string>{"a", "-b", "--json"}));
  EXPECT_TRUE(arguments->Has("--json"));
  EXPECT_EQ(arguments->Value("-f", ""), "list");
  EXPECT_EQ(arguments->Value("--progress", "auto"), "none");
  EXPECT_EQ(arguments->Value("--other", "auto"), "auto");
  for (const std::vector<std::string>& bad :
       {std::vector<std::string>{"--yaml"}, {"-f"}, {"--json=1"}, {"-x"}, {"--progres=none"}}) {
    EXPECT_FALSE(ParseArguments(bad, forms).has_value()) << bad[0];
  }
}

TEST(Console, NamesNumbersAndTimes) {
  EXPECT_EQ(Shown("a\nb\tc\x1b[31m\x7f ü"), "a\\nb\\tc\\x1b[31m\\x7f ü");
  EXPECT_EQ(WithCommas(0), "0");
  EXPECT_EQ(WithCommas(999), "999");
  EXPECT_EQ(WithCommas(1000), "1,000");
  EXPECT_EQ(WithCommas(1234567890), "1,234,567,890");
  EXPECT_EQ(FormatSeconds(0), "0 s");
  EXPECT_EQ(FormatSeconds(61), "1 min 1 s");
  EXPECT_EQ(FormatSeconds(3600), "1 h 0 min");
  EXPECT_EQ(FormatSeconds(200'000), "2 d 7 h");
  EXPECT_EQ(FormatPercent(0, 0), "100 %");
  EXPECT_EQ(FormatPercent(0, 10), "0 %");
  EXPECT_EQ(FormatPercent(1, 1'000'000), "0.1 %");
  EXPECT_EQ(FormatPercent(999'999, 1'000'000), "99.9 %");
  EXPECT_EQ(FormatPercent(10, 10), "100 %");
}

TEST(Table, AlignsItsColumns) {
  Table table({"A", "LONG", "C"});
  table.Add({"wide one", "1", "x"});
  std::ostringstream out;
  table.Print(out);
  EXPECT_EQ(out.str(), "A         LONG  C\nwide one  1     x\n");
}

TEST(ProgressLine, FitsAndTellsWhatIsLeft) {
  control::WarmupProgress progress;
  progress.set_files_total(400);
  progress.set_files_done(100);
  progress.set_bytes_total(uint64_t{4} << 30);
  progress.set_bytes_done(uint64_t{1} << 30);
  progress.set_bytes_fetched(uint64_t{1} << 30);
  progress.set_listing_done(true);
  const std::string line = ProgressLine(progress, std::chrono::seconds(10), 120);
  EXPECT_NE(line.find("25.0 %  1.0 GiB of 4.0 GiB, 100 of 400 files, 102.4 MiB/s, 30 s left"), std::string::npos)
      << line;
  EXPECT_EQ(line.find("[#######"), 0U) << line;
  progress.set_listing_done(false);
  EXPECT_NE(ProgressLine(progress, std::chrono::seconds(10), 120).find("listing"), std::string::npos);
  for (const size_t columns : {0U, 1U, 20U, 40U, 80U})
    EXPECT_LE(ProgressLine(progress, std::chrono::seconds(10), columns).size(), columns);
  EXPECT_NE(ProgressLine({}, std::chrono::seconds(0), 80).find(" 0 %  0 of 0 files, listing"), std::string::npos);
}

TEST(ResolveTarget, MatchesTheLongestMountpoint) {
  const std::vector<std::string> mounts = {"/mnt/a", "/mnt/a/inner", "/mnt/ab"};
  const auto at = [&](const std::string& path) {
    const auto target = ResolveTarget(path, mounts);
    return target ? target->mountpoint() + "|" + target->path() : ToString(target.error());
  };
  EXPECT_EQ(at("/mnt/a"), "/mnt/a|");
  EXPECT_EQ(at("/mnt/a/"), "/mnt/a|");
  EXPECT_EQ(at("/mnt/a/x/y"), "/mnt/a|x/y");
  EXPECT_EQ(at("/mnt/a/inner/x"), "/mnt/a/inner|x");
  EXPECT_EQ(at("/mnt/ab/x"), "/mnt/ab|x");
  EXPECT_EQ(at("/mnt//a/./x/../y"), "/mnt/a|y");
  EXPECT_EQ(ResolveTarget("/mnt/abc", mounts).error().code(), Code::kNotFound);
  EXPECT_EQ(ResolveTarget("", mounts).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(ResolveTarget("s3://bucket/a?region=x", mounts)->store_url(), "s3://bucket/a?region=x");
}

TEST(ResolveTarget, FollowsLinksToAMount) {
  const testing::TempDirectory directory;
  const std::string root = std::filesystem::canonical(directory.path());
  std::filesystem::create_directories(root + "/mnt/data");
  std::filesystem::create_symlink(root + "/mnt/data", root + "/link");
  std::filesystem::create_symlink(root + "/mnt", root + "/parent");
  const std::vector<std::string> mounts = {root + "/mnt/data"};
  EXPECT_EQ(ResolveTarget(root + "/link/file", mounts)->path(), "file");
  EXPECT_EQ(ResolveTarget(root + "/link", mounts)->path(), "");
  EXPECT_EQ(ResolveTarget(root + "/parent/data", mounts)->path(), "");
  EXPECT_FALSE(ResolveTarget(root + "/parent", mounts).has_value());
}

}  // namespace
}  // namespace mlcache::ctl
