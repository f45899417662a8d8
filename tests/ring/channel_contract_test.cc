// What both ends of a channel promise to peers that keep the protocol.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>

#include "common/ring/channel.h"
#include "tests/ring/ring_fixture.h"

namespace mlcache::ring {
namespace {

constexpr Geometry kSmall = {.queue_pairs = 2, .queue_depth = 4, .small_slots = 2, .large_slots = 2};

size_t OpenDescriptors() {
  return static_cast<size_t>(std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {}));
}

TEST(Channel, CarriesEveryFieldOfEverySubmission) {
  const Ends ends = MakeEnds(kSmall);
  for (uint32_t op = static_cast<uint32_t>(Op::kLookup); op <= static_cast<uint32_t>(kLastOp); ++op) {
    if (op == static_cast<uint32_t>(Op::kReleaseSlot)) continue;  // handled inside
    Submission sent = MakeSubmission(op, static_cast<Op>(op), std::string(size_t{op} * 13, 'n'));
    sent.flags = 1;
    sent.node = 2;
    sent.handle = 3;
    sent.offset = 4;
    sent.length = kMaxReadBytes;
    sent.uid = 6;
    sent.gid = 7;
    sent.pid = 8;
    ASSERT_TRUE(ends.shim->Submit(op % 2, sent));
    uint32_t pair = 99;
    const Submission got = MustPop(*ends.daemon, &pair);
    EXPECT_EQ(pair, op % 2);
    EXPECT_EQ(std::memcmp(&got, &sent, sizeof(sent)), 0) << "op " << op;
  }
}

TEST(Channel, CarriesNamesOfEveryLength) {
  const Ends ends = MakeEnds(kSmall);
  for (size_t length = 0; length <= kMaxNameBytes; ++length) {
    std::string name(length, '\0');
    for (size_t at = 0; at < length; ++at) name[at] = static_cast<char>(at + length);
    ASSERT_TRUE(ends.shim->Submit(0, MakeSubmission(1, Op::kLookup, name)));
    uint32_t pair = 0;
    EXPECT_EQ(NameOf(MustPop(*ends.daemon, &pair)), name);

    Notification notification{.notice = Notice::kInvalidateEntry, .name_length = static_cast<uint32_t>(length)};
    notification.node = 77;
    std::ranges::copy(name, notification.name.begin());
    ASSERT_TRUE(ends.daemon->PushNotification(notification));
    const auto got = ends.shim->PopNotification();
    ASSERT_TRUE(got.has_value());
    EXPECT_EQ(got->notice, Notice::kInvalidateEntry);
    EXPECT_EQ(got->node, 77U);
    EXPECT_EQ(std::string_view(got->name.data(), got->name_length), name);
  }
}

TEST(Channel, QueuesAreFullAtTheirDepthAndEmptyInOrderAcrossTheWrap) {
  const Ends ends = MakeEnds(kSmall);
  uint64_t next_in = 1;
  uint64_t next_out = 1;
  for (int round = 0; round < 7; ++round) {  // odd fills, so that the wrap falls on each index
    while (ends.shim->Submit(1, MakeSubmission(next_in, Op::kGetAttr))) ++next_in;
    EXPECT_EQ(next_in - next_out, kSmall.queue_depth);
    for (int count = 0; count < 3; ++count) {
      uint32_t pair = 0;
      EXPECT_EQ(MustPop(*ends.daemon, &pair).id, next_out++);
    }
  }
  uint32_t pair = 0;
  while (next_out < next_in) EXPECT_EQ(MustPop(*ends.daemon, &pair).id, next_out++);
  EXPECT_FALSE(ends.daemon->PopSubmission(&pair)->has_value());
}

TEST(Channel, CompletionsAndNotificationsAreFullAtTheirDepth) {
  const Ends ends = MakeEnds(kSmall);
  for (uint64_t id = 1; id <= kSmall.queue_depth; ++id) {
    EXPECT_TRUE(ends.daemon->PushCompletion(0, {.id = id, .code = 5, .handle = id * 2}));
    EXPECT_TRUE(ends.daemon->PushNotification({.notice = Notice::kInvalidateInode, .node = id}));
  }
  EXPECT_FALSE(ends.daemon->PushCompletion(0, {.id = 9}));
  EXPECT_TRUE(ends.daemon->PushCompletion(1, {.id = 10})) << "the other pair has room";
  EXPECT_FALSE(ends.daemon->PushNotification({.notice = Notice::kInvalidateInode, .node = 9}));
  for (uint64_t id = 1; id <= kSmall.queue_depth; ++id) {
    const auto completion = ends.shim->PopCompletion(0);
    ASSERT_TRUE(completion.has_value());
    EXPECT_EQ(completion->id, id);
    EXPECT_EQ(completion->code, 5);
    EXPECT_EQ(completion->handle, id * 2);
    EXPECT_EQ(ends.shim->PopNotification().value_or(Notification{}).node, id);
  }
  EXPECT_FALSE(ends.shim->PopCompletion(0).has_value());
  EXPECT_FALSE(ends.shim->PopNotification().has_value());
  EXPECT_TRUE(ends.daemon->PushCompletion(0, {.id = 11})) << "drained, so there is room again";
}

TEST(Channel, ServesPairsInTurn) {
  const Ends ends = MakeEnds(kSmall);
  for (uint64_t id = 1; id <= 3; ++id) {
    ASSERT_TRUE(ends.shim->Submit(0, MakeSubmission(id, Op::kGetAttr)));
    ASSERT_TRUE(ends.shim->Submit(1, MakeSubmission(id, Op::kGetAttr)));
  }
  for (uint32_t count = 0; count < 6; ++count) {
    uint32_t pair = 99;
    EXPECT_EQ(MustPop(*ends.daemon, &pair).id, (count / 2) + 1);
    EXPECT_EQ(pair, count % 2);
  }
}

TEST(Channel, PayloadTravelsInASlotAndTheSlotComesBack) {
  const Ends ends = MakeEnds(kSmall);
  EXPECT_EQ(ends.daemon->SlotsInUse(), 0U);
  const auto slot = ends.daemon->AcquireSlot(100);
  ASSERT_TRUE(slot.has_value());
  EXPECT_EQ(slot->bytes.size(), kSmallSlotBytes);
  std::memcpy(slot->bytes.data(), "payload", 7);
  EXPECT_EQ(ends.daemon->SlotsInUse(), 1U);
  ASSERT_TRUE(ends.daemon->PushCompletion(0, {.id = 1, .slot = slot->index, .length = 7}));

  const auto completion = ends.shim->PopCompletion(0);
  ASSERT_TRUE(completion.has_value());
  EXPECT_EQ(completion->arena_offset, slot->arena_offset) << "filled in by the channel";
  const auto bytes = ends.shim->SlotBytes(*completion);
  ASSERT_EQ(bytes.size(), 7U);
  EXPECT_EQ(std::memcmp(bytes.data(), "payload", 7), 0);
  EXPECT_EQ(ends.daemon->SlotsInUse(), 1U) << "the shim's now";

  Submission back = MakeSubmission(2, Op::kReleaseSlot);
  back.offset = completion->slot;
  ASSERT_TRUE(ends.shim->Submit(1, back)) << "any pair may give it back";
  uint32_t pair = 0;
  EXPECT_FALSE(ends.daemon->PopSubmission(&pair)->has_value());
  EXPECT_EQ(ends.daemon->SlotsInUse(), 0U);
}

TEST(Channel, SlotsThatDoNotOverlapTwoClassesAndFallback) {
  const Ends ends = MakeEnds(kSmall);
  std::set<std::pair<uint64_t, uint64_t>> ranges;
  const auto acquire = [&](uint32_t bytes) {
    const auto slot = ends.daemon->AcquireSlot(bytes);
    if (!slot.has_value()) return size_t{0};
    ranges.emplace(slot->arena_offset, slot->arena_offset + slot->bytes.size());
    return slot->bytes.size();
  };
  EXPECT_EQ(acquire(kSmallSlotBytes), kSmallSlotBytes);
  EXPECT_EQ(acquire(1), kSmallSlotBytes);
  EXPECT_EQ(acquire(1), kMaxReadBytes) << "small ones exhausted: a large one serves";
  EXPECT_EQ(acquire(kSmallSlotBytes + 1), kMaxReadBytes);
  EXPECT_EQ(acquire(1), 0U);
  EXPECT_EQ(ends.daemon->SlotsInUse(), 4U);
  uint64_t end = 0;
  for (const auto& [from, to] : ranges) {
    EXPECT_GE(from, end);
    end = to;
  }
  EXPECT_EQ(end, 2ULL * (kSmallSlotBytes + kMaxReadBytes));
}

TEST(Channel, LargeWishNeverGetsASmallSlotNorAnImpossibleOne) {
  const Ends ends = MakeEnds({.queue_pairs = 1, .queue_depth = 4, .small_slots = 4, .large_slots = 1});
  EXPECT_TRUE(ends.daemon->AcquireSlot(kMaxReadBytes).has_value());
  EXPECT_FALSE(ends.daemon->AcquireSlot(kSmallSlotBytes + 1).has_value());
  EXPECT_FALSE(ends.daemon->AcquireSlot(kMaxReadBytes + 1).has_value());
  EXPECT_TRUE(ends.daemon->AcquireSlot(kSmallSlotBytes).has_value());
}

TEST(Channel, AFullCompletionQueueLeavesTheSlotWithTheDaemon) {
  const Ends ends = MakeEnds(kSmall);
  while (ends.daemon->PushCompletion(0, {.id = 1})) continue;
  const auto slot = ends.daemon->AcquireSlot(1);
  ASSERT_TRUE(slot.has_value());
  EXPECT_FALSE(ends.daemon->PushCompletion(0, {.id = 2, .slot = slot->index, .length = 1}));
  ends.daemon->ReleaseSlot(slot->index);
  EXPECT_EQ(ends.daemon->SlotsInUse(), 0U);
}

TEST(Channel, SleepersAreWokenAndOthersSpared) {
  const Ends ends = MakeEnds(kSmall);
  DoorbellWaiter daemon_bell(ends.descriptors.submission_doorbell.get());
  DoorbellWaiter shim_bell(ends.descriptors.completion_doorbells[1].get());
  DoorbellWaiter notification_bell(ends.descriptors.notification_doorbell.get());
  uint32_t pair = 0;

  // Nobody announced sleep: no doorbell.
  ASSERT_TRUE(ends.shim->Submit(1, MakeSubmission(1, Op::kGetAttr)));
  EXPECT_FALSE(daemon_bell.Wait(0));
  EXPECT_FALSE(ends.daemon->PrepareToSleep()) << "there is something to pop";
  MustPop(*ends.daemon, &pair);

  // Twice, since the counter of a doorbell is never read.
  for (uint64_t round = 0; round < 2; ++round) {
    EXPECT_TRUE(ends.daemon->PrepareToSleep());
    ASSERT_TRUE(ends.shim->Submit(1, MakeSubmission(2, Op::kGetAttr)));
    EXPECT_TRUE(daemon_bell.Wait(0));
    ASSERT_TRUE(ends.shim->Submit(0, MakeSubmission(3, Op::kGetAttr)));
    EXPECT_FALSE(daemon_bell.Wait(0)) << "one ring a sleep";
    MustPop(*ends.daemon, &pair);
    MustPop(*ends.daemon, &pair);

    EXPECT_TRUE(ends.shim->PrepareToSleep(1));
    ASSERT_TRUE(ends.daemon->PushCompletion(0, {.id = 3}));
    EXPECT_FALSE(shim_bell.Wait(0)) << "another pair's";
    ASSERT_TRUE(ends.daemon->PushCompletion(1, {.id = 2}));
    EXPECT_TRUE(shim_bell.Wait(0));
    EXPECT_TRUE(ends.shim->PopCompletion(0).has_value());
    EXPECT_TRUE(ends.shim->PopCompletion(1).has_value());

    EXPECT_TRUE(ends.shim->PrepareToSleepForNotification());
    ASSERT_TRUE(ends.daemon->PushNotification({.notice = Notice::kInvalidateInode}));
    EXPECT_TRUE(notification_bell.Wait(0));
    EXPECT_FALSE(ends.shim->PrepareToSleepForNotification());
    EXPECT_TRUE(ends.shim->PopNotification().has_value());
  }

  // Awake for another reason: the announcement is withdrawn with the next pop.
  EXPECT_TRUE(ends.daemon->PrepareToSleep());
  EXPECT_FALSE(ends.daemon->PopSubmission(&pair)->has_value());
  ASSERT_TRUE(ends.shim->Submit(0, MakeSubmission(4, Op::kGetAttr)));
  EXPECT_FALSE(daemon_bell.Wait(0));
}

TEST(Channel, DestroyingItFreesEveryDescriptorAndMapping) {
  const auto mappings = [] {
    std::ifstream maps("/proc/self/maps");
    size_t count = 0;
    for (std::string line; std::getline(maps, line);) count += line.contains("mlcache-") ? 1 : 0;
    return count;
  };
  const size_t descriptors_before = OpenDescriptors();
  ASSERT_EQ(mappings(), 0U);
  {
    const Ends ends = MakeEnds({});
    const auto slot = ends.daemon->AcquireSlot(1);
    ASSERT_TRUE(slot.has_value());  // what the dead shim held goes with the channel
    ASSERT_TRUE(ends.daemon->PushCompletion(0, {.id = 1, .slot = slot->index, .length = 1}));
    EXPECT_GT(OpenDescriptors(), descriptors_before);
    EXPECT_EQ(mappings(), 4U);
  }
  EXPECT_EQ(OpenDescriptors(), descriptors_before);
  EXPECT_EQ(mappings(), 0U);
}

TEST(Channel, ArenaPagesAreAllocatedOnlyWhenUsed) {
  const Ends ends = MakeEnds({.queue_pairs = 1, .queue_depth = 16, .small_slots = 64, .large_slots = 64});
  const auto allocated = [&] {
    struct stat attributes{};
    EXPECT_EQ(::fstat(ends.descriptors.arena.get(), &attributes), 0);
    return static_cast<uint64_t>(attributes.st_blocks) * 512;
  };
  EXPECT_EQ(allocated(), 0U);
  // One slot at a time: always the same one, however many are there.
  for (int round = 0; round < 100; ++round) {
    const auto slot = ends.daemon->AcquireSlot(4096);
    ASSERT_TRUE(slot.has_value());
    slot->bytes[0] = std::byte{1};
    ends.daemon->ReleaseSlot(slot->index);
  }
  EXPECT_LE(allocated(), kSmallSlotBytes);
}

TEST(Channel, RefusesImpossibleGeometry) {
  for (const Geometry& bad : {
           Geometry{.queue_pairs = 0},
           Geometry{.queue_pairs = 65},
           Geometry{.queue_depth = 0},
           Geometry{.queue_depth = 3},
           Geometry{.queue_depth = 8192},
           Geometry{.small_slots = 4097},
           Geometry{.large_slots = 0},
           Geometry{.large_slots = 4097},
       }) {
    const auto channel = CreateChannel(bad, 1);
    ASSERT_FALSE(channel.has_value());
    EXPECT_EQ(channel.error().code(), Code::kInvalidArgument);
    EXPECT_THAT(channel.error().message(), testing::HasSubstr("must be")) << channel.error();
  }
  EXPECT_TRUE(CreateChannel({.queue_pairs = 64, .queue_depth = 1, .small_slots = 0, .large_slots = 1}, 1).has_value());
}

}  // namespace
}  // namespace mlcache::ring
