// mlcache-ring-bench: what a request costs over the ring between two processes, and how fast payload crosses it.
//
//   spinning   neither side ever sleeps: the ring's own cost
//   sleeping   each side sleeps whenever it finds nothing: the ring and two wake-ups
//   bare       the same two wake-ups by eventfd and epoll without a ring: what the machine charges for them
//   payload    1 MiB reads, several outstanding; the daemon's side copies into slots, the shim's side reads every byte
//
// The last two are shown with both processes on one processor (a wake-up is then a context switch) and on two, where a
// virtual machine may pay for waking an idle processor many times what the rest costs. Two processes that spin need two
// processors; run it on an otherwise idle machine.
#include <gflags/gflags.h>
#include <glog/logging.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <vector>

#include "common/ring/channel.h"
#include "common/ring/spin.h"

DEFINE_uint32(rounds, 50'000, "Round trips of each kind, after a tenth as many to warm up");
DEFINE_uint32(payload_mib, 8192, "MiB of payload to move");
DEFINE_uint32(outstanding, 8, "Reads outstanding in the payload run");

namespace mlcache::ring {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr uint64_t kGeneration = 1;
constexpr Geometry kGeometry = {.queue_pairs = 1, .queue_depth = 64, .small_slots = 8, .large_slots = 64};

enum class Waiting { kSpin, kSleep };

// How one side waits when it found nothing.
class Waiter {
 public:
  Waiter(Waiting waiting, int doorbell) : waiting_(waiting), epoll_(::epoll_create1(EPOLL_CLOEXEC)) {
    epoll_event event{};
    event.events = EPOLLIN | EPOLLET;
    PCHECK(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, doorbell, &event) == 0);
  }

  template <typename Prepare>
  void Wait(Prepare prepare) {
    if (waiting_ == Waiting::kSpin) {
      SpinPause();
    } else if (prepare()) {
      epoll_event event{};
      PCHECK(::epoll_wait(epoll_.get(), &event, 1, -1) >= 0 || errno == EINTR);
    }
  }

 private:
  Waiting waiting_;
  UniqueFd epoll_;
};

// Answers until the shim sends kForget. A kRead of n bytes is answered with a slot into which n bytes were copied.
void RunDaemon(DaemonChannel& daemon, Waiting waiting, int doorbell) {
  const std::vector<std::byte> source(64ULL << 20, std::byte{1});  // larger than most caches, as a file would be
  Waiter waiter(waiting, doorbell);
  size_t from = 0;
  while (true) {
    uint32_t pair = 0;
    const auto popped = daemon.PopSubmission(&pair);
    CHECK(popped.has_value()) << popped.error();
    if (!popped->has_value()) {
      waiter.Wait([&] { return daemon.PrepareToSleep(); });
      continue;
    }
    const Submission& submission = **popped;
    if (submission.op == Op::kForget) return;
    Completion completion{.id = submission.id};
    if (submission.op == Op::kRead) {
      const auto slot = daemon.AcquireSlot(submission.length);
      CHECK(slot.has_value()) << "more reads outstanding than slots";
      std::memcpy(slot->bytes.data(), source.data() + from, submission.length);
      from = (from + submission.length) % source.size();
      completion.slot = slot->index;
      completion.length = submission.length;
    }
    CHECK(daemon.PushCompletion(pair, completion));
  }
}

class Shim {
 public:
  Shim(const ChannelDescriptors& descriptors, Waiting waiting)
      : channel_(AttachChannel(descriptors, kGeneration).value()),
        waiter_(waiting, descriptors.completion_doorbells[0].get()) {}

  void Submit(Op op, uint64_t offset = 0, uint32_t length = 0) {
    Submission submission{.id = 1, .op = op};
    submission.offset = offset;
    submission.length = length;
    CHECK(channel_->Submit(0, submission));
  }

  Completion Await() {
    while (true) {
      if (const auto completion = channel_->PopCompletion(0); completion.has_value()) return *completion;
      waiter_.Wait([&] { return channel_->PrepareToSleep(0); });
    }
  }

  // Reads every byte, as an application's copy out of the page cache would.
  uint64_t Consume(const Completion& completion) {
    const std::span<const std::byte> bytes = channel_->SlotBytes(completion);
    CHECK_EQ(bytes.size(), completion.length);
    const std::span words(reinterpret_cast<const uint64_t*>(bytes.data()), bytes.size() / sizeof(uint64_t));
    return std::accumulate(words.begin(), words.end(), uint64_t{0});
  }

 private:
  std::unique_ptr<ShimChannel> channel_;
  Waiter waiter_;
};

void MeasureRoundTrips(const char* name, const std::function<void()>& round_trip) {
  std::vector<double> micros;
  micros.reserve(FLAGS_rounds);
  for (uint32_t round = 0; round < FLAGS_rounds + (FLAGS_rounds / 10); ++round) {
    const auto begin = SteadyClock::now();
    round_trip();
    const std::chrono::duration<double, std::micro> took = SteadyClock::now() - begin;
    if (round >= FLAGS_rounds / 10) micros.push_back(took.count());
  }
  const double mean = std::accumulate(micros.begin(), micros.end(), 0.0) / static_cast<double>(micros.size());
  std::ranges::sort(micros);
  std::printf("%-26s mean %6.2f us   p50 %6.2f us   p99 %6.2f us\n", name, mean, micros[micros.size() / 2],
              micros[micros.size() / 100 * 99]);
}

void MeasurePayload(Shim& shim, const char* name) {
  const auto begin = SteadyClock::now();
  uint64_t sum = 0;
  uint32_t submitted = 0;
  for (uint32_t consumed = 0; consumed < FLAGS_payload_mib; ++consumed) {
    for (; submitted < FLAGS_payload_mib && submitted - consumed < FLAGS_outstanding; ++submitted) {
      shim.Submit(Op::kRead, 0, kMaxReadBytes);
    }
    const Completion completion = shim.Await();
    sum += shim.Consume(completion);
    shim.Submit(Op::kReleaseSlot, completion.slot);
  }
  const std::chrono::duration<double> took = SteadyClock::now() - begin;
  CHECK_EQ(sum, FLAGS_payload_mib * (uint64_t{kMaxReadBytes} / 8) * 0x0101010101010101ULL) << "payload was garbled";
  std::printf("%-26s %.2f GB/s (1 MiB reads, %u outstanding, copied in and read)\n", name,
              FLAGS_payload_mib * double{kMaxReadBytes} / took.count() / 1e9, FLAGS_outstanding);
}

// The processors this process may use, before it pins itself to one.
std::vector<int> Processors() {
  cpu_set_t allowed;
  PCHECK(::sched_getaffinity(0, sizeof(allowed), &allowed) == 0);
  std::vector<int> processors;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &allowed)) processors.push_back(cpu);
  }
  return processors;
}

void PinTo(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  PCHECK(::sched_setaffinity(0, sizeof(set), &set) == 0);
}

// Runs the two ends in two processes of their own, so that a pinning ends with them.
void RunPair(int daemon_cpu, int shim_cpu, const std::function<void()>& daemon, const std::function<void()>& shim) {
  std::fflush(stdout);
  const auto spawn = [](int cpu, const std::function<void()>& end) {
    const pid_t child = ::fork();
    PCHECK(child >= 0);
    if (child != 0) return child;
    PinTo(cpu);
    end();
    std::fflush(stdout);
    ::_exit(0);
  };
  for (const pid_t child : {spawn(daemon_cpu, daemon), spawn(shim_cpu, shim)}) {
    int status = 0;
    PCHECK(::waitpid(child, &status, 0) == child);
    CHECK_EQ(status, 0) << "one of the two processes failed";
  }
}

void RunRing(Waiting waiting, int daemon_cpu, int shim_cpu, const std::function<void(Shim&)>& measure) {
  auto channel = CreateChannel(kGeometry, kGeneration);
  CHECK(channel.has_value()) << channel.error();
  const ChannelDescriptors descriptors = (*channel)->Descriptors().value();
  RunPair(
      daemon_cpu, shim_cpu, [&] { RunDaemon(**channel, waiting, descriptors.submission_doorbell.get()); },
      [&] {
        Shim shim(descriptors, waiting);
        measure(shim);
        shim.Submit(Op::kForget);
      });
}

void RunRoundTrips(const char* name, Waiting waiting, int daemon_cpu, int shim_cpu) {
  RunRing(waiting, daemon_cpu, shim_cpu, [name](Shim& shim) {
    MeasureRoundTrips(name, [&shim] {
      shim.Submit(Op::kGetAttr);
      shim.Await();
    });
  });
}

void RunBareWakeUps(const char* name, int one_cpu, int other_cpu) {
  const UniqueFd there(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  const UniqueFd back(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  PCHECK(there.valid() && back.valid());
  const auto ring = [](const UniqueFd& doorbell) {
    const uint64_t one = 1;
    PCHECK(::write(doorbell.get(), &one, sizeof(one)) == sizeof(one));
  };
  const auto always = [] { return true; };
  RunPair(
      one_cpu, other_cpu,
      [&] {
        Waiter waiter(Waiting::kSleep, there.get());
        for (uint32_t round = 0; round < FLAGS_rounds + (FLAGS_rounds / 10); ++round) {
          waiter.Wait(always);
          ring(back);
        }
      },
      [&] {
        Waiter waiter(Waiting::kSleep, back.get());
        MeasureRoundTrips(name, [&] {
          ring(there);
          waiter.Wait(always);
        });
      });
}

}  // namespace
}  // namespace mlcache::ring

int main(int argc, char** argv) {
  namespace ring = mlcache::ring;
  gflags::SetUsageMessage("measures round trips and payload throughput of the shared-memory ring");
  gflags::ParseCommandLineFlags(&argc, &argv, true);
  FLAGS_logtostderr = true;
  google::InitGoogleLogging(argv[0]);
  if (FLAGS_rounds < 100 || FLAGS_payload_mib == 0 || FLAGS_outstanding == 0 ||
      FLAGS_outstanding > ring::kGeometry.large_slots / 2) {
    std::fprintf(stderr, "--rounds must be at least 100, --payload_mib at least 1, --outstanding 1 to %u\n",
                 ring::kGeometry.large_slots / 2);
    return 2;
  }
  const std::vector<int> cpus = ring::Processors();
  const int first = cpus.front();
  const int second = cpus.back();
  if (first == second) std::puts("only one processor: the figures for spinning say nothing");
  ring::RunRoundTrips("spinning", ring::Waiting::kSpin, first, second);
  ring::RunRoundTrips("sleeping, one processor", ring::Waiting::kSleep, first, first);
  ring::RunBareWakeUps("bare, one processor", first, first);
  ring::RunRoundTrips("sleeping, two processors", ring::Waiting::kSleep, first, second);
  ring::RunBareWakeUps("bare, two processors", first, second);
  const auto payload = [](const char* name) { return [name](ring::Shim& shim) { ring::MeasurePayload(shim, name); }; };
  ring::RunRing(ring::Waiting::kSpin, first, second, payload("payload, spinning"));
  ring::RunRing(ring::Waiting::kSleep, first, second, payload("payload, sleeping"));
  return 0;
}
