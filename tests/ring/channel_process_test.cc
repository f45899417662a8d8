// Both ends at work at once: threads of one process (under ThreadSanitizer the proof of the memory orders) and two
// processes joined by a socket, as in life.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <latch>
#include <random>
#include <thread>
#include <vector>

#include "common/ring/channel.h"
#include "common/ring/socket.h"
#include "common/ring/spin.h"
#include "tests/ring/ring_fixture.h"

namespace mlcache::ring {
namespace {

constexpr Geometry kGeometry = {.queue_pairs = 2, .queue_depth = 8, .small_slots = 3, .large_slots = 1};
constexpr int kLostWakeUpMs = 20'000;  // far beyond any schedule: silence this long is a lost wake-up

#ifdef MLCACHE_SANITIZED
constexpr uint64_t kRounds = 4'000;
#else
constexpr uint64_t kRounds = 20'000;
#endif

std::byte Pattern(uint64_t id) { return static_cast<std::byte>(id * 167); }

// Answers `count` submissions, each with a slot filled with its pattern, and sleeps whenever there is nothing.
// Returns false when a wake-up was lost or the protocol broken.
bool Serve(DaemonChannel& daemon, int doorbell, uint64_t count, std::mt19937_64& random) {
  DoorbellWaiter waiter(doorbell);
  std::vector<std::pair<uint32_t, Submission>> waiting;  // for a slot
  while (true) {
    uint32_t pair = 0;
    const auto popped = daemon.PopSubmission(&pair);
    if (!popped.has_value()) return false;
    if (popped->has_value()) waiting.emplace_back(pair, **popped);
    bool progress = popped->has_value();
    while (!waiting.empty()) {
      const auto slot = daemon.AcquireSlot(100);
      if (!slot.has_value()) break;
      const auto [to, submission] = waiting.back();
      waiting.pop_back();
      std::memset(slot->bytes.data(), std::to_integer<int>(Pattern(submission.id)), 100);
      if (!daemon.PushCompletion(to, {.id = submission.id, .slot = slot->index, .length = 100})) return false;
      --count;
      progress = true;
    }
    if (progress) continue;
    if (count == 0 && daemon.SlotsInUse() == 0) return true;  // PopSubmission takes slots back without a word
    for (uint64_t pause = random() % 64; pause > 0; --pause) SpinPause();  // shifts the race about
    if (daemon.PrepareToSleep() && !waiter.Wait(kLostWakeUpMs)) return false;
  }
}

// `count` requests over one pair, up to three outstanding; checks every payload. False as above.
bool Ask(ShimChannel& shim, uint32_t pair, int doorbell, uint64_t count, std::mt19937_64& random) {
  DoorbellWaiter waiter(doorbell);
  uint64_t sent = 0;
  uint64_t answered = 0;
  while (answered < count) {
    while (sent < count && sent - answered < 1 + (random() % 3)) {
      if (!shim.Submit(pair, MakeSubmission(++sent, Op::kRead))) return false;
    }
    if (const auto completion = shim.PopCompletion(pair); completion.has_value()) {
      const auto bytes = shim.SlotBytes(*completion);
      if (bytes.size() != 100 || bytes.front() != Pattern(completion->id) || bytes.back() != Pattern(completion->id)) {
        return false;
      }
      Submission back = MakeSubmission(1, Op::kReleaseSlot);
      back.offset = completion->slot;
      while (!shim.Submit(pair, back)) SpinPause();
      ++answered;
      continue;
    }
    for (uint64_t pause = random() % 64; pause > 0; --pause) SpinPause();
    if (shim.PrepareToSleep(pair) && !waiter.Wait(kLostWakeUpMs)) return false;
  }
  return true;
}

TEST(ChannelThreads, NoWakeUpIsLostAndNoByteIsEarly) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  const Ends ends = MakeEnds(kGeometry);
  std::atomic<int> failed = 0;
  {
    std::vector<std::jthread> threads;
    threads.reserve(3);
    threads.emplace_back([&] {
      std::mt19937_64 random(seed);
      if (!Serve(*ends.daemon, ends.descriptors.submission_doorbell.get(), 2 * kRounds, random)) ++failed;
    });
    for (uint32_t pair = 0; pair < 2; ++pair) {
      threads.emplace_back([&, pair] {
        std::mt19937_64 random(seed + 1 + pair);
        if (!Ask(*ends.shim, pair, ends.descriptors.completion_doorbells[pair].get(), kRounds, random)) ++failed;
      });
    }
  }
  EXPECT_EQ(failed, 0);
  EXPECT_EQ(ends.daemon->SlotsInUse(), 0U);
  EXPECT_FALSE(ends.shim->Broken());
}

// Completions of one pair come from many threads of the daemon; so do notifications and slots.
TEST(ChannelThreads, ManyDaemonThreadsPush) {
  constexpr int kThreads = 4;
  constexpr uint64_t kEach = kRounds / 4;
  const Ends ends = MakeEnds({.queue_pairs = 1, .queue_depth = 16, .small_slots = 8, .large_slots = 2});
  std::vector<std::jthread> threads;
  threads.reserve(kThreads + 1);
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      for (uint64_t number = 0; number < kEach; ++number) {
        const uint64_t id = (static_cast<uint64_t>(thread) << 32) + number + 1;
        auto slot = ends.daemon->AcquireSlot(1);
        while (!slot.has_value()) {
          std::this_thread::yield();
          slot = ends.daemon->AcquireSlot(1);
        }
        slot->bytes[0] = Pattern(id);
        while (!ends.daemon->PushCompletion(0, {.id = id, .slot = slot->index, .length = 1})) std::this_thread::yield();
        ends.daemon->PushNotification({.notice = Notice::kInvalidateInode, .node = id});
      }
    });
  }
  threads.emplace_back([&] {  // the pump, for the slots that come back
    uint32_t pair = 0;
    for (uint64_t back = 0; back < kThreads * kEach || ends.daemon->SlotsInUse() > 0;) {
      const auto popped = ends.daemon->PopSubmission(&pair);
      if (!popped.has_value()) {
        ADD_FAILURE() << popped.error();
        return;
      }
      if (!popped->has_value()) {
        std::this_thread::yield();
        continue;
      }
      ++back;  // a marker after each slot given back
    }
  });

  DoorbellWaiter waiter(ends.descriptors.completion_doorbells[0].get());
  std::vector<uint64_t> last(kThreads, 0);
  for (uint64_t got = 0; got < kThreads * kEach;) {
    ends.shim->PopNotification();
    const auto completion = ends.shim->PopCompletion(0);
    if (!completion.has_value()) {
      ASSERT_TRUE(!ends.shim->PrepareToSleep(0) || waiter.Wait(kLostWakeUpMs));
      continue;
    }
    ++got;
    const uint64_t thread = completion->id >> 32;
    ASSERT_LT(thread, last.size());
    const uint64_t number = completion->id & 0xffffffff;
    ASSERT_EQ(number, last[thread] + 1) << "each thread's completions come in its order";
    last[thread] = number;
    const auto bytes = ends.shim->SlotBytes(*completion);
    ASSERT_EQ(bytes.size(), 1U);
    ASSERT_EQ(bytes[0], Pattern(completion->id));
    Submission back = MakeSubmission(1, Op::kReleaseSlot);
    back.offset = completion->slot;
    while (!ends.shim->Submit(0, back)) std::this_thread::yield();
    while (!ends.shim->Submit(0, MakeSubmission(2, Op::kForget))) std::this_thread::yield();
  }
}

ChannelDescriptors Unpack(Message message) {
  ChannelDescriptors descriptors;
  auto& from = message.descriptors;
  descriptors.control = std::move(from.at(0));
  descriptors.arena = std::move(from.at(1));
  descriptors.submission_doorbell = std::move(from.at(2));
  descriptors.notification_doorbell = std::move(from.at(3));
  for (size_t index = 4; index < from.size(); ++index) {
    descriptors.completion_doorbells.push_back(std::move(from[index]));
  }
  return descriptors;
}

std::vector<int> Pack(const ChannelDescriptors& descriptors) {
  std::vector<int> fds = {descriptors.control.get(), descriptors.arena.get(), descriptors.submission_doorbell.get(),
                          descriptors.notification_doorbell.get()};
  for (const UniqueFd& doorbell : descriptors.completion_doorbells) fds.push_back(doorbell.get());
  return fds;
}

// The shim's process: attaches to what comes over the socket, asks, and says how it went by its exit status.
[[noreturn]] void RunShim(int socket, uint64_t rounds, uint64_t seed) {
  auto message = Receive(socket, 10'000);
  if (!message.has_value()) ::_exit(2);
  const ChannelDescriptors descriptors = Unpack(std::move(*message));
  const auto shim = AttachChannel(descriptors, kTestGeneration);
  if (!shim.has_value()) ::_exit(3);
  std::mt19937_64 random(seed);
  ::_exit(Ask(**shim, 0, descriptors.completion_doorbells[0].get(), rounds, random) ? 0 : 4);
}

struct SocketPair {
  SocketPair() {
    int fds[2] = {-1, -1};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
    daemon.Reset(fds[0]);
    shim.Reset(fds[1]);
  }
  UniqueFd daemon;
  UniqueFd shim;
};

TEST(ChannelProcesses, AskAndAnswerAcrossTheSocket) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  SocketPair sockets;
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    sockets.daemon.Reset();
    RunShim(sockets.shim.get(), kRounds, seed);
  }
  sockets.shim.Reset();
  const auto daemon = CreateChannel(kGeometry, kTestGeneration);
  ASSERT_TRUE(daemon.has_value()) << daemon.error();
  const ChannelDescriptors descriptors = (*daemon)->Descriptors().value();
  ASSERT_TRUE(Send(sockets.daemon.get(), "hello", Pack(descriptors)).has_value());
  std::mt19937_64 random(seed + 1);
  EXPECT_TRUE(Serve(**daemon, descriptors.submission_doorbell.get(), kRounds, random));
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST(ChannelProcesses, ADeadShimIsNoticedAndAllItHeldIsFreed) {
  const auto open_descriptors = [] { return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {}); };
  const auto before = open_descriptors();
  {
    SocketPair sockets;
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      sockets.daemon.Reset();
      auto message = Receive(sockets.shim.get(), 10'000);
      if (!message.has_value()) ::_exit(2);
      const auto shim = AttachChannel(Unpack(std::move(*message)), kTestGeneration);
      if (!shim.has_value() || !(*shim)->Submit(0, MakeSubmission(1, Op::kRead))) ::_exit(3);
      while (!(*shim)->PopCompletion(0).has_value()) SpinPause();
      ::_exit(0);  // with a slot in its hands and the ring in use
    }
    sockets.shim.Reset();
    const auto daemon = CreateChannel(kGeometry, kTestGeneration);
    ASSERT_TRUE(daemon.has_value()) << daemon.error();
    ASSERT_TRUE(Send(sockets.daemon.get(), "hello", Pack((*daemon)->Descriptors().value())).has_value());
    const auto slot = (*daemon)->AcquireSlot(1);
    ASSERT_TRUE(slot.has_value());
    ASSERT_TRUE((*daemon)->PushCompletion(0, {.id = 1, .slot = slot->index, .length = 1}));

    const auto end = Receive(sockets.daemon.get(), 10'000);
    ASSERT_FALSE(end.has_value());
    EXPECT_EQ(end.error().code(), Code::kUnavailable) << end.error();
    EXPECT_EQ((*daemon)->SlotsInUse(), 1U) << "held until the session goes";
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    EXPECT_EQ(Send(sockets.daemon.get(), "anyone", {}).error().code(), Code::kUnavailable);
  }
  EXPECT_EQ(open_descriptors(), before);
}

}  // namespace
}  // namespace mlcache::ring
