#include "cached/session/walk.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <stop_token>

#include "tests/rpc/world.h"

namespace mlcache::rpc {
namespace {

using ::testing::ElementsAre;
using testing::FakeObjectStore;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;
using testing::World;

class Recorder final : public session::TreeVisitor {
 public:
  bool VisitFile(const std::string& path, const store::ObjectInfo& /*info*/) override {
    files.push_back(path);
    return files.size() < stop_after;
  }
  void VisitDirectory(const std::string& path) override { directories.push_back(path); }
  void VisitFailure(const std::string& path, const Error& error) override {
    failures.push_back(path + " " + std::string(CodeName(error.code())));
  }

  size_t stop_after = SIZE_MAX;
  std::vector<std::string> files;
  std::vector<std::string> directories;
  std::vector<std::string> failures;
};

bool WalkFrom(World& world, const std::string& start, Recorder& recorder, std::stop_token stop = {}) {
  const session::WalkOptions options{.request_timeout = std::chrono::seconds(10), .stop = std::move(stop)};
  return session::Walk(*world.volume, start, options, SystemClock(), recorder);
}

TEST(Walk, VisitsEveryFileOnceAndFollowsNoLink) {
  World world;
  for (const char* path : {"b", "a/x", "a/y", "a/deep/er/z", "name with\nnewline"}) world.store->Put(path, "1");
  world.store->PutSymlink("loop", "a");
  world.store->PutDirectory("empty");
  Recorder recorder;
  EXPECT_TRUE(WalkFrom(world, "", recorder));
  EXPECT_THAT(recorder.files, UnorderedElementsAre("b", "a/x", "a/y", "a/deep/er/z", "name with\nnewline"));
  EXPECT_THAT(recorder.directories, UnorderedElementsAre("", "a", "a/deep", "a/deep/er", "empty"));
  EXPECT_THAT(recorder.failures, IsEmpty());
}

TEST(Walk, TakesAFileAsItsStart) {
  World world;
  world.store->Put("a/x", "1");
  Recorder recorder;
  EXPECT_TRUE(WalkFrom(world, "a/x", recorder));
  EXPECT_THAT(recorder.files, ElementsAre("a/x"));
}

TEST(Walk, NamesAStartThatIsMissingOrALink) {
  World world;
  world.store->PutSymlink("link", "nowhere");
  Recorder recorder;
  EXPECT_TRUE(WalkFrom(world, "missing", recorder));
  EXPECT_TRUE(WalkFrom(world, "link", recorder));
  EXPECT_THAT(recorder.failures, ElementsAre("missing NOT_FOUND", "link INVALID_ARGUMENT"));
}

TEST(Walk, GoesOnAfterADirectoryThatCannotBeListed) {
  World world;
  for (const char* path : {"a/x", "b/y"}) world.store->Put(path, "1");
  Recorder recorder;
  ASSERT_TRUE(world.volume->List("", Nanos::zero(), {}).has_value());
  world.store->FailNext(FakeObjectStore::Op::kList, Error(Code::kPermissionDenied, "no"));
  EXPECT_TRUE(WalkFrom(world, "", recorder));
  // The root itself failed, so nothing below it is known.
  EXPECT_THAT(recorder.failures, ElementsAre(" PERMISSION_DENIED"));
  EXPECT_TRUE(WalkFrom(world, "", recorder));
  EXPECT_THAT(recorder.files, ElementsAre("a/x", "b/y"));
}

TEST(Walk, EndsWhenTheVisitorOrTheStopTokenSaysSo) {
  World world;
  for (const char* path : {"a", "b", "c"}) world.store->Put(path, "1");
  Recorder recorder;
  recorder.stop_after = 2;
  EXPECT_FALSE(WalkFrom(world, "", recorder));
  EXPECT_EQ(recorder.files.size(), 2U);
  std::stop_source stop;
  stop.request_stop();
  Recorder none;
  EXPECT_FALSE(WalkFrom(world, "", none, stop.get_token()));
  EXPECT_THAT(none.files, IsEmpty());
}

// Holds each listing but the root's until as many as `together` are under way.
class CrowdStore final : public FakeObjectStore {
 public:
  explicit CrowdStore(size_t together) : together_(together) {}

  Result<store::ListPage> List(const std::string& path, const std::string& token,
                               const store::CallContext& context) override {
    if (!path.empty()) {
      std::unique_lock lock(mutex_);
      most_ = std::max(most_, ++under_way_);
      changed_.notify_all();
      if (!changed_.wait_for(lock, context.stop, std::chrono::seconds(20), [this] { return most_ >= together_; }))
        ADD_FAILURE() << path << " was listed with too few others";
      --under_way_;
    }
    return FakeObjectStore::List(path, token, context);
  }
  size_t most() {
    const std::scoped_lock lock(mutex_);
    return most_;
  }

 private:
  const size_t together_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  size_t under_way_ = 0;
  size_t most_ = 0;
};

TEST(Walk, ListsDirectoriesAtOnceAndNoMoreThanItMay) {
  for (const size_t at_once : {size_t{1}, size_t{4}}) {
    const auto store = std::make_shared<CrowdStore>(at_once);
    World world(UINT64_MAX / 2, store);
    std::vector<std::string> expected;
    for (int i = 10; i < 40; ++i) {
      expected.push_back("d" + std::to_string(i) + "/file");
      store->Put(expected.back(), "1");
    }
    Recorder recorder;
    const session::WalkOptions options{.request_timeout = std::chrono::seconds(30), .listings_at_once = at_once};
    EXPECT_TRUE(session::Walk(*world.volume, "", options, SystemClock(), recorder));
    EXPECT_EQ(recorder.files, expected);  // in order all the same
    EXPECT_LE(store->most(), at_once + 1);
    EXPECT_EQ(store->lists(), 31U);
  }
}

TEST(Walk, WhatIsListedAheadIsCalledOffWhenTheVisitorEnds) {
  const auto store = std::make_shared<CrowdStore>(1);
  World world(UINT64_MAX / 2, store);
  for (int i = 10; i < 40; ++i) store->Put("d" + std::to_string(i) + "/file", "1");
  Recorder recorder;
  recorder.stop_after = 1;
  EXPECT_FALSE(WalkFrom(world, "", recorder));
  EXPECT_LT(store->lists(), 20U);
}

TEST(Walk, ManyFilesAndADeepTree) {
  World world;
  std::string deep;
  for (int i = 0; i < 300; ++i) deep += "d/";
  world.store->Put(deep + "bottom", "1");
  for (int i = 0; i < 20'000; ++i) world.store->Put("many/" + std::to_string(i), "");
  Recorder recorder;
  EXPECT_TRUE(WalkFrom(world, "", recorder));
  EXPECT_EQ(recorder.files.size(), 20'001U);
  EXPECT_EQ(recorder.directories.size(), 302U);
}

}  // namespace
}  // namespace mlcache::rpc
