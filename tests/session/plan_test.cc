// A mount's plan, over a real session: what counts as a read of a file, metadata looked up together, and the end.
#include <gmock/gmock.h>

#include "cached/session/plan_files.h"
#include "tests/session/harness.h"

namespace mlcache::testing {
namespace {

using prefetch::PlanOutcome;

class SessionPlanTest : public SessionTest {
 protected:
  void SetUp() override {
    for (int i = 0; i < 40; ++i) store_->Put(Name(i), std::string(1000 + i, 'x'));
    Start();
    client_ = Mount();
    auto plan = server_->PlanOfMount(SessionClient::HelloFor(kUrl).mountpoint());
    ASSERT_TRUE(plan.has_value()) << plan.error();
    plan_ = *std::move(plan);
  }
  void TearDown() override { client_.reset(); }

  static std::string Name(int number) { return "d/f" + std::to_string(number); }
  void Declare(int begin, int end) {
    prefetch::PlanOrder order(plan_->order_options());
    for (int i = begin; i < end; ++i) ASSERT_TRUE(order.Append(Name(i)));
    ASSERT_TRUE(plan_->Replace("", std::move(order)).has_value());
    ASSERT_TRUE(Eventually([&] { return Report().ahead_files == static_cast<uint64_t>(end - begin); }));
  }
  prefetch::PlanReport Report() {
    auto reports = plan_->Reports();
    return reports.empty() ? prefetch::PlanReport{.named = {}} : reports.front();
  }
  uint64_t Prefetched() { return Report().outcomes[static_cast<size_t>(PlanOutcome::kPrefetched)]; }

  std::unique_ptr<SessionClient> client_;
  std::shared_ptr<prefetch::PlanPrefetcher> plan_;
};

TEST_F(SessionPlanTest, AnOpenCountsOnceHoweverManyReadsFollow) {
  Declare(0, 40);
  EXPECT_LE(store_->stats(), 8U) << "a directory of many files is listed";
  for (int i = 0; i < 40; ++i) {
    const auto bytes = client_->ReadAll(client_->Walk(Name(i)), 300);
    ASSERT_TRUE(bytes.has_value());
    EXPECT_EQ(bytes->size(), 1000U + i);
    EXPECT_EQ(Report().position, i + 1U);
  }
  EXPECT_EQ(Prefetched(), 40U);
  EXPECT_EQ(store_->reads(), 40U);
  EXPECT_EQ(metrics_.prefetch_used_bytes.Value(), metrics_.prefetch_issued_bytes.Value());
  for (const auto& read : store_->read_log()) EXPECT_EQ(read.priority, store::Priority::kPlan);
}

TEST_F(SessionPlanTest, WithoutOpensTheFirstReadCounts) {
  Declare(0, 10);
  for (int i = 0; i < 10; ++i) {
    const uint64_t node = client_->Walk(Name(i));
    ASSERT_TRUE(client_->Read(node, 0, 0, 512).ok());
    EXPECT_EQ(Report().position, i + 1U);
    ASSERT_TRUE(client_->Read(node, 0, 512, 1 << 20).ok());
  }
  EXPECT_EQ(Prefetched(), 10U);
  EXPECT_EQ(store_->reads(), 10U);
  EXPECT_EQ(metrics_.prefetch_used_bytes.Value(), metrics_.prefetch_issued_bytes.Value());
}

TEST_F(SessionPlanTest, EndsWithItsMount) {
  store_->BlockReads();
  prefetch::PlanOrder order(plan_->order_options());
  for (int i = 0; i < 40; ++i) ASSERT_TRUE(order.Append(Name(i)));
  ASSERT_TRUE(plan_->Replace("", std::move(order)).has_value());
  store_->WaitForBlockedReads(8);
  client_.reset();
  EXPECT_TRUE(AllIdle());
  EXPECT_FALSE(plan_->active());
  const std::string mountpoint = SessionClient::HelloFor(kUrl).mountpoint();
  EXPECT_TRUE(Eventually([&] { return !server_->PlanOfMount(mountpoint).has_value(); }));
  store_->UnblockReads();
}

TEST_F(SessionPlanTest, WorkersAreTheMountOptions) {
  session::MountOptions options;
  EXPECT_EQ(session::PlanWorkersOf(options), 8U);
  options.set_ml_prefetch_workers(3);
  EXPECT_EQ(session::PlanWorkersOf(options), 3U);
  options.set_ml_prefetch_workers(1024);
  EXPECT_EQ(session::PlanWorkersOf(options), 64U);
  options.set_ml_prefetch_workers(0);
  EXPECT_EQ(session::PlanWorkersOf(options), 0U);
  options.set_ml_prefetch_workers(8);
  options.set_ml_optimization(false);
  EXPECT_EQ(session::PlanWorkersOf(options), 0U);
}

}  // namespace
}  // namespace mlcache::testing
