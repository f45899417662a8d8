// The change feed: what one reply tells, and how the feed goes on after breaks.
#include "cached/store/seaweed_feed.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "cached/store/call.h"
#include "tests/store/seaweed_world.h"

namespace mlcache::store {
namespace {

using ::testing::ElementsAre;

std::vector<std::string> Told(const std::vector<ChangeEvent>& events) {
  std::vector<std::string> told;
  for (const ChangeEvent& event : events) told.push_back(event.path + (event.subtree ? "/**" : ""));
  return told;
}

filer_pb::SubscribeMetadataResponse Event(const std::string& directory, const std::string& old_name,
                                          const std::string& new_parent, const std::string& new_name,
                                          bool is_directory = false) {
  filer_pb::SubscribeMetadataResponse event;
  event.set_directory(directory);
  const auto fill = [&](filer_pb::Entry* entry, const std::string& name) {
    entry->set_name(name);
    entry->set_is_directory(is_directory);
  };
  if (!old_name.empty()) fill(event.mutable_event_notification()->mutable_old_entry(), old_name);
  if (!new_name.empty()) fill(event.mutable_event_notification()->mutable_new_entry(), new_name);
  event.mutable_event_notification()->set_new_parent_path(new_parent);
  return event;
}

TEST(ChangesOf, TellsOfWhatLiesBelowTheRoot) {
  EXPECT_THAT(Told(ChangesOf(Event("/a", "", "/a", "new"), "")), ElementsAre("a/new"));
  EXPECT_THAT(Told(ChangesOf(Event("/a", "", "", "new"), "/a")), ElementsAre("new"));
  EXPECT_THAT(Told(ChangesOf(Event("/a", "gone", "", ""), "/a")), ElementsAre("gone"));
  EXPECT_THAT(Told(ChangesOf(Event("/a", "same", "/a", "same"), "/a")), ElementsAre("same"));
  EXPECT_THAT(Told(ChangesOf(Event("/a/b", "from", "/c", "to"), "")), ElementsAre("a/b/from", "c/to"));
  EXPECT_THAT(Told(ChangesOf(Event("/a/b", "from", "/c", "to"), "/c")), ElementsAre("to"));
  EXPECT_THAT(Told(ChangesOf(Event("/a", "dir", "", "", true), "")), ElementsAre("a/dir/**"));
  EXPECT_THAT(Told(ChangesOf(Event("/", "top", "", ""), "")), ElementsAre("top"));
  EXPECT_THAT(Told(ChangesOf(Event("/ab", "", "/ab", "x"), "/a")), ElementsAre());
  // The root itself, or what it lies in.
  EXPECT_THAT(Told(ChangesOf(Event("/", "a", "", "", true), "/a")), ElementsAre("/**"));
  EXPECT_THAT(Told(ChangesOf(Event("/", "a", "/", "z", true), "/a/b")), ElementsAre("/**"));
  filer_pb::SubscribeMetadataResponse batch = Event("/a", "", "", "1");
  *batch.add_events() = Event("/a", "", "", "2");
  EXPECT_THAT(Told(ChangesOf(batch, "/a")), ElementsAre("1", "2"));
  EXPECT_THAT(Told(ChangesOf({}, "")), ElementsAre());
}

class SeaweedFeedTest : public SeaweedWorld {
 protected:
  void Follow(const std::string& filers = "") {
    store_ = Open("", {}, filers);
    thread_ = std::jthread([this](const std::stop_token& stop) {
      const Status status = store_->Watch("",
                                          [this](const ChangeEvent& event) {
                                            const std::lock_guard lock(mutex_);
                                            told_.push_back(event.path + (event.subtree ? "/**" : ""));
                                            changed_.notify_all();
                                          },
                                          {.stop = stop});
      EXPECT_TRUE(status) << status.error();
    });
  }
  void ExpectTold(const std::string& path) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, std::chrono::seconds(20), [&] {
      return std::ranges::find(told_, path) != told_.end();
    })) << path;
  }
  bool WasTold(const std::string& path) {
    const std::lock_guard lock(mutex_);
    return std::ranges::find(told_, path) != told_.end();
  }
  void Forget() {
    const std::lock_guard lock(mutex_);
    told_.clear();
  }

  std::shared_ptr<SeaweedStore> store_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> told_;
  std::jthread thread_;
};

TEST_F(SeaweedFeedTest, AChangeThatFellIntoABreakIsToldAfterIt) {
  Follow();
  cluster_.WaitForFeed();
  cluster_.Put("/dir/first", "x");
  ExpectTold("dir/first");
  cluster_.StopFiler();
  cluster_.Put("/dir/meanwhile", "x");
  cluster_.StartFiler();
  ExpectTold("dir/meanwhile");
  EXPECT_FALSE(WasTold("/**")) << "a short break must not cost all that is known";
  const std::vector<int64_t> positions = cluster_.feed_positions();
  ASSERT_GE(positions.size(), 2U);
}

TEST_F(SeaweedFeedTest, ABrokenStreamIsOpenedAgainAndAgain) {
  Follow();
  for (int round = 0; round < 5; ++round) {
    cluster_.WaitForFeed();
    cluster_.BreakFeeds();
    cluster_.Put("/round" + std::to_string(round), "x");
    ExpectTold("round" + std::to_string(round));
  }
  EXPECT_FALSE(WasTold("/**"));
}

TEST_F(SeaweedFeedTest, ALostLogMeansThatEverythingMayHaveChanged) {
  Follow();
  cluster_.WaitForFeed();
  cluster_.RefuseFeeds(true);
  cluster_.BreakFeeds();
  ExpectTold("/**");
  cluster_.RefuseFeeds(false);
  cluster_.Put("/after", "x");
  ExpectTold("after");
}

TEST_F(SeaweedFeedTest, AGapThatIsTooLongMeansThatEverythingMayHaveChanged) {
  options_.feed.longest_gap = std::chrono::milliseconds(50);
  Follow();
  cluster_.WaitForFeed();
  cluster_.StopFiler();
  Pause(std::chrono::milliseconds(100), {}).value();
  cluster_.StartFiler();
  ExpectTold("/**");
}

TEST_F(SeaweedFeedTest, AnotherFilersLogIsFollowedWhenOneGoes) {
  testing::FakeSeaweed other;
  Follow(cluster_.filer() + "," + other.filer());
  cluster_.WaitForFeed();
  cluster_.StopFiler();
  other.WaitForFeed();
  other.Put("/by/the other", "x");
  ExpectTold("by/the other");
}

TEST_F(SeaweedFeedTest, PositionsAreOnTheFilersClock) {
  cluster_.AdvanceClock(-std::chrono::nanoseconds(std::chrono::hours(24)).count());
  Follow();
  cluster_.WaitForFeed();
  cluster_.Put("/yesterday", "x");
  ExpectTold("yesterday");
}

TEST_F(SeaweedFeedTest, EndsWithinAMomentOfTheStopRequest) {
  Follow();
  cluster_.WaitForFeed();
  const Nanos begin = SystemClock().Now();
  thread_.request_stop();
  thread_.join();
  EXPECT_LT(SystemClock().Now() - begin, std::chrono::seconds(10));
}

}  // namespace
}  // namespace mlcache::store
