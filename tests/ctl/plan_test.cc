// 'mlcachectl plan' from its arguments to what it sends and prints, over a control service with canned answers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/ctl/ctl_fixture.h"

namespace mlcache::ctl {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class PlanTest : public CtlTest {
 protected:
  PlanTest() { server_.AddMount("/mnt/data"); }

  int Plan(std::vector<std::string> args) {
    args.insert(args.begin(), "plan");
    return Run(std::move(args));
  }
  std::string List(const std::string& text) {
    const std::string path = directory_.path() + "/list";
    std::ofstream(path) << text;
    return path;
  }
  std::vector<std::string> Sent() {
    std::vector<std::string> paths;
    for (const control::PlanPart& part : server_.plan_parts()) {
      for (const std::string& path : part.paths()) paths.push_back(path);
    }
    return paths;
  }
};

TEST_F(PlanTest, SendsTheListRelativeToTheMountpoint) {
  server_.plan.set_accepted(3);
  EXPECT_EQ(Plan({"/mnt/data/", "-f", List("a/b\n\n/mnt/data/c\nd e\n"), "--stream=rank1"}), 0) << err();
  EXPECT_THAT(Sent(), ElementsAre("a/b", "c", "d e"));
  const auto parts = server_.plan_parts();
  EXPECT_EQ(parts.front().mountpoint(), "/mnt/data");
  EXPECT_EQ(parts.front().verb(), control::PLAN_REPLACE);
  EXPECT_EQ(parts.front().stream(), "rank1");
  EXPECT_TRUE(parts.back().last());
  EXPECT_EQ(out(), "3 files accepted\n");
}

TEST_F(PlanTest, TakesNamesThatEndWithNulAndAppends) {
  server_.plan.set_accepted(2);
  EXPECT_EQ(Plan({"/mnt/data", "-f", List(std::string("a\nb\0c\0", 6)), "-0", "--append"}), 0);
  EXPECT_THAT(Sent(), ElementsAre("a\nb", "c"));
  EXPECT_EQ(server_.plan_parts().front().verb(), control::PLAN_APPEND);
}

TEST_F(PlanTest, ALongListGoesInParts) {
  std::string text;
  for (int i = 0; i < 10'000; ++i) text += "f" + std::to_string(i) + "\n";
  server_.plan.set_accepted(10'000);
  EXPECT_EQ(Plan({"/mnt/data", "-f", List(text)}), 0);
  EXPECT_EQ(out(), "10,000 files accepted\n");
  const auto parts = server_.plan_parts();
  ASSERT_EQ(parts.size(), 3U);
  for (const control::PlanPart& part : parts) EXPECT_LE(part.paths_size(), 4096);
  EXPECT_EQ(Sent().size(), 10'000U);
  EXPECT_EQ(Sent().back(), "f9999");
  EXPECT_FALSE(parts.front().last());
}

TEST_F(PlanTest, NamesWhatIsWrongWithTheList) {
  server_.plan.set_accepted(2);
  server_.plan.set_unknown(1);
  server_.plan.set_refused(5);
  control::Failure& failure = *server_.plan.add_failures();
  failure.set_path("/mnt/data/gone");
  failure.set_message("there is none");
  EXPECT_EQ(Plan({"/mnt/data", "-f", List("a\ngone\n/mnt/database/x\n")}), 4);
  EXPECT_THAT(Sent(), ElementsAre("a", "gone"));
  EXPECT_THAT(err(), HasSubstr("/mnt/data/gone: there is none"));
  EXPECT_THAT(err(), HasSubstr("/mnt/database/x: is not below the mountpoint"));
  EXPECT_THAT(err(), HasSubstr("and 5 more"));
  EXPECT_EQ(out(), "2 files accepted, 7 unknown\n");
  server_.plan.set_unknown(2);
  EXPECT_EQ(Plan({"/mnt/data", "-f", List("a\n")}), 1) << "not one file is right";
}

TEST_F(PlanTest, ShowsAndClears) {
  EXPECT_EQ(Plan({"/mnt/data"}), 0);
  EXPECT_EQ(out(), "no plan\n");
  control::PlanStream& stream = *server_.plan.add_streams();
  stream.set_files(1'300'000);
  stream.set_position(1234);
  stream.set_late(7);
  control::Failure& failure = *stream.add_named();
  failure.set_path("/mnt/data/gone");
  failure.set_message("there is none");
  EXPECT_EQ(Plan({"/mnt/data", "--show"}), 0);
  EXPECT_THAT(out(), HasSubstr("1,300,000"));
  EXPECT_THAT(out(), HasSubstr("1,234"));
  EXPECT_THAT(err(), HasSubstr("/mnt/data/gone: there is none"));
  EXPECT_TRUE(server_.plan_parts().front().all_streams());
  EXPECT_EQ(Plan({"/mnt/data", "--show", "--json"}), 0);
  const auto json = nlohmann::json::parse(out());
  EXPECT_EQ(json["streams"][0]["position"], 1234);
  EXPECT_EQ(json["streams"][0]["late"], 7);
  EXPECT_EQ(json["streams"][0]["unknown_files"][0]["path"], "/mnt/data/gone");
  EXPECT_EQ(Plan({"/mnt/data", "--clear", "--stream=val"}), 0);
  EXPECT_EQ(server_.plan_parts().front().verb(), control::PLAN_CLEAR);
  EXPECT_EQ(server_.plan_parts().front().stream(), "val");
  EXPECT_FALSE(server_.plan_parts().front().all_streams());
}

TEST_F(PlanTest, MisuseIsTwoAndErrorsAreOne) {
  for (const std::vector<std::string>& args : std::vector<std::vector<std::string>>{{},
                                                                                    {"-f", "-"},
                                                                                    {"/mnt/data", "/mnt/data"},
                                                                                    {"/mnt/data", "--show", "--clear"},
                                                                                    {"/mnt/data", "-0"},
                                                                                    {"/mnt/data", "--append"},
                                                                                    {"/mnt/data", "--clear", "--json"},
                                                                                    {"/mnt/data", "--frobnicate"}}) {
    EXPECT_EQ(Plan(args), 2) << err();
  }
  EXPECT_EQ(Plan({"/mnt/data/below"}), 1);
  EXPECT_THAT(err(), HasSubstr("is no mountpoint"));
  EXPECT_EQ(Plan({"/elsewhere"}), 1);
  EXPECT_EQ(Plan({"/mnt/data", "-f", directory_.path() + "/none"}), 1);
  EXPECT_THAT(err(), HasSubstr("/none"));
  EXPECT_EQ(Plan({"/mnt/data", "-f", directory_.path()}), 1) << "a directory";
  EXPECT_EQ(Plan({"/mnt/data", "-f", List("")}), 1);
  EXPECT_THAT(err(), HasSubstr("--clear"));
  server_.end = {grpc::StatusCode::RESOURCE_EXHAUSTED, "too many"};
  EXPECT_EQ(Plan({"/mnt/data", "-f", List("a\n")}), 1);
  EXPECT_THAT(err(), HasSubstr("too many"));
}

}  // namespace
}  // namespace mlcache::ctl
