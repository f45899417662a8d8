// The Plan call: what of a list is taken, refused or found absent, and what each verb does.
#include "cached/rpc/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/rpc/world.h"

namespace mlcache::rpc {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::World;

class VolumeFiles final : public prefetch::PlanFiles {
 public:
  explicit VolumeFiles(std::shared_ptr<session::Volume> volume) : volume_(std::move(volume)) {}
  Result<fetch::Source> Find(const std::string& path, size_t /*together*/, const store::CallContext& context) override {
    MLCACHE_ASSIGN_OR_RETURN(const store::ObjectInfo info, volume_->Stat(path, std::chrono::hours(1), context));
    return volume_->Open(path, info);
  }
  void Distrust(const std::string& path) override { volume_->Invalidate(path); }

 private:
  const std::shared_ptr<session::Volume> volume_;
};

class PlanCallTest : public ::testing::Test {
 protected:
  PlanCallTest() {
    for (const char* path : {"a", "b", "d/c"}) world_.store->Put(path, "bytes");
    world_.sessions.plan = std::make_shared<prefetch::PlanPrefetcher>(prefetch::PlanOptions{.mountpoint = "/mnt/data"},
                                                                      std::make_unique<VolumeFiles>(world_.volume),
                                                                      *world_.fetcher, budget_, world_.metrics);
  }
  ~PlanCallTest() override { world_.sessions.plan->Stop(); }

  static control::PlanPart Part(control::PlanVerb verb, const std::vector<std::string>& paths,
                                const std::string& stream = "") {
    control::PlanPart part;
    part.set_mountpoint(World::kMountpoint);
    part.set_verb(verb);
    part.set_stream(stream);
    for (const std::string& path : paths) part.add_paths(path);
    return part;
  }
  Result<control::PlanReply> Call(const control::PlanPart& part) {
    PlanCall call(part, world_.sessions);
    call.Add(part);
    control::PlanReply reply;
    MLCACHE_RETURN_IF_ERROR(call.Run(reply));
    return reply;
  }
  static std::vector<std::string> Named(const control::PlanReply& reply) {
    std::vector<std::string> paths;
    for (const control::Failure& failure : reply.failures()) paths.push_back(failure.path());
    return paths;
  }

  World world_;
  prefetch::PlanBudget budget_{256 * kMiB};
};

TEST_F(PlanCallTest, TakesWhatMayLieBelowTheMountAndNamesTheRest) {
  const auto reply = Call(Part(control::PLAN_REPLACE, {"a", "./d//c", "d/../../b", "", "x\xff", std::string("n\0l", 3),
                                                       std::string(300, 'n'), "a"}));
  ASSERT_TRUE(reply.has_value()) << reply.error();
  EXPECT_EQ(reply->accepted(), 4U);
  EXPECT_EQ(reply->refused(), 4U);
  EXPECT_EQ(reply->unknown(), 1U);
  EXPECT_THAT(Named(*reply), ElementsAre("/mnt/data/d/../../b", "/mnt/data/", std::string("/mnt/data/n\0l", 13),
                                         "/mnt/data/" + std::string(300, 'n'), "/mnt/data/x\xff"));
  ASSERT_EQ(reply->streams_size(), 1);
  EXPECT_EQ(reply->streams(0).files(), 4U);
}

TEST_F(PlanCallTest, AnOrderInPartsIsOne) {
  const auto first = Part(control::PLAN_REPLACE, {"a"});
  PlanCall call(first, world_.sessions);
  call.Add(first);
  call.Add(Part(control::PLAN_SHOW, {"b"}));  // of later parts only the paths count
  call.Add(Part(control::PLAN_SHOW, {"d/c"}));
  EXPECT_TRUE(world_.sessions.plan->Reports().empty()) << "nothing before the end";
  control::PlanReply reply;
  ASSERT_TRUE(call.Run(reply).has_value());
  EXPECT_EQ(reply.accepted(), 3U);
  EXPECT_EQ(world_.sessions.plan->Reports().at(0).files, 3U);
}

TEST_F(PlanCallTest, AppendsShowsAndClears) {
  ASSERT_TRUE(Call(Part(control::PLAN_REPLACE, {"a"}, "one")).has_value());
  ASSERT_TRUE(Call(Part(control::PLAN_APPEND, {"b"}, "one")).has_value());
  ASSERT_TRUE(Call(Part(control::PLAN_APPEND, {"b"}, "two")).has_value());
  auto show = Part(control::PLAN_SHOW, {});
  show.set_all_streams(true);
  auto shown = Call(show);
  ASSERT_EQ(shown->streams_size(), 2);
  EXPECT_EQ(shown->streams(0).stream(), "one");
  EXPECT_EQ(shown->streams(0).files(), 2U);
  ASSERT_TRUE(Call(Part(control::PLAN_CLEAR, {}, "one")).has_value());
  shown = Call(show);
  ASSERT_EQ(shown->streams_size(), 1);
  EXPECT_EQ(shown->streams(0).stream(), "two");
  auto clear = Part(control::PLAN_CLEAR, {});
  clear.set_all_streams(true);
  ASSERT_TRUE(Call(clear).has_value());
  EXPECT_EQ(Call(show)->streams_size(), 0);
}

TEST_F(PlanCallTest, AListOfMistakesTakesNoPlanAway) {
  ASSERT_TRUE(Call(Part(control::PLAN_REPLACE, {"a"})).has_value());
  const auto reply = Call(Part(control::PLAN_REPLACE, {"../a"}));
  EXPECT_EQ(reply->accepted(), 0U);
  EXPECT_EQ(reply->streams(0).files(), 1U);
}

TEST_F(PlanCallTest, ErrorsSayWhatToMend) {
  auto elsewhere = Part(control::PLAN_REPLACE, {"a"});
  elsewhere.set_mountpoint("/mnt/other");
  EXPECT_EQ(Call(elsewhere).error().code(), Code::kNotFound);
  EXPECT_THAT(Call(Part(control::PLAN_REPLACE, {"a"}, std::string(256, 's'))).error().message(),
              HasSubstr("255 bytes"));
  auto later = Part(control::PLAN_REPLACE, {"a"});
  later.set_verb(static_cast<control::PlanVerb>(99));
  EXPECT_THAT(Call(later).error().message(), HasSubstr("later release"));
}

}  // namespace
}  // namespace mlcache::rpc
