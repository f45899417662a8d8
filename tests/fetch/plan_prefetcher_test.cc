// The plan prefetcher over a real fetcher and a store in memory: order, bounds, what becomes of each file, and its end.
#include "cached/prefetch/plan_prefetcher.h"

#include <algorithm>
#include <atomic>
#include <set>

#include "tests/fakes/eventually.h"
#include "tests/fetch/fetch_fixture.h"

namespace mlcache::prefetch {
namespace {

using fetch::FetchWorld;
using testing::Eventually;

class WorldFiles final : public PlanFiles {
 public:
  explicit WorldFiles(FetchWorld& world) : world_(world) {}

  Result<fetch::Source> Find(const std::string& path, size_t /*together*/, const store::CallContext& context) override {
    MLCACHE_ASSIGN_OR_RETURN(const store::ObjectInfo info, world_.store->Stat(path, context));
    fetch::Source source = world_.Open(path);
    if (stale.exchange(false)) source.ref.version = "another";
    source.hints.keep = info.settled;
    return source;
  }
  void Distrust(const std::string& /*path*/) override { ++distrusted; }

  std::atomic<bool> stale = false;  // of the next Find
  std::atomic<int> distrusted = 0;

 private:
  FetchWorld& world_;
};

class PlanPrefetcherTest : public ::testing::Test {
 protected:
  void Start(uint64_t budget_bytes = 256 * kMiB, const PlanOptions& options = {.workers = 4}) {
    budget_.emplace(budget_bytes);
    auto files = std::make_unique<WorldFiles>(world_);
    files_ = files.get();
    plan_ = std::make_unique<PlanPrefetcher>(options, std::move(files), *world_.fetcher, *budget_, world_.metrics);
  }
  void Make(size_t files, size_t bytes = 10'000) {
    for (size_t i = 0; i < files; ++i) world_.store->Put(Name(i), fetch::Content(bytes, i));
  }
  static std::string Name(size_t number) { return "f" + std::to_string(number); }
  PlanOrder Order(const std::vector<std::string>& paths) {
    PlanOrder order(plan_->order_options());
    for (const std::string& path : paths) EXPECT_TRUE(order.Append(path));
    return order;
  }
  PlanOrder Order(size_t begin, size_t end) {
    std::vector<std::string> paths;
    for (size_t i = begin; i < end; ++i) paths.push_back(Name(i));
    return Order(paths);
  }
  PlanReport Report(const std::string& stream = "") {
    for (const PlanReport& report : plan_->Reports()) {
      if (report.stream == stream) return report;
    }
    return {.stream = "no such stream", .named = {}};
  }
  uint64_t Outcome(PlanOutcome outcome, const std::string& stream = "") {
    return Report(stream).outcomes[static_cast<size_t>(outcome)];
  }
  // As a session does it: tells the plan, then reads.
  void Read(const std::string& path) {
    const fetch::Source source = world_.Open(path);
    plan_->Use(path);
    std::string bytes;
    ASSERT_TRUE(world_.ReadNow(source, 0, source.ref.size, &bytes).has_value());
  }
  bool Ahead(uint64_t files) {
    return Eventually([&] { return Report().ahead_files == files; });
  }

  FetchWorld world_;
  std::optional<PlanBudget> budget_;
  std::unique_ptr<PlanPrefetcher> plan_;
  WorldFiles* files_ = nullptr;
};

TEST_F(PlanPrefetcherTest, FetchesInOrderAtPlanPriorityAndEveryReadFindsItsBytes) {
  Make(50);
  Start(256 * kMiB, {.workers = 1, .job = "train"});
  std::vector<std::string> paths;
  for (size_t i = 0; i < 50; ++i) paths.push_back(Name((i * 37) % 50));
  ASSERT_TRUE(plan_->Replace("", Order(paths)).has_value());
  ASSERT_TRUE(Ahead(50));
  const auto log = world_.store->read_log();
  ASSERT_EQ(log.size(), 50U);
  for (size_t i = 0; i < 50; ++i) {
    EXPECT_EQ(log[i].path, paths[i]);
    EXPECT_EQ(log[i].priority, store::Priority::kPlan);
    EXPECT_EQ(log[i].job, "train");
  }
  EXPECT_EQ(budget_->used_bytes(), 500'000U);
  for (const std::string& path : paths) Read(path);
  EXPECT_EQ(world_.store->reads(), 50U) << "each byte once";
  EXPECT_EQ(Outcome(PlanOutcome::kPrefetched), 50U);
  EXPECT_EQ(Report().left, 0U);
  EXPECT_EQ(budget_->used_bytes(), 0U);
  EXPECT_EQ(world_.metrics.prefetch_issued_bytes.Value(), 500'000.0);
  EXPECT_EQ(world_.metrics.prefetch_used_bytes.Value(), 500'000.0);
  EXPECT_EQ(world_.metrics.prefetch_wasted_bytes.Value(), 0.0);
}

TEST_F(PlanPrefetcherTest, StaysWithinItsBytesAndGoesOnAsTheyAreRead) {
  Make(40, kMiB);
  Start(8 * kMiB);
  ASSERT_TRUE(plan_->Replace("", Order(0, 40)).has_value());
  ASSERT_TRUE(Ahead(8));
  for (size_t i = 0; i < 40; ++i) {
    EXPECT_LE(budget_->used_bytes(), 8 * kMiB);
    ASSERT_TRUE(Eventually([&] { return world_.store->reads() >= std::min<size_t>(40, i + 8); }));
    EXPECT_LE(world_.store->reads(), i + 8);
    ASSERT_TRUE(Ahead(std::min<uint64_t>(8, 40 - i)));
    Read(Name(i));
  }
  EXPECT_EQ(Outcome(PlanOutcome::kPrefetched), 40U);
  EXPECT_EQ(budget_->used_bytes(), 0U);
}

TEST_F(PlanPrefetcherTest, NeverMoreFilesAtOnceThanWorkers) {
  Make(20);
  Start(256 * kMiB, {.workers = 3});
  world_.store->BlockReads();
  ASSERT_TRUE(plan_->Replace("", Order(0, 20)).has_value());
  world_.store->WaitForBlockedReads(3);
  EXPECT_EQ(world_.store->reads(), 3U);
  world_.store->UnblockReads();
  EXPECT_TRUE(Ahead(20));
}

TEST_F(PlanPrefetcherTest, AMountThatFetchesNothingAheadTakesNoPlan) {
  Make(1);
  Start(256 * kMiB, {.workers = 0, .mountpoint = "/mnt"});
  const Status refused = plan_->Replace("", Order(0, 1));
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), Code::kFailedPrecondition);
  EXPECT_NE(refused.error().message().find("/mnt fetches nothing ahead"), std::string::npos) << refused.error();
  EXPECT_FALSE(plan_->Append("", {Name(0)}).has_value());
  EXPECT_FALSE(plan_->active());
}

TEST_F(PlanPrefetcherTest, OfALargeFileTheBeginning) {
  world_.store->Put("large", fetch::Content(40 * kMiB, 1));
  Start(32 * kMiB);
  ASSERT_TRUE(plan_->Replace("", Order({"large"})).has_value());
  ASSERT_TRUE(Ahead(1));
  EXPECT_EQ(Report().ahead_bytes, 8 * kMiB);
  EXPECT_EQ(world_.store->read_bytes(), 8 * kMiB);
}

TEST_F(PlanPrefetcherTest, WhatIsThereCostsNothing) {
  Make(10);
  Start();
  for (size_t i = 0; i < 10; ++i) ASSERT_TRUE(world_.Settle(world_.Open(Name(i))).has_value());
  world_.store->Put("new", fetch::Content(10, 99));
  std::vector<std::string> paths;
  for (size_t i = 0; i < 10; ++i) paths.push_back(Name(i));
  paths.emplace_back("new");
  ASSERT_TRUE(plan_->Replace("", Order(paths)).has_value());
  ASSERT_TRUE(Ahead(1));
  EXPECT_EQ(world_.store->reads(), 11U);
  for (const std::string& path : paths) Read(path);
  EXPECT_EQ(Outcome(PlanOutcome::kPresent), 10U);
  EXPECT_EQ(Outcome(PlanOutcome::kPrefetched), 1U);
}

TEST_F(PlanPrefetcherTest, AReaderThatComesFirstIsCountedLateAndSharesTheFetch) {
  Make(4);
  Start();
  world_.store->BlockReads();
  ASSERT_TRUE(plan_->Replace("", Order(0, 4)).has_value());
  world_.store->WaitForBlockedReads(4);
  fetch::Call call(10'000);
  const fetch::Source source = world_.Open(Name(2));
  plan_->Use(Name(2));
  world_.fetcher->Read(source, 0, call.out(), {}, call.Done());
  world_.store->UnblockReads();
  ASSERT_TRUE(call.Wait().has_value());
  ASSERT_TRUE(Ahead(3));
  EXPECT_EQ(world_.store->reads(), 4U);
  EXPECT_EQ(Outcome(PlanOutcome::kLate), 1U);
  EXPECT_TRUE(Eventually([&] { return budget_->used_bytes() == 30'000; }));
}

TEST_F(PlanPrefetcherTest, WhatCannotBeFetchedIsNamedAndStopsNothing) {
  Make(3);
  world_.store->Put("young", "x");
  world_.store->Edit("young", [](auto& info) { info.settled = false; });
  Start(256 * kMiB, {.workers = 1});
  ASSERT_TRUE(plan_->Replace("", Order({"gone", Name(0), "young", Name(1)})).has_value());
  ASSERT_TRUE(Ahead(2));
  const PlanReport report = Report();
  EXPECT_EQ(report.unknown, 2U);
  ASSERT_EQ(report.named.size(), 2U);
  EXPECT_EQ(report.named[0].first, "gone");
  EXPECT_EQ(report.named[0].second.code(), Code::kNotFound);
  EXPECT_EQ(report.named[1].first, "young");
  Read("young");
  EXPECT_EQ(Outcome(PlanOutcome::kFailed), 1U);
}

TEST_F(PlanPrefetcherTest, AChangedFileIsLookedAtAgainOnce) {
  Make(1);
  Start(256 * kMiB, {.workers = 1});
  files_->stale = true;
  ASSERT_TRUE(plan_->Replace("", Order(0, 1)).has_value());
  ASSERT_TRUE(Ahead(1));
  EXPECT_EQ(files_->distrusted, 1);
  EXPECT_EQ(Report().unknown, 0U);
}

TEST_F(PlanPrefetcherTest, ReplacedPlansKeepWhatTheNewOneWants) {
  Make(20);
  Start();
  ASSERT_TRUE(plan_->Replace("", Order(0, 10)).has_value());
  ASSERT_TRUE(Ahead(10));
  ASSERT_TRUE(plan_->Replace("", Order(5, 15)).has_value());
  ASSERT_TRUE(Ahead(10));
  EXPECT_EQ(world_.store->reads(), 15U);
  EXPECT_EQ(budget_->used_bytes(), 100'000U);
  for (size_t i = 5; i < 15; ++i) Read(Name(i));
  EXPECT_EQ(Outcome(PlanOutcome::kPrefetched), 10U);
  EXPECT_EQ(world_.store->reads(), 15U);
  EXPECT_EQ(world_.metrics.plan_files.Add({{"state", "unread"}}).Value(), 5.0);
}

TEST_F(PlanPrefetcherTest, AppendedFilesFollow) {
  Make(10);
  Start();
  ASSERT_TRUE(plan_->Append("", {Name(0), Name(1)}).has_value());
  ASSERT_TRUE(Ahead(2));
  ASSERT_TRUE(plan_->Append("", {Name(2)}).has_value());
  ASSERT_TRUE(Ahead(3));
  EXPECT_EQ(Report().files, 3U);
}

TEST_F(PlanPrefetcherTest, RanksWithPlansOfTheirOwnTakeTurns) {
  Make(40);
  Start(256 * kMiB, {.workers = 1});
  world_.store->BlockReads();
  ASSERT_TRUE(plan_->Replace("rank0", Order(0, 20)).has_value());
  world_.store->WaitForBlockedReads(1);
  ASSERT_TRUE(plan_->Replace("rank1", Order(20, 40)).has_value());
  world_.store->UnblockReads();
  ASSERT_TRUE(Eventually([&] { return Report("rank0").ahead_files + Report("rank1").ahead_files == 40; }));
  const auto log = world_.store->read_log();
  for (size_t i = 0; i < 40; ++i) EXPECT_EQ(log[i].path, Name(i / 2 + (i % 2) * 20)) << i;
  for (size_t i = 0; i < 20; ++i) {
    Read(Name(i + 20));
    if (i % 2 == 0) Read(Name(i));
  }
  EXPECT_EQ(Outcome(PlanOutcome::kPrefetched, "rank0"), 10U);
  EXPECT_EQ(Outcome(PlanOutcome::kPrefetched, "rank1"), 20U);
  EXPECT_EQ(Report("rank0").ahead_files, 10U);
  plan_->Clear("rank0");
  EXPECT_EQ(plan_->Reports().size(), 1U);
  EXPECT_TRUE(plan_->active());
}

TEST_F(PlanPrefetcherTest, APlanThatNobodyReadsLeavesTheOthersTheirShare) {
  Make(80, kMiB);
  Start(16 * kMiB, {.workers = 8});
  ASSERT_TRUE(plan_->Replace("idle", Order(0, 40)).has_value());
  ASSERT_TRUE(Eventually([&] { return Report("idle").ahead_files == 16; }));
  plan_->Clear("idle");
  ASSERT_TRUE(plan_->Replace("read", Order(40, 80)).has_value());
  ASSERT_TRUE(Eventually([&] { return Report("read").ahead_files == 16; }));
  ASSERT_TRUE(plan_->Replace("idle", Order(20, 40)).has_value());
  for (size_t i = 40; i < 80; ++i) {
    ASSERT_TRUE(Eventually([&] { return Report("read").ahead_files >= std::min<size_t>(8, 80 - i); })) << i;
    Read(Name(i));
  }
  EXPECT_EQ(Outcome(PlanOutcome::kPrefetched, "read"), 40U);
  EXPECT_TRUE(Eventually([&] { return Report("idle").ahead_files == 8; }));
}

TEST_F(PlanPrefetcherTest, MountsShareTheBudgetEvenly) {
  Make(40, kMiB);
  Start(16 * kMiB);
  PlanPrefetcher other({.workers = 2}, std::make_unique<WorldFiles>(world_), *world_.fetcher, *budget_, world_.metrics);
  ASSERT_TRUE(other.Replace("", Order(20, 40)).has_value());
  ASSERT_TRUE(Eventually([&] { return other.Reports()[0].ahead_files == 16; })) << "alone it has everything";
  ASSERT_TRUE(plan_->Replace("", Order(0, 20)).has_value());
  for (size_t i = 20; i < 28; ++i) other.Use(Name(i));
  EXPECT_TRUE(Ahead(8)) << "what the other one gives back comes here";
  EXPECT_EQ(other.Reports()[0].ahead_files, 8U);
  EXPECT_EQ(budget_->used_bytes(), 16 * kMiB);
  other.Stop();
  EXPECT_TRUE(Ahead(16));
}

TEST_F(PlanPrefetcherTest, SkippedFilesDoNotHoldTheBudgetForEver) {
  Make(400, 64 * kKiB);
  Start(uint64_t{100} * 64 * kKiB);
  ASSERT_TRUE(plan_->Replace("", Order(0, 400)).has_value());
  ASSERT_TRUE(Ahead(100));
  // The first hundred are never read: the reader is beyond them.
  for (size_t i = 100; i < 400; ++i) Read(Name(i));
  EXPECT_EQ(Outcome(PlanOutcome::kUnread), 100U);
  EXPECT_GT(Outcome(PlanOutcome::kPrefetched) + Outcome(PlanOutcome::kLate), 290U);
  EXPECT_TRUE(Eventually([&] { return budget_->used_bytes() == 0; }));
}

TEST_F(PlanPrefetcherTest, FetchesLessFarAheadWhileItIsEvictedUnread) {
  Make(40, kMiB);
  Start(8 * kMiB);
  ASSERT_TRUE(plan_->Replace("", Order(0, 40)).has_value());
  for (size_t i = 0; i < 9; ++i) {  // one look at evicted bytes says it for all that were fetched alike
    ASSERT_TRUE(Ahead(8));
    if (i == 8) world_.cache.Evict(world_.Open(Name(i)).object->key());
    Read(Name(i));
  }
  EXPECT_EQ(Outcome(PlanOutcome::kLate), 1U);
  for (size_t i = 9; i < 13; ++i) Read(Name(i));
  EXPECT_TRUE(Ahead(4)) << "half of what it was";
  EXPECT_EQ(world_.store->reads(), 18U) << "sixteen ahead, one again, one more when there was room";
}

TEST_F(PlanPrefetcherTest, TheEndCallsOffWhatIsOnItsWay) {
  Make(20);
  Start();
  world_.store->BlockReads();
  ASSERT_TRUE(plan_->Replace("", Order(0, 20)).has_value());
  world_.store->WaitForBlockedReads(4);
  plan_->Stop();
  EXPECT_FALSE(plan_->active());
  EXPECT_EQ(budget_->used_bytes(), 0U);
  EXPECT_EQ(plan_->Replace("", Order(0, 20)).error().code(), Code::kCancelled);
  plan_->Use(Name(0));
  world_.store->UnblockReads();
  plan_.reset();
}

TEST_F(PlanPrefetcherTest, AnEmptyOrderIsNoPlan) {
  Make(1);
  Start();
  ASSERT_TRUE(plan_->Replace("", Order(0, 1)).has_value());
  ASSERT_TRUE(Ahead(1));
  ASSERT_TRUE(plan_->Replace("", Order(0, 0)).has_value());
  EXPECT_FALSE(plan_->active());
  EXPECT_EQ(budget_->used_bytes(), 0U);
}

TEST_F(PlanPrefetcherTest, StreamsHaveABound) {
  Start();
  for (size_t i = 0; i < PlanPrefetcher::kMaxStreams; ++i) {
    ASSERT_TRUE(plan_->Append(std::to_string(i), {"x"}).has_value());
  }
  EXPECT_EQ(plan_->Append("one more", {"x"}).error().code(), Code::kResourceExhausted);
  plan_->ClearAll();
  EXPECT_TRUE(plan_->Append("one more", {"x"}).has_value());
}

}  // namespace
}  // namespace mlcache::prefetch
