// What is found complete, on trees in memory.
#include "cached/seal/seal_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

namespace mlcache::seal {
namespace {

using ::testing::UnorderedElementsAre;

class SealPlanTest : public ::testing::Test {
 protected:
  SealPlanTest() { root_.type = store::FileType::kDirectory; }

  void Add(const std::string& path, uint64_t size, bool cached) {
    Entry(path, {.type = store::FileType::kRegular, .size = size, .version = "v"});
    if (cached) cached_.insert(path);
  }
  void AddDirectory(const std::string& path) {
    Entry(path, {.type = store::FileType::kDirectory});
    listings_[path];
  }
  void Entry(const std::string& path, const store::ObjectInfo& info) {
    const size_t slash = path.rfind('/');
    const std::string parent = slash == std::string::npos ? "" : path.substr(0, slash);
    listings_[parent].entries.push_back({.name = path.substr(slash + 1), .info = info});
  }

  SealPlan Plan() {
    return MakePlan(
        root_,
        [this](const std::string& path) -> std::shared_ptr<const session::Listing> {
          const auto found = listings_.find(path);
          return found == listings_.end() ? nullptr : std::make_shared<session::Listing>(found->second);
        },
        [this](const std::string& path, const store::ObjectInfo&) { return cached_.contains(path); }, {});
  }

  // Paths that BuildImage asks the place of.
  std::set<std::string> Placed(const SealPlan& plan) {
    std::set<std::string> placed;
    const auto image = BuildImage(plan, {},
                                  [&](const std::string& path, const store::ObjectInfo&) -> Result<std::string> {
                                    placed.insert(path);
                                    return "/" + path;
                                  },
                                  {});
    EXPECT_TRUE(image.has_value());
    return placed;
  }

  store::ObjectInfo root_;
  std::map<std::string, session::Listing> listings_;
  std::set<std::string> cached_;
};

TEST_F(SealPlanTest, AWholeTree) {
  AddDirectory("a");
  AddDirectory("a/b");
  Add("a/b/x", 5, true);
  Add("y", 7, true);
  Add("empty", 0, false);
  const SealPlan plan = Plan();
  EXPECT_TRUE(plan.whole());
  EXPECT_EQ(plan.files, 3U);
  EXPECT_EQ(plan.sealed_files, 3U);
  EXPECT_EQ(plan.sealed_bytes, 12U);
  EXPECT_THAT(Placed(plan), UnorderedElementsAre("a/b/x", "y"));
}

TEST_F(SealPlanTest, OneMissingFileLeavesItsDirectoryAndThoseAboveOut) {
  AddDirectory("good");
  AddDirectory("bad");
  AddDirectory("bad/inner");
  Add("good/x", 1, true);
  Add("bad/y", 1, false);
  Add("bad/inner/z", 1, true);
  Add("top", 1, true);
  const SealPlan plan = Plan();
  EXPECT_FALSE(plan.whole());
  EXPECT_FALSE(plan.empty());
  EXPECT_EQ(plan.cached_files, 3U);
  EXPECT_EQ(plan.sealed_files, 2U);
  EXPECT_THAT(Placed(plan), UnorderedElementsAre("good/x", "bad/inner/z"));
}

TEST_F(SealPlanTest, NothingCompleteIsNothing) {
  AddDirectory("a");
  Add("a/x", 1, false);
  Add("y", 1, true);
  EXPECT_TRUE(Plan().empty());
}

TEST_F(SealPlanTest, WhatWasNeverListedIsNotComplete) {
  AddDirectory("known");
  Add("known/x", 1, true);
  Entry("unknown", {.type = store::FileType::kDirectory});
  const SealPlan plan = Plan();
  EXPECT_FALSE(plan.whole());
  EXPECT_EQ(plan.sealed_files, 1U);
}

TEST_F(SealPlanTest, UnsettledFilesAndUnknownTargetsAreNotComplete) {
  AddDirectory("young");
  Entry("young/x", {.type = store::FileType::kRegular, .size = 0, .version = "v", .settled = false});
  EXPECT_TRUE(Plan().empty());
  AddDirectory("links");
  Entry("links/l", {.type = store::FileType::kSymlink});
  EXPECT_TRUE(Plan().empty());
  AddDirectory("good");
  Entry("good/l", {.type = store::FileType::kSymlink, .symlink_target = "../x"});
  EXPECT_FALSE(Plan().empty());
}

TEST_F(SealPlanTest, NamesOfOursAtTheRootAreHidden) {
  Add(".mlcache", 3, false);
  Add(".mlcache-objects", 3, false);
  Add("x", 3, true);
  AddDirectory("sub");
  Add("sub/.mlcache", 3, true);
  const SealPlan plan = Plan();
  EXPECT_TRUE(plan.whole());
  EXPECT_EQ(plan.sealed_files, 2U);
  EXPECT_THAT(Placed(plan), UnorderedElementsAre("x", "sub/.mlcache"));
}

TEST_F(SealPlanTest, AFileThatWentMeanwhileIsAnError) {
  Add("x", 3, true);
  const auto image = BuildImage(Plan(), {},
                                [](const std::string& path, const store::ObjectInfo&) -> Result<std::string> {
                                  return Fail(Code::kNotFound, path + " is gone");
                                },
                                {});
  EXPECT_EQ(image.error().code(), Code::kNotFound);
}

}  // namespace
}  // namespace mlcache::seal
