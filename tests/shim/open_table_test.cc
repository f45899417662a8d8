// The table of open and registered files: which mode an open gets, what a successor finds, and a model of many of them.
#include "shim/open_table.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

namespace mlcache::shim {
namespace {

using Verdict = OpenTable::Verdict;

class OpenTableTest : public ::testing::Test {
 protected:
  OpenTable::Open Ask(uint64_t node, uint32_t pid = 1, uint64_t handle = 0) {
    return {.node = node,
            .unique = next_unique_ += 2,
            .pid = pid,
            .handle = handle,
            .waiter = {.worker = 0, .request = next_unique_}};
  }

  // As the keeper, then as the worker that asked.
  OpenTable::Decision Register(OpenTable& table, const OpenTable::Open& open) {
    const OpenTable::Decision asked = table.OpenLent(open);
    EXPECT_EQ(asked.verdict, Verdict::kRegister);
    state_->backings[asked.record].id = next_id_++;
    EXPECT_TRUE(table.Registered(open.node, asked.record, true).empty());
    return table.Reopen(open).value();
  }

  // As the keeper.
  void Close(const OpenTable::Closing& records) {
    for (const uint32_t record : records) {
      state_->backings[record].id = 0;
      state_->backings[record].node = 0;
    }
  }

  SharedStatePointer state_ = *CreateSharedState();
  uint64_t next_unique_ = 100;
  int32_t next_id_ = 1;
};

TEST_F(OpenTableTest, AFileThatIsNotLentIsReadThroughUs) {
  OpenTable table(*state_);
  EXPECT_FALSE(table.Reopen(Ask(10)).has_value());
  const OpenTable::Decision opened = table.OpenCached(Ask(10, 1, 77));
  ASSERT_EQ(opened.verdict, Verdict::kOpened);
  EXPECT_EQ(opened.backing_id, 0);
  EXPECT_EQ(table.HandleOf(opened.file_handle), 77U);
  EXPECT_EQ(table.Release(opened.file_handle).handle, 77U);
  EXPECT_EQ(table.HandleOf(opened.file_handle), 0U);
  EXPECT_EQ(table.Release(opened.file_handle).handle, 0U) << "a RELEASE sent again";
}

TEST_F(OpenTableTest, ALentFileIsRegisteredOnceAndReopenedByItself) {
  OpenTable table(*state_);
  const OpenTable::Decision first = Register(table, Ask(10));
  const std::optional<OpenTable::Decision> second = table.Reopen(Ask(10));
  ASSERT_TRUE(second.has_value());
  EXPECT_EQ(first.backing_id, second->backing_id);
  EXPECT_NE(first.file_handle, second->file_handle);
  EXPECT_TRUE(table.Release(first.file_handle).closing.empty());
  EXPECT_TRUE(table.Release(second->file_handle).closing.empty());
  EXPECT_EQ(table.registered(), 1U);
  EXPECT_EQ(table.passthrough_opens(), 0U);
}

TEST_F(OpenTableTest, OthersWaitForTheRegistration) {
  OpenTable table(*state_);
  const OpenTable::Open first = Ask(10);
  const OpenTable::Decision asked = table.OpenLent(first);
  ASSERT_EQ(asked.verdict, Verdict::kRegister);
  const OpenTable::Open second = Ask(10);
  EXPECT_EQ(table.OpenLent(second).verdict, Verdict::kWait);
  EXPECT_EQ(table.OpenCached(Ask(10)).verdict, Verdict::kWait);
  EXPECT_FALSE(table.Reopen(Ask(10)).has_value());
  state_->backings[asked.record].id = 5;
  EXPECT_EQ(table.Registered(10, asked.record, true).size(), 2U);
  EXPECT_EQ(table.Reopen(second)->backing_id, 5);
}

TEST_F(OpenTableTest, AFailedRegistrationLeavesTheOrdinaryWay) {
  OpenTable table(*state_);
  const OpenTable::Decision asked = table.OpenLent(Ask(10));
  const OpenTable::Open waits = Ask(10);
  EXPECT_EQ(table.OpenLent(waits).verdict, Verdict::kWait);
  EXPECT_EQ(table.Registered(10, asked.record, false).size(), 1U);
  EXPECT_FALSE(table.Reopen(waits).has_value());
  EXPECT_EQ(table.OpenCached(waits).verdict, Verdict::kOpened);
  EXPECT_EQ(table.registered(), 0U);
}

TEST_F(OpenTableTest, AFileOpenInOneModeTurnsToTheOtherUnderAnotherNode) {
  OpenTable table(*state_);
  const OpenTable::Decision slow = table.OpenCached(Ask(10));
  EXPECT_EQ(table.OpenLent(Ask(10)).verdict, Verdict::kStale);
  EXPECT_EQ(table.NodeFor(10), 11U) << "what the next LOOKUP answers";
  EXPECT_EQ(table.NodeFor(12), 12U);
  const OpenTable::Decision fast = Register(table, Ask(11));
  EXPECT_NE(fast.backing_id, 0);
  table.Release(slow.file_handle);
  EXPECT_NE(Register(table, Ask(10)).backing_id, 0) << "with nobody on the ordinary way it is free for any mode";
}

TEST_F(OpenTableTest, ACallerIsNotAnsweredStaleTwice) {
  OpenTable table(*state_);
  table.OpenCached(Ask(10));
  EXPECT_EQ(table.OpenLent(Ask(10, 7)).verdict, Verdict::kStale);
  // Again, with no LOOKUP between: an open by /proc/self/fd.
  const OpenTable::Decision again = table.OpenLent(Ask(10, 7));
  EXPECT_EQ(again.verdict, Verdict::kOpened);
  EXPECT_EQ(again.backing_id, 0);
}

TEST_F(OpenTableTest, IdleRegistrationsAreBounded) {
  OpenTable table(*state_, 3);
  std::vector<uint64_t> handles;
  for (uint64_t node = 10; node < 20; node += 2) handles.push_back(Register(table, Ask(node)).file_handle);
  EXPECT_EQ(table.registered(), 5U) << "what is open stays";
  OpenTable::Closing closed;
  for (const uint64_t handle : handles) {
    const OpenTable::Closing closing = table.Release(handle).closing;
    closed.insert(closed.end(), closing.begin(), closing.end());
  }
  EXPECT_EQ(closed.size(), 2U);
  EXPECT_EQ(table.registered(), 3U);
  EXPECT_FALSE(table.Reopen(Ask(10)).has_value()) << "the oldest went";
  EXPECT_TRUE(table.Reopen(Ask(18)).has_value());
}

TEST_F(OpenTableTest, ARevokedFileGoesAtOnceOrWithItsLastOpen) {
  OpenTable table(*state_);
  const OpenTable::Decision open = Register(table, Ask(10));
  table.Release(Register(table, Ask(20)).file_handle);
  EXPECT_EQ(table.Revoke(20).size(), 1U);
  EXPECT_TRUE(table.Revoke(10).empty());
  EXPECT_EQ(table.Release(open.file_handle).closing.size(), 1U);
  EXPECT_EQ(table.registered(), 0U);
  EXPECT_TRUE(table.Revoke(30).empty());
}

TEST_F(OpenTableTest, ASuccessorKnowsWhatIsOpenAndRegistered) {
  uint64_t passthrough = 0;
  uint64_t cached = 0;
  int32_t id = 0;
  OpenTable::Open unanswered;
  uint64_t unanswered_handle = 0;
  {
    OpenTable table(*state_);
    const OpenTable::Decision first = Register(table, Ask(10));
    passthrough = first.file_handle;
    id = first.backing_id;
    cached = table.OpenCached(Ask(20, 1, 5)).file_handle;
    unanswered = Ask(10);
    unanswered_handle = table.Reopen(unanswered)->file_handle;
    EXPECT_EQ(table.OpenLent(Ask(30)).verdict, Verdict::kRegister) << "and the keeper never heard of it";
  }
  OpenTable table(*state_);
  EXPECT_EQ(table.registered(), 1U);
  EXPECT_EQ(table.passthrough_opens(), 2U);
  unanswered.unique |= kResendBit;
  EXPECT_EQ(table.Reopen(unanswered)->file_handle, unanswered_handle) << "the same OPEN, sent again";
  EXPECT_EQ(table.passthrough_opens(), 2U);
  EXPECT_EQ(table.Reopen(Ask(10))->backing_id, id);
  EXPECT_EQ(table.OpenLent(Ask(20)).verdict, Verdict::kStale);
  EXPECT_EQ(table.Release(cached).handle, 5U);
  table.Release(passthrough);
  EXPECT_EQ(table.OpenLent(Ask(30)).verdict, Verdict::kRegister);
}

// Against the kernel's rules, kept by a plain model: an inode that is open in one mode must not be opened in another,
// and while it is open its backing id must not change or be closed.
TEST_F(OpenTableTest, KeepsTheKernelsRules) {
  const auto seed = std::random_device()();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  struct Inode {
    std::multiset<int32_t> opens;  // backing ids, 0 for cached
  };
  std::map<uint64_t, Inode> kernel;
  std::map<uint64_t, std::pair<uint64_t, int32_t>> handles;
  std::map<uint32_t, int32_t> registered;
  auto table = std::make_unique<OpenTable>(*state_, 4);
  const auto close = [&](const OpenTable::Closing& records) {
    for (const uint32_t record : records) {
      const int32_t id = state_->backings[record].id;
      for (const auto& [node, inode] : kernel) ASSERT_FALSE(inode.opens.contains(id)) << "closed while open";
    }
    Close(records);
  };
  for (int step = 0; step < 50'000; ++step) {
    const uint64_t base = 10 + random() % 6 * 2;
    switch (random() % 8) {
      case 0:
      case 1:
      case 2: {
        const OpenTable::Open open = Ask(random() % 4 == 0 ? base ^ 1 : table->NodeFor(base), random() % 3, 9);
        std::optional<OpenTable::Decision> decision = table->Reopen(open);
        if (!decision) decision = random() % 2 == 0 ? table->OpenLent(open) : table->OpenCached(open);
        if (decision->verdict == Verdict::kRegister) {
          const bool works = random() % 8 != 0;
          if (works) state_->backings[decision->record].id = next_id_++;
          table->Registered(open.node, decision->record, works);
          const auto again = table->Reopen(open);
          decision = again ? *again : table->OpenCached(open);
        }
        if (decision->verdict == Verdict::kStale) break;
        ASSERT_EQ(decision->verdict, Verdict::kOpened);
        auto& opens = kernel[open.node].opens;
        for (const int32_t other : opens) ASSERT_EQ(other, decision->backing_id) << "EIO for the application";
        opens.insert(decision->backing_id);
        ASSERT_TRUE(handles.emplace(decision->file_handle, std::pair(open.node, decision->backing_id)).second);
        break;
      }
      case 3:
      case 4:
      case 5: {
        if (handles.empty()) break;
        const auto victim = std::next(handles.begin(), static_cast<ptrdiff_t>(random() % handles.size()));
        auto& opens = kernel[victim->second.first].opens;
        opens.erase(opens.find(victim->second.second));
        close(table->Release(victim->first).closing);
        handles.erase(victim);
        break;
      }
      case 6:
        close(table->Revoke(base));
        break;
      default:
        if (random() % 50 == 0) table = std::make_unique<OpenTable>(*state_, 4);
    }
    ASSERT_FALSE(HasFatalFailure());
  }
}

}  // namespace
}  // namespace mlcache::shim
