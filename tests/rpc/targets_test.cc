#include "cached/rpc/targets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/rpc/world.h"

namespace mlcache::rpc {
namespace {

using testing::World;

control::Target At(const std::string& mountpoint, const std::string& path) {
  control::Target target;
  target.set_mountpoint(mountpoint);
  target.set_path(path);
  return target;
}

TEST(Resolve, FindsTheVolumeAndCleansThePath) {
  World world;
  const auto target = Resolve(At(World::kMountpoint, "/a//./b/"), world.sessions);
  ASSERT_TRUE(target.has_value()) << target.error();
  EXPECT_EQ(target->volume, world.volume);
  EXPECT_EQ(target->path, "a/b");
  EXPECT_EQ(target->Display(target->path), "/mnt/data/a/b");
  EXPECT_EQ(target->Display(""), "/mnt/data");
}

TEST(Resolve, TakesStoreUrls) {
  World world;
  control::Target target;
  target.set_store_url(World::kUrl);
  const auto resolved = Resolve(target, world.sessions);
  ASSERT_TRUE(resolved.has_value()) << resolved.error();
  EXPECT_EQ(resolved->Display("x"), "file:///data/x");
}

TEST(Resolve, RefusesWhatItCannotName) {
  World world;
  EXPECT_EQ(Resolve(At(World::kMountpoint, "a/../../etc"), world.sessions).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(Resolve(At("/mnt/other", ""), world.sessions).error().code(), Code::kNotFound);
  EXPECT_EQ(Resolve(control::Target(), world.sessions).error().code(), Code::kInvalidArgument);
  control::Target both = At(World::kMountpoint, "");
  both.set_store_url(World::kUrl);
  EXPECT_EQ(Resolve(both, world.sessions).error().code(), Code::kInvalidArgument);
}

TEST(ResolveAll, KeepsNoTargetBelowAnotherAndNamesFailures) {
  World world;
  control::TargetRequest request;
  for (const char* path : {"a/b", "a!", "a", "c/d", "a/b/c", "c/d"})
    *request.add_targets() = At(World::kMountpoint, path);
  *request.add_targets() = At("/mnt/other", "x");
  const ResolvedTargets resolved = ResolveAll(request, world.sessions);
  std::vector<std::string> paths;
  for (const ResolvedTarget& target : resolved.targets) paths.push_back(target.path);
  EXPECT_THAT(paths, ::testing::UnorderedElementsAre("a", "a!", "c/d"));
  ASSERT_EQ(resolved.failures.size(), 1U);
  EXPECT_EQ(resolved.failures[0].path(), "/mnt/other/x");
  EXPECT_EQ(resolved.failures[0].code(), static_cast<int>(Code::kNotFound));
}

}  // namespace
}  // namespace mlcache::rpc
