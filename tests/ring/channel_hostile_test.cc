// What a peer that keeps no protocol can do to the other end: end the session, and nothing else.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <numeric>
#include <random>
#include <set>
#include <span>
#include <string>

#include "common/ring/channel.h"
#include "common/ring/layout.h"
#include "common/ring/memory.h"
#include "tests/ring/ring_fixture.h"

namespace mlcache::ring {
namespace {

constexpr Geometry kGeometry = {.queue_pairs = 2, .queue_depth = 4, .small_slots = 2, .large_slots = 2};

// The control memory as a hostile peer maps it.
class Scribbler {
 public:
  Scribbler(const ChannelDescriptors& descriptors, const Geometry& geometry)
      : layout_(geometry),
        mapping_(Mapping::Map(descriptors.control.get(), layout_.ControlBytes(), Mapping::Access::kReadWrite).value()) {
  }

  QueueIndexes& SubmissionIndexes(uint32_t pair) const { return IndexesAt(layout_.SubmissionQueue(pair)); }
  QueueIndexes& CompletionIndexes(uint32_t pair) const { return IndexesAt(layout_.CompletionQueue(pair)); }
  QueueIndexes& NotificationIndexes() const { return IndexesAt(layout_.NotificationQueue()); }
  Submission& SubmissionAt(uint32_t pair, uint32_t entry) const {
    return reinterpret_cast<Submission*>(mapping_.data() + layout_.SubmissionQueue(pair) + sizeof(QueueIndexes))[entry];
  }
  Completion& CompletionAt(uint32_t pair, uint32_t entry) const {
    return reinterpret_cast<Completion*>(mapping_.data() + layout_.CompletionQueue(pair) + sizeof(QueueIndexes))[entry];
  }
  SessionHeader& header() const { return reinterpret_cast<ControlHeader*>(mapping_.data())->session; }
  std::span<std::byte> bytes() const { return {mapping_.data(), layout_.ControlBytes()}; }

  // One stroke: mostly at an index, where it hurts, else anywhere.
  void Stroke(std::mt19937_64& random) const {
    const auto value = static_cast<uint32_t>(random());
    const auto pair = static_cast<uint32_t>(random() % layout_.geometry().queue_pairs);
    QueueIndexes* const all[] = {&SubmissionIndexes(pair), &CompletionIndexes(pair), &NotificationIndexes()};
    QueueIndexes& indexes = *all[random() % 3];
    uint32_t* const words[] = {&indexes.tail, &indexes.head, &indexes.asleep};
    uint32_t* const word = words[random() % 3];
    switch (random() % 4) {
      case 0:
        *static_cast<volatile uint32_t*>(word) = value;
        break;
      case 1:
        *static_cast<volatile uint32_t*>(word) = *word + (value % 8);
        break;
      default:
        for (size_t count = random() % 64; count > 0; --count) {
          *static_cast<volatile std::byte*>(&bytes()[random() % bytes().size()]) = static_cast<std::byte>(random());
        }
    }
  }

 private:
  QueueIndexes& IndexesAt(size_t offset) const { return *reinterpret_cast<QueueIndexes*>(mapping_.data() + offset); }

  Layout layout_;
  Mapping mapping_;
};

void ExpectBroken(DaemonChannel& daemon) {
  for (int again = 0; again < 2; ++again) {  // for good
    uint32_t pair = 0;
    const auto popped = daemon.PopSubmission(&pair);
    ASSERT_FALSE(popped.has_value());
    EXPECT_EQ(popped.error().code(), Code::kDataLoss);
    EXPECT_FALSE(daemon.PrepareToSleep()) << "a broken session must not go to sleep over it";
  }
}

Submission Release(uint64_t slot) {
  Submission submission = MakeSubmission(1, Op::kReleaseSlot);
  submission.offset = slot;
  return submission;
}

TEST(HostileShim, GivesBackWhatItDoesNotOwn) {
  for (const uint64_t slot :
       {uint64_t{0}, uint64_t{3}, uint64_t{4}, uint64_t{kNoSlot}, uint64_t{1} << 32, ~uint64_t{0}}) {
    const Ends ends = MakeEnds(kGeometry);
    ASSERT_TRUE(ends.shim->Submit(0, Release(slot)));
    ExpectBroken(*ends.daemon);
  }
}

TEST(HostileShim, GivesBackASlotThatTheDaemonIsFilling) {
  const Ends ends = MakeEnds(kGeometry);
  const auto slot = ends.daemon->AcquireSlot(1);
  ASSERT_TRUE(slot.has_value());
  ASSERT_TRUE(ends.shim->Submit(0, Release(slot->index)));
  ExpectBroken(*ends.daemon);
  EXPECT_EQ(ends.daemon->SlotsInUse(), 1U) << "still the daemon's";
}

TEST(HostileShim, GivesASlotBackTwice) {
  const Ends ends = MakeEnds(kGeometry);
  const auto slot = ends.daemon->AcquireSlot(1);
  ASSERT_TRUE(slot.has_value());
  ASSERT_TRUE(ends.daemon->PushCompletion(0, {.id = 1, .slot = slot->index, .length = 1}));
  ASSERT_TRUE(ends.shim->Submit(0, Release(slot->index)));
  uint32_t pair = 0;
  EXPECT_FALSE(ends.daemon->PopSubmission(&pair)->has_value());
  EXPECT_EQ(ends.daemon->SlotsInUse(), 0U);
  ASSERT_TRUE(ends.shim->Submit(1, Release(slot->index)));
  ExpectBroken(*ends.daemon);
}

TEST(HostileShim, SendsImpossibleSubmissions) {
  const auto expect_broken_by = [](const auto& spoil) {
    const Ends ends = MakeEnds(kGeometry);
    const Scribbler scribbler(ends.descriptors, kGeometry);
    ASSERT_TRUE(ends.shim->Submit(1, MakeSubmission(1, Op::kRead)));
    spoil(scribbler);
    ExpectBroken(*ends.daemon);
  };
  expect_broken_by([](const Scribbler& shim) { shim.SubmissionAt(1, 0).op = Op::kNone; });
  expect_broken_by(
      [](const Scribbler& shim) { shim.SubmissionAt(1, 0).op = static_cast<Op>(static_cast<uint32_t>(kLastOp) + 1); });
  expect_broken_by([](const Scribbler& shim) { shim.SubmissionAt(1, 0).op = static_cast<Op>(0xffffffff); });
  expect_broken_by([](const Scribbler& shim) { shim.SubmissionAt(1, 0).length = kMaxReadBytes + 1; });
  expect_broken_by([](const Scribbler& shim) { shim.SubmissionAt(1, 0).name_length = kMaxNameBytes + 1; });
  expect_broken_by([](const Scribbler& shim) { shim.SubmissionAt(1, 0).name_length = 0xffff; });
  expect_broken_by([](const Scribbler& shim) { shim.SubmissionIndexes(0).tail = 5; });
  expect_broken_by([](const Scribbler& shim) { shim.SubmissionIndexes(0).tail = 0xffffffff; });
}

TEST(HostileShim, PretendsToHaveDrainedCompletions) {
  const Ends ends = MakeEnds(kGeometry);
  const Scribbler scribbler(ends.descriptors, kGeometry);
  while (ends.daemon->PushCompletion(0, {.id = 1})) continue;
  for (const uint32_t head : {5U, 0xffffffffU, 0x80000000U}) {
    scribbler.CompletionIndexes(0).head = head;
    EXPECT_FALSE(ends.daemon->PushCompletion(0, {.id = 2})) << head;
  }
  while (ends.daemon->PushNotification({})) continue;
  scribbler.NotificationIndexes().head = 1U << 30;
  EXPECT_FALSE(ends.daemon->PushNotification({}));
}

TEST(HostileShim, CannotMoveTheDaemonsIdeaOfTheGeometry) {
  const Ends ends = MakeEnds(kGeometry);
  const Scribbler scribbler(ends.descriptors, kGeometry);
  std::ranges::fill(scribbler.bytes().first(sizeof(SessionHeader)), std::byte{0xff});
  ASSERT_TRUE(ends.shim->Submit(1, MakeSubmission(7, Op::kLookup, "name")));
  uint32_t pair = 0;
  EXPECT_EQ(NameOf(MustPop(*ends.daemon, &pair)), "name");
  EXPECT_TRUE(ends.daemon->AcquireSlot(kMaxReadBytes).has_value());
}

TEST(CorruptDaemon, IndexesStopTheShimForGood) {
  const Ends ends = MakeEnds(kGeometry);
  const Scribbler scribbler(ends.descriptors, kGeometry);
  EXPECT_FALSE(ends.shim->Broken());
  scribbler.CompletionIndexes(1).tail = 99;
  EXPECT_FALSE(ends.shim->PrepareToSleep(1)) << "something is there, though it makes no sense";
  EXPECT_FALSE(ends.shim->PopCompletion(1).has_value());
  EXPECT_TRUE(ends.shim->Broken());
  EXPECT_TRUE(ends.shim->PrepareToSleep(1)) << "no busy loop over it";
  ASSERT_TRUE(ends.daemon->PushCompletion(0, {.id = 1}));
  EXPECT_FALSE(ends.shim->PopCompletion(0).has_value());
  EXPECT_FALSE(ends.shim->PopNotification().has_value());
}

TEST(CorruptDaemon, SlotsOutsideTheArenaAreEmpty) {
  const Ends ends = MakeEnds(kGeometry);
  const auto slot = ends.daemon->AcquireSlot(1);
  ASSERT_TRUE(slot.has_value());
  const Completion good{.id = 1, .slot = slot->index, .arena_offset = slot->arena_offset, .length = kSmallSlotBytes};
  EXPECT_EQ(ends.shim->SlotBytes(good).size(), kSmallSlotBytes);
  const auto expect_empty = [&](const auto& spoil) {
    Completion completion = good;
    spoil(completion);
    EXPECT_TRUE(ends.shim->SlotBytes(completion).empty());
  };
  expect_empty([](Completion& bad) { bad.slot = kNoSlot; });
  expect_empty([](Completion& bad) { bad.slot = 4; });
  expect_empty([](Completion& bad) { bad.slot = 0xfffffffe; });
  expect_empty([](Completion& bad) { bad.length = kSmallSlotBytes + 1; });
  expect_empty([](Completion& bad) { bad.length = 0xffffffff; });
  expect_empty([](Completion& bad) { bad.arena_offset += 1; });
  expect_empty([](Completion& bad) { bad.arena_offset = ~uint64_t{0}; });
}

TEST(CorruptDaemon, LongNotificationNames) {
  const Ends ends = MakeEnds(kGeometry);
  const Scribbler scribbler(ends.descriptors, kGeometry);
  ASSERT_TRUE(ends.daemon->PushNotification({.notice = Notice::kInvalidateEntry}));
  const Layout layout(kGeometry);
  reinterpret_cast<Notification*>(scribbler.bytes().data() + layout.NotificationQueue() + sizeof(QueueIndexes))
      ->name_length = kMaxNameBytes + 1;
  EXPECT_FALSE(ends.shim->PopNotification().has_value());
  EXPECT_TRUE(ends.shim->Broken());
}

// What an end may ever see, however the memory is scribbled over.
void CheckSubmission(const Submission& submission) {
  ASSERT_LE(submission.name_length, kMaxNameBytes);
  ASSERT_LE(submission.length, kMaxReadBytes);
  ASSERT_NE(submission.op, Op::kNone);
  ASSERT_NE(submission.op, Op::kReleaseSlot);
  ASSERT_LE(static_cast<uint32_t>(submission.op), static_cast<uint32_t>(kLastOp));
}

int ReadAll(std::span<const std::byte> bytes) {
  return std::accumulate(bytes.begin(), bytes.end(), 0,
                         [](int sum, std::byte byte) { return (sum + std::to_integer<int>(byte)) & 0xffff; });
}

// One turn of all that an end does. False when the daemon's end saw kDataLoss.
bool Exercise(const Ends& ends, std::mt19937_64& random) {
  ends.shim->Submit(random() % 2, MakeSubmission(random(), random() % 2 == 0 ? Op::kRead : Op::kLookup, "abc"));
  const Slot slot = random() % 2 == 0 ? ends.daemon->AcquireSlot(1).value_or(Slot{}) : Slot{};
  const Completion completion{.id = random(), .slot = slot.index, .length = 1};
  if (!ends.daemon->PushCompletion(random() % 2, completion) && slot.index != kNoSlot) {
    ends.daemon->ReleaseSlot(slot.index);
  }
  ends.daemon->PushNotification({.notice = Notice::kInvalidateInode, .node = random()});
  for (uint32_t pair = 0; pair < 2; ++pair) {
    const auto popped = ends.shim->PopCompletion(pair);
    EXPECT_GE(ReadAll(ends.shim->SlotBytes(popped.value_or(Completion{}))), 0);
    if (popped.has_value() && popped->slot != kNoSlot) ends.shim->Submit(pair, Release(popped->slot));
    ends.shim->PrepareToSleep(pair);
  }
  EXPECT_LE(ends.shim->PopNotification().value_or(Notification{}).name_length, kMaxNameBytes);
  for (int count = 0; count < 3; ++count) {
    uint32_t pair = 0;
    const auto submission = ends.daemon->PopSubmission(&pair);
    if (!submission.has_value()) {
      EXPECT_EQ(submission.error().code(), Code::kDataLoss);
      return false;
    }
    if (submission->has_value()) CheckSubmission(**submission);
    EXPECT_LT(pair, 2U);
  }
  ends.daemon->PrepareToSleep();
  EXPECT_LE(ends.daemon->SlotsInUse(), kGeometry.small_slots + kGeometry.large_slots);
  return !testing::Test::HasFailure();
}

TEST(HostilePeer, ScribblesBetweenSteps) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  int broken = 0;
  for (int session = 0; session < 400 && !HasFailure(); ++session) {
    const Ends ends = MakeEnds(kGeometry);
    const Scribbler scribbler(ends.descriptors, kGeometry);
    for (int turn = 0; turn < 100; ++turn) {
      if (random() % 4 == 0) scribbler.Stroke(random);
      if (Exercise(ends, random)) continue;
      ++broken;
      break;
    }
  }
  EXPECT_GT(broken, 100) << "strokes at the indexes must be noticed";
}

TEST(HostilePeer, ScribblesFromAnotherProcessAllTheTime) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  for (int session = 0; session < 40 && !HasFailure(); ++session) {
    const Ends ends = MakeEnds(kGeometry);
    const Scribbler scribbler(ends.descriptors, kGeometry);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      std::mt19937_64 mine(seed + session);
      while (true) scribbler.Stroke(mine);
    }
    for (int turn = 0; turn < 2000 && Exercise(ends, random); ++turn) continue;
    ::kill(child, SIGKILL);
    EXPECT_EQ(::waitpid(child, nullptr, 0), child);
  }
}

// Tries everything that could change the arena through `fd`; empty, or what succeeded.
std::string WaysToChange(int fd, size_t bytes) {
  std::string ways;
  const auto attempt = [&](const char* name, bool succeeded) {
    if (succeeded) ways += std::string(name) + " ";
  };
  const auto map = [&](int of) {
    void* const at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, of, 0);
    return at != MAP_FAILED;
  };
  const auto remap = [&](int of) {
    void* const at = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, of, 0);
    return at == MAP_FAILED || ::mprotect(at, bytes, PROT_READ | PROT_WRITE) == 0;
  };
  const auto all = [&](int of) {
    attempt("mmap", map(of));
    attempt("mprotect", remap(of));
    attempt("pwrite", ::pwrite(of, "x", 1, 0) == 1);
    attempt("ftruncate", ::ftruncate(of, 0) == 0);
    attempt("punch", ::fallocate(of, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) == 0);
    attempt("seal", ::fcntl(of, F_ADD_SEALS, F_SEAL_WRITE) == 0);
  };
  all(fd);
  ::fchmod(fd, 0666);  // as its owner the peer may; it must not help
  const UniqueFd again(::open(("/proc/self/fd/" + std::to_string(fd)).c_str(), O_RDWR | O_CLOEXEC));
  if (again.valid()) all(again.get());
  return ways;
}

TEST(Arena, CannotBeChangedByWhoeverHoldsItsDescriptor) {
  const Ends ends = MakeEnds(kGeometry);
  const int arena = ends.descriptors.arena.get();
  const size_t bytes = Layout(kGeometry).ArenaBytes();
  const auto slot = ends.daemon->AcquireSlot(1);
  ASSERT_TRUE(slot.has_value());
  slot->bytes[0] = std::byte{7};
  EXPECT_EQ(WaysToChange(arena, bytes), "");

  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    // Another user, where this process may become one.
    if (::getuid() == 0 && (::setgid(65534) != 0 || ::setuid(65534) != 0)) ::_exit(2);
    ::_exit(WaysToChange(arena, bytes).empty() ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);

  EXPECT_EQ(slot->bytes[0], std::byte{7});
  slot->bytes[0] = std::byte{8};  // the daemon still writes, and the shim sees it
  const Completion completion{.id = 1, .slot = slot->index, .arena_offset = slot->arena_offset, .length = 1};
  EXPECT_EQ(ends.shim->SlotBytes(completion)[0], std::byte{8});
}

TEST(Control, CannotBeResized) {
  const Ends ends = MakeEnds(kGeometry);
  EXPECT_NE(::ftruncate(ends.descriptors.control.get(), 0), 0);
  EXPECT_NE(::ftruncate(ends.descriptors.control.get(), 1 << 30), 0);
  EXPECT_NE(::fcntl(ends.descriptors.control.get(), F_ADD_SEALS, F_SEAL_WRITE), 0);
}

class Attach : public testing::Test {
 protected:
  Attach() : daemon_(CreateChannel(kGeometry, kTestGeneration).value()), descriptors_(daemon_->Descriptors().value()) {}

  void ExpectRefused(const std::string& reason, uint64_t generation = kTestGeneration) {
    const auto shim = AttachChannel(descriptors_, generation);
    ASSERT_FALSE(shim.has_value()) << reason;
    EXPECT_EQ(shim.error().code(), Code::kFailedPrecondition);
    EXPECT_THAT(shim.error().message(), testing::HasSubstr(reason));
  }

  std::unique_ptr<DaemonChannel> daemon_;
  ChannelDescriptors descriptors_;
};

TEST_F(Attach, RefusesAnotherGeneration) {
  ExpectRefused("generation 42, expected 43", 43);
  EXPECT_TRUE(AttachChannel(descriptors_, kTestGeneration).has_value());
}

TEST_F(Attach, RefusesAnotherVersionOrMagic) {
  const Scribbler daemon(descriptors_, kGeometry);
  daemon.header().version = kProtocolVersion + 1;
  ExpectRefused("version " + std::to_string(kProtocolVersion + 1) + ", this shim version " +
                std::to_string(kProtocolVersion));
  daemon.header().magic = 0;
  ExpectRefused("not mlcache's");
}

TEST_F(Attach, RefusesAGeometryThatIsImpossibleOrDoesNotMatchTheMemories) {
  const Scribbler daemon(descriptors_, kGeometry);
  daemon.header().queue_depth = 8;
  ExpectRefused("bytes, expected");
  daemon.header().queue_depth = 4;
  daemon.header().large_slots = 3;
  ExpectRefused("bytes, expected");
  daemon.header().queue_pairs = 0xffffffff;
  ExpectRefused("queue_pairs is 4294967295");
}

TEST_F(Attach, RefusesMemoriesThatThePeerCouldStillResize) {
  const size_t bytes = Layout(kGeometry).ControlBytes();
  descriptors_.control.Reset(::memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(::ftruncate(descriptors_.control.get(), static_cast<off_t>(bytes)), 0);
  ExpectRefused("control memory is not sealed");
  ASSERT_EQ(::ftruncate(descriptors_.control.get(), 0), 0);
  ASSERT_EQ(::fcntl(descriptors_.control.get(), F_ADD_SEALS, kControlSeals), 0);
  ExpectRefused("control memory has only 0 bytes");
  descriptors_.control.Reset(::open("/dev/null", O_RDWR | O_CLOEXEC));
  ExpectRefused("control memory is not a sealable memory");
}

TEST_F(Attach, RefusesSwappedMemoriesAndMissingDoorbells) {
  descriptors_.completion_doorbells.pop_back();
  ExpectRefused("1 completion doorbells for 2 queue pairs");
  std::swap(descriptors_.control, descriptors_.arena);
  ExpectRefused("arena memory is not sealed");
  descriptors_.control.Reset();
  ExpectRefused("control memory");
}

}  // namespace
}  // namespace mlcache::ring
