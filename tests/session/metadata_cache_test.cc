// What the metadata cache asks of the store, and when: ages, single flight, storms of lookups, the persistent map.
#include "cached/session/metadata_cache.h"

#include <gtest/gtest.h>

#include <random>
#include <thread>
#include <vector>

#include "tests/fakes/fake_clock.h"
#include "tests/fakes/fake_key_value.h"
#include "tests/fakes/fake_object_store.h"

namespace mlcache::session {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::FakeClock;
using testing::FakeObjectStore;

constexpr Nanos kForever = Nanos::max();

// Holds Stat and List calls until they are let go.
class HeldStore final : public store::ObjectStore {
 public:
  explicit HeldStore(FakeObjectStore& inner) : inner_(inner) {}

  void Hold() {
    std::lock_guard lock(mutex_);
    held_ = true;
  }
  void LetGo() {
    std::lock_guard lock(mutex_);
    held_ = false;
    changed_.notify_all();
  }
  void WaitForCalls(size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return waiting_ >= count; });
  }

  Result<store::ObjectInfo> Stat(const std::string& path, const store::CallContext& context) override {
    Result<store::ObjectInfo> info = inner_.Stat(path, context);  // as the store was when it was asked
    MLCACHE_RETURN_IF_ERROR(Wait(context));
    return info;
  }
  Result<store::ListPage> List(const std::string& path, const std::string& token,
                               const store::CallContext& context) override {
    Result<store::ListPage> page = inner_.List(path, token, context);
    MLCACHE_RETURN_IF_ERROR(Wait(context));
    return page;
  }
  Status ReadRange(const store::ObjectRef&, uint64_t, uint64_t, const store::ByteSink&,
                   const store::CallContext&) override {
    return Fail(Code::kUnimplemented, "no reads here");
  }
  Result<store::StoreCapacity> Capacity(const store::CallContext& context) override { return inner_.Capacity(context); }
  Status Watch(const std::string& path, const store::ChangeSink& sink, const store::CallContext& context) override {
    return inner_.Watch(path, sink, context);
  }

 private:
  Status Wait(const store::CallContext& context) {
    std::unique_lock lock(mutex_);
    if (!held_) return {};
    ++waiting_;
    changed_.notify_all();
    changed_.wait(lock, context.stop, [this] { return !held_; });
    --waiting_;
    if (context.stop.stop_requested()) return Fail(Code::kCancelled, "stopped");
    return {};
  }

  FakeObjectStore& inner_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  bool held_ = false;
  size_t waiting_ = 0;
};

class MetadataCacheTest : public ::testing::Test {
 protected:
  MetadataCacheTest() { Make(); }

  void Make(size_t max_entries = 100'000) {
    cache_ = std::make_unique<MetadataCache>(MetadataOptions{.max_entries = max_entries,
                                                             .entries_per_request = 1000,
                                                             .persistent_prefix = "ltest",
                                                             .persistent_root = "root"},
                                             held_, persistent_, clock_);
  }

  Known Stat(const std::string& path, Nanos max_age) {
    const auto known = cache_->Stat(path, max_age, {});
    EXPECT_TRUE(known.has_value()) << known.error();
    return known.value_or(Known{});
  }
  size_t List(const std::string& path, Nanos max_age) {
    const auto listing = cache_->List(path, max_age, ListDetail::kAttributes, {});
    EXPECT_TRUE(listing.has_value()) << listing.error();
    return listing.has_value() ? (*listing)->entries.size() : 0;
  }

  std::shared_ptr<const Listing> ListNames(const std::string& path, Nanos max_age) {
    auto listing = cache_->List(path, max_age, ListDetail::kNames, {});
    EXPECT_TRUE(listing.has_value()) << listing.error();
    return listing.has_value() ? *std::move(listing) : std::make_shared<const Listing>();
  }

  FakeClock clock_;
  FakeObjectStore store_;
  HeldStore held_{store_};
  cache::FakeKeyValue persistent_;
  std::unique_ptr<MetadataCache> cache_;
};

TEST_F(MetadataCacheTest, AnswersAreReusedWithinTheirAge) {
  const std::string version = store_.Put("dir/file", "x");
  EXPECT_EQ(Stat("dir/file", seconds(5)).info.version, version);
  const std::string next = store_.Put("dir/file", "y");
  clock_.Advance(seconds(5));
  EXPECT_EQ(Stat("dir/file", seconds(5)).info.version, version);
  EXPECT_EQ(store_.stats(), 1U);
  clock_.Advance(Nanos(1));
  EXPECT_EQ(Stat("dir/file", kForever).info.version, version);
  EXPECT_FALSE(cache_->Peek("dir/file", seconds(5)));
  EXPECT_EQ(Stat("dir/file", seconds(5)).info.version, next);
  EXPECT_EQ(Stat("dir/file", Nanos(0)).info.version, next);  // same instant
  EXPECT_EQ(store_.stats(), 2U);
  EXPECT_EQ(Stat("", seconds(5)).info.type, store::FileType::kDirectory);
}

TEST_F(MetadataCacheTest, AListingAnswersForItsNames) {
  store_.Put("dir/a", "x");
  store_.Put("dir/b", "x");
  EXPECT_EQ(List("dir", seconds(5)), 2U);
  EXPECT_TRUE(Stat("dir/a", seconds(5)).exists);
  EXPECT_FALSE(Stat("dir/c", seconds(5)).exists);
  EXPECT_EQ(store_.stats(), 0U);
  clock_.Advance(seconds(2));
  EXPECT_FALSE(Stat("dir/c", seconds(5)).exists);  // absence is believed for 1 s
  EXPECT_EQ(store_.stats(), 1U);
  EXPECT_FALSE(Stat("dir/d", kForever).exists);  // or for ever
  EXPECT_EQ(store_.stats(), 1U);
  EXPECT_EQ(cache_->List("nowhere", seconds(5), ListDetail::kAttributes, {}).error().code(), Code::kNotFound);
}

TEST_F(MetadataCacheTest, ANewerAnswerThanTheListingMakesItListAgain) {
  store_.Put("dir/a", "x");
  store_.Put("dir/b", "x");
  EXPECT_EQ(List("dir", seconds(60)), 2U);
  clock_.Advance(seconds(10));
  const std::string version = store_.Put("dir/a", "changed");
  EXPECT_EQ(Stat("dir/a", seconds(5)).info.version, version);
  const auto listing = cache_->List("dir", seconds(60), ListDetail::kAttributes, {}).value();
  EXPECT_EQ(listing->entries[0].info.version, version);
  EXPECT_EQ(store_.lists(), 2U);
}

TEST_F(MetadataCacheTest, UnsettledAnswersAreNotServedAgain) {
  store_.Put("dir/young", "x");
  store_.Edit("dir/young", [](auto& info) { info.settled = false; });
  EXPECT_FALSE(Stat("dir/young", seconds(60)).info.settled);
  EXPECT_FALSE(Stat("dir/young", kForever).info.settled);
  EXPECT_EQ(store_.stats(), 2U);
  EXPECT_EQ(List("dir", seconds(60)), 1U);
  EXPECT_FALSE(cache_->Peek("dir/young", kForever));
  store_.Edit("dir/young", [](auto& info) { info.settled = true; });
  EXPECT_TRUE(Stat("dir/young", seconds(60)).info.settled);
  EXPECT_TRUE(cache_->Peek("dir/young", seconds(60)));
}

TEST_F(MetadataCacheTest, OneRequestForAllWhoWait) {
  store_.Put("dir/file", "x");
  held_.Hold();
  std::vector<std::jthread> threads;
  for (int i = 0; i < 8; ++i) threads.emplace_back([this] { EXPECT_TRUE(Stat("dir/file", seconds(5)).exists); });
  held_.WaitForCalls(1);
  held_.LetGo();
  threads.clear();
  EXPECT_EQ(store_.stats(), 1U);
  Make();
  held_.Hold();
  for (int i = 0; i < 8; ++i) threads.emplace_back([this] { EXPECT_EQ(List("dir", seconds(5)), 1U); });
  held_.WaitForCalls(1);
  held_.LetGo();
  threads.clear();
  EXPECT_EQ(store_.lists(), 1U);
}

TEST_F(MetadataCacheTest, OneWhoIsCalledOffDoesNotTakeTheOthersAlong) {
  store_.Put("file", "x");
  held_.Hold();
  std::stop_source stop;
  std::jthread leader([&] {
    const auto known = cache_->Stat("file", seconds(5), {.stop = stop.get_token()});
    ASSERT_FALSE(known.has_value());
    EXPECT_EQ(known.error().code(), Code::kCancelled);
  });
  held_.WaitForCalls(1);
  std::jthread follower([&] { EXPECT_TRUE(Stat("file", seconds(5)).exists); });
  std::stop_source impatient;
  std::jthread leaver([&] {
    const auto known = cache_->Stat("file", seconds(5), {.stop = impatient.get_token()});
    ASSERT_FALSE(known.has_value());
    EXPECT_EQ(known.error().code(), Code::kCancelled);
  });
  impatient.request_stop();
  leaver.join();
  stop.request_stop();
  leader.join();
  held_.LetGo();
}

TEST_F(MetadataCacheTest, ADeadlineEndsAWait) {
  store_.Put("file", "x");
  held_.Hold();
  std::jthread leader([&] { Stat("file", seconds(5)); });
  held_.WaitForCalls(1);
  const auto known = cache_->Stat("file", seconds(5), {.deadline = SystemClock().Now() + milliseconds(20)});
  ASSERT_FALSE(known.has_value());
  EXPECT_EQ(known.error().code(), Code::kDeadlineExceeded);
  held_.LetGo();
}

TEST_F(MetadataCacheTest, ManyLookupsListTheDirectoryInstead) {
  for (int i = 0; i < 500; ++i) store_.Put("dir/" + std::to_string(i), "x");
  for (int i = 0; i < 500; ++i) EXPECT_TRUE(Stat("dir/" + std::to_string(i), seconds(10)).exists);
  EXPECT_LE(store_.stats(), 16U);
  EXPECT_EQ(store_.lists(), 1U);
  // Stale again: the same once more.
  clock_.Advance(seconds(20));
  store_.Remove("dir/499");
  for (int i = 0; i < 500; ++i) EXPECT_EQ(Stat("dir/" + std::to_string(i), seconds(10)).exists, i != 499);
  EXPECT_LE(store_.stats(), 32U);
  EXPECT_EQ(store_.lists(), 2U);
}

TEST_F(MetadataCacheTest, NamesComeFirstAndAttributesWhenTheyAreWanted) {
  store_.set_dear_attributes(true);
  const std::string version = store_.Put("dir/a", "x");
  for (int i = 0; i < 600; ++i) store_.Put("dir/" + std::to_string(i), "x");
  const auto names = ListNames("dir", seconds(10));
  EXPECT_FALSE(names->described);
  EXPECT_EQ(names->entries.size(), 601U);
  EXPECT_FALSE(Stat("dir/nowhere", seconds(10)).exists);  // absence is told by the names
  EXPECT_EQ(store_.stats(), 0U);
  // One look-up asks for one; what it says of the name does not make the names stale.
  EXPECT_EQ(Stat("dir/a", seconds(10)).info.version, version);
  EXPECT_EQ(Stat("dir/a", seconds(10)).info.version, version);
  EXPECT_EQ(store_.stats(), 1U);
  EXPECT_EQ(ListNames("dir", seconds(10)), names);
  // Many bring all at once.
  for (int i = 0; i < 600; ++i) EXPECT_FALSE(Stat("dir/" + std::to_string(i), seconds(10)).info.version.empty());
  EXPECT_LE(store_.stats(), 16U);
  EXPECT_EQ(store_.lists(), 2U);
  // From then on they come with the names.
  clock_.Advance(seconds(20));
  EXPECT_TRUE(ListNames("dir", seconds(10))->described);
  EXPECT_EQ(Stat("dir/a", seconds(10)).info.version, version);
  EXPECT_EQ(store_.lists(), 3U);
  EXPECT_LE(store_.stats(), 16U);
}

TEST_F(MetadataCacheTest, AttributesAreAsYoungAsAskedForThoughTheNamesAreYounger) {
  store_.set_dear_attributes(true);
  store_.Put("dir/a", "x");
  ListNames("dir", seconds(10));
  Stat("dir/a", seconds(10));
  clock_.Advance(seconds(9));
  const std::string version = store_.Put("dir/a", "changed");
  store_.PutDirectory("dir/b");
  clock_.Advance(seconds(2));
  EXPECT_EQ(ListNames("dir", seconds(10))->entries.size(), 2U);
  EXPECT_EQ(Stat("dir/a", seconds(10)).info.version, version);
  // A name that has become another kind of thing makes the listing stale.
  store_.Remove("dir/b");
  store_.Put("dir/b", "a file now");
  EXPECT_EQ(Stat("dir/b", Nanos(0)).info.type, store::FileType::kRegular);
  EXPECT_EQ(ListNames("dir", seconds(10))->entries[1].info.type, store::FileType::kRegular);
}

TEST_F(MetadataCacheTest, NamesNeverPassForAttributes) {
  store_.set_dear_attributes(true);
  const std::string version = store_.Put("dir/a", "x");
  ListNames("dir", seconds(60));
  EXPECT_EQ(cache_->PeekListing("dir", seconds(60), ListDetail::kAttributes), nullptr);
  EXPECT_NE(cache_->PeekListing("dir", seconds(60), ListDetail::kNames), nullptr);
  Make();  // the names outlive the process as names
  EXPECT_FALSE(ListNames("dir", seconds(60))->described);
  EXPECT_EQ(store_.lists(), 1U);
  const auto described = cache_->List("dir", seconds(60), ListDetail::kAttributes, {}).value();
  ASSERT_TRUE(described->described);
  EXPECT_EQ(described->entries[0].info.version, version);
  EXPECT_EQ(store_.lists(), 2U);
  Make();
  EXPECT_EQ(Stat("dir/a", seconds(60)).info.version, version);
  EXPECT_EQ(store_.stats() + store_.lists(), 2U);
}

TEST_F(MetadataCacheTest, ListingIsNotTriedWhereItCannotHelp) {
  for (int i = 0; i < 100; ++i) store_.Put("dir/" + std::to_string(i), "x");
  for (int i = 0; i < 100; ++i) Stat("dir/" + std::to_string(i), Nanos(0));
  EXPECT_EQ(store_.stats(), 100U);
  EXPECT_EQ(store_.lists(), 0U);
  // A directory much larger than what was looked up is given up, and not tried again for each lookup.
  for (int i = 0; i < 40'000; ++i) store_.Put("huge/" + std::to_string(i), "x");
  for (int i = 0; i < 20; ++i) Stat("huge/" + std::to_string(i), seconds(10));
  EXPECT_LE(store_.lists(), 2U * 17);
  EXPECT_GE(store_.stats(), 119U);
  // One that cannot be listed is still looked up.
  for (int i = 0; i < 20; ++i) {
    store_.FailNext(FakeObjectStore::Op::kList, Error(Code::kPermissionDenied, "no listing"));
    EXPECT_FALSE(Stat("closed/" + std::to_string(i), seconds(10)).exists);
  }
}

TEST_F(MetadataCacheTest, ListingsOutliveTheProcess) {
  store_.Put("dir/file", "x");
  store_.PutSymlink("dir/link", "target");
  EXPECT_EQ(List("dir", seconds(60)), 2U);
  Make();
  EXPECT_EQ(List("dir", seconds(60)), 2U);
  EXPECT_EQ(Stat("dir/link", seconds(60)).info.symlink_target, "target");
  EXPECT_EQ(store_.lists() + store_.stats(), 1U);
  Make();
  clock_.Advance(seconds(61));
  EXPECT_TRUE(Stat("dir/file", kForever).exists);  // immutable mounts: of any age
  EXPECT_EQ(store_.lists() + store_.stats(), 1U);
  EXPECT_TRUE(Stat("dir/file", seconds(60)).exists);
  EXPECT_EQ(store_.stats(), 1U);
  // A wall clock that was set back makes the age unknown.
  Make();
  clock_.SetWall(clock_.WallNow() - seconds(86400));
  EXPECT_TRUE(Stat("dir/file", seconds(60)).exists);
  EXPECT_EQ(store_.stats(), 2U);
}

TEST_F(MetadataCacheTest, ABrokenPersistentMapOnlyCostsRequests) {
  store_.Put("dir/file", "x");
  EXPECT_EQ(List("dir", seconds(60)), 1U);
  std::string key = "ltest";
  key += '\0';
  key += "root/dir";
  std::string bytes = persistent_.Get(key).value().value();
  bytes[bytes.size() / 2] ^= 1;
  ASSERT_TRUE(persistent_.Write({{key, bytes}}).has_value());
  Make();
  EXPECT_EQ(List("dir", seconds(60)), 1U);
  EXPECT_EQ(store_.lists(), 2U);
  persistent_.FailWith(Error(Code::kUnavailable, "the disk is gone"));
  Make();
  EXPECT_EQ(List("dir", seconds(60)), 1U);
  EXPECT_GE(cache_->Invalidate("dir"), 1U);
}

TEST_F(MetadataCacheTest, InvalidateForgetsThePathAndAllBelow) {
  store_.Put("dir/sub/file", "x");
  store_.Put("dir-2/file", "x");
  List("", kForever);
  List("dir", kForever);
  List("dir/sub", kForever);
  List("dir-2", kForever);
  const uint64_t lists = store_.lists();
  store_.Put("dir/sub/file", "changed");
  EXPECT_EQ(cache_->Invalidate("dir"), 3U);
  EXPECT_EQ(Stat("dir/sub/file", kForever).info.size, 7U);
  EXPECT_TRUE(Stat("dir-2/file", kForever).exists);
  EXPECT_EQ(store_.lists(), lists);
  EXPECT_TRUE(Stat("dir", kForever).exists);
  EXPECT_EQ(store_.stats(), 2U);
  // Nor is it found again after a restart.
  Make();
  EXPECT_EQ(List("dir", kForever), 1U);
  EXPECT_EQ(store_.lists(), lists + 1);
  EXPECT_GE(cache_->Invalidate(""), 1U);
  EXPECT_EQ(List("dir-2", kForever), 1U);
  EXPECT_EQ(store_.lists(), lists + 2);
}

TEST_F(MetadataCacheTest, WhatWasAskedBeforeAnInvalidateIsNotKept) {
  store_.Put("file", "old");
  held_.Hold();
  std::jthread early([&] { EXPECT_EQ(Stat("file", kForever).info.size, 3U); });
  held_.WaitForCalls(1);
  store_.Put("file", "newer");
  cache_->Invalidate("file");
  held_.LetGo();
  early.join();
  EXPECT_EQ(Stat("file", kForever).info.size, 5U);
}

// A busy store's change feed tells of other places all the time.
TEST_F(MetadataCacheTest, WhatIsInvalidatedElsewhereLeavesAnswersUnderWayAlone) {
  store_.Put("dir/file", "x");
  store_.Put("dir/sub/file", "x");
  for (const auto& [changed, kept] : {std::pair("elsewhere/file", true),
                                      {"dir-2/file", true},
                                      {"dir/sub/file", true},
                                      {"dir/file", false},
                                      {"dir", false},
                                      {"dir/new", false},
                                      {"", false}}) {
    clock_.Advance(seconds(10));
    held_.Hold();
    std::jthread early([&] { EXPECT_EQ(List("dir", seconds(5)), 2U); });
    held_.WaitForCalls(1);
    for (int times = 0; times < 10; ++times) cache_->Invalidate(changed);
    held_.LetGo();
    early.join();
    const size_t lists = store_.lists();
    EXPECT_EQ(List("dir", seconds(5)), 2U);
    EXPECT_EQ(store_.lists() == lists, kept) << changed;
  }
  // More than is remembered: to be safe nothing is kept.
  clock_.Advance(seconds(10));
  held_.Hold();
  std::jthread early([&] { EXPECT_EQ(List("dir", seconds(5)), 2U); });
  held_.WaitForCalls(1);
  for (int times = 0; times < 20'000; ++times) cache_->Invalidate("elsewhere/file" + std::to_string(times % 100));
  held_.LetGo();
  early.join();
  const size_t lists = store_.lists();
  EXPECT_EQ(List("dir", seconds(5)), 2U);
  EXPECT_EQ(store_.lists(), lists + 1);
}

TEST_F(MetadataCacheTest, WhatAFeedInvalidatesIsBounded) {
  Make(1000);
  for (int name = 0; name < 5000; ++name) {
    cache_->Invalidate("directory" + std::to_string(name % 50) + "/file" + std::to_string(name));
  }
  EXPECT_LE(cache_->entries_in_memory(), 1000U);
}

TEST_F(MetadataCacheTest, MemoryIsBounded) {
  Make(1000);
  for (int d = 0; d < 50; ++d) {
    for (int i = 0; i < 100; ++i) store_.Put("dir" + std::to_string(d) + "/" + std::to_string(i), "x");
    EXPECT_EQ(List("dir" + std::to_string(d), seconds(60)), 100U);
    EXPECT_LE(cache_->entries_in_memory(), 1000U);
  }
  for (int i = 0; i < 3000; ++i) store_.Put("big/" + std::to_string(i), "x");
  EXPECT_EQ(List("big", seconds(60)), 3000U);
  for (int i = 0; i < 3000; ++i) EXPECT_TRUE(Stat("big/" + std::to_string(i), seconds(60)).exists);
  EXPECT_LE(cache_->entries_in_memory(), 1000U);
}

// Random changes and questions against the store itself: no answer is older than was allowed.
TEST_F(MetadataCacheTest, NoAnswerIsOlderThanAllowed) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  Make(60);
  struct Past {
    Nanos until;  // the version was current before this
    std::string version;
  };
  std::map<std::string, std::vector<Past>> history;  // the last element's until is the future
  const auto path_of = [&] { return "d" + std::to_string(random() % 3) + "/f" + std::to_string(random() % 12); };
  for (int d = 0; d < 3; ++d) store_.PutDirectory("d" + std::to_string(d));
  for (int step = 0; step < 5000; ++step) {
    clock_.Advance(milliseconds(random() % 300));
    const std::string path = path_of();
    auto& past = history[path];
    if (past.empty()) past.push_back({Nanos::max(), ""});
    switch (random() % 8) {
      case 0:
        past.back().until = clock_.Now();
        past.push_back({Nanos::max(), store_.Put(path, "x")});
        break;
      case 1:
        past.back().until = clock_.Now();
        store_.Remove(path);
        past.push_back({Nanos::max(), ""});
        break;
      case 2:
        cache_->Invalidate(path);
        break;
      case 3:
        List(path.substr(0, 2), seconds(random() % 5));
        break;
      default: {
        const Nanos age = milliseconds(random() % 5000);
        const Known known = Stat(path, age);
        const std::string version = known.exists ? known.info.version : "";
        const bool allowed = std::ranges::any_of(
            past, [&](const Past& was) { return was.version == version && was.until >= clock_.Now() - age; });
        EXPECT_TRUE(allowed) << "step " << step << " " << path << " '" << version << "'";
      }
    }
  }
}

}  // namespace
}  // namespace mlcache::session
