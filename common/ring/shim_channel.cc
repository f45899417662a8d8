#include <fcntl.h>
#include <glog/logging.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <deque>
#include <string>
#include <utility>

#include "common/ring/channel.h"
#include "common/ring/doorbell.h"
#include "common/ring/layout.h"
#include "common/ring/memory.h"
#include "common/ring/spsc.h"

namespace mlcache::ring {
namespace {

// A consumer with its announcement of sleep, which stops for good when the daemon's index is impossible.
template <typename T>
class SleepyConsumer {
 public:
  SleepyConsumer(std::byte* at, uint32_t depth) : queue_(at, depth), sleep_(queue_.asleep()) {}

  std::optional<T> Pop(std::atomic<bool>& broken) {
    sleep_.Withdraw();
    if (broken.load(std::memory_order_relaxed)) return std::nullopt;
    T entry;
    switch (queue_.Pop(&entry)) {
      case Popped::kNothing:
        return std::nullopt;
      case Popped::kCorrupt:
        broken.store(true, std::memory_order_relaxed);
        return std::nullopt;
      case Popped::kEntry:
        break;
    }
    return entry;
  }

  // A broken channel has nothing to pop, ever: sleeping is right, and the session socket tells what comes next.
  bool PrepareToSleep(const std::atomic<bool>& broken) {
    if (broken.load(std::memory_order_relaxed)) return true;
    sleep_.Announce();
    if (queue_.EmptyForSleep()) return true;
    sleep_.Withdraw();
    return false;
  }

 private:
  Consumer<T> queue_;
  SleepFlag sleep_;
};

class RealShimChannel final : public ShimChannel {
 public:
  RealShimChannel(const Layout& layout, Mapping control, Mapping arena, UniqueFd submission_doorbell)
      : layout_(layout),
        control_(std::move(control)),
        arena_(std::move(arena)),
        submission_doorbell_(std::move(submission_doorbell)),
        daemon_asleep_(reinterpret_cast<ControlHeader*>(control_.data())->daemon_asleep),
        notifications_(control_.data() + layout.NotificationQueue(), layout.geometry().queue_depth) {
    const uint32_t depth = layout_.geometry().queue_depth;
    for (uint32_t pair = 0; pair < layout_.geometry().queue_pairs; ++pair) {
      pairs_.emplace_back(control_.data() + layout_.SubmissionQueue(pair),
                          control_.data() + layout_.CompletionQueue(pair), depth);
    }
  }

  bool Submit(uint32_t pair, const Submission& submission) override {
    CHECK_LT(pair, pairs_.size());
    CHECK_LE(submission.name_length, kMaxNameBytes);
    Producer<Submission>& queue = pairs_[pair].submissions;
    if (!queue.HasRoom()) return false;
    queue.Push(submission);
    RingIfAsleep(daemon_asleep_, submission_doorbell_.get());
    return true;
  }

  std::optional<Completion> PopCompletion(uint32_t pair) override {
    CHECK_LT(pair, pairs_.size());
    return pairs_[pair].completions.Pop(broken_);
  }

  bool PrepareToSleep(uint32_t pair) override {
    CHECK_LT(pair, pairs_.size());
    return pairs_[pair].completions.PrepareToSleep(broken_);
  }

  std::optional<Notification> PopNotification() override { return notifications_.Pop(broken_); }

  bool PrepareToSleepForNotification() override { return notifications_.PrepareToSleep(broken_); }

  std::span<const std::byte> SlotBytes(const Completion& completion) const override {
    if (completion.slot >= layout_.SlotCount()) return {};  // kNoSlot too
    if (completion.arena_offset != layout_.SlotOffset(completion.slot)) return {};
    if (completion.length > layout_.SlotBytes(completion.slot)) return {};
    return {arena_.data() + completion.arena_offset, completion.length};
  }

  bool Broken() const override { return broken_.load(std::memory_order_relaxed); }

 private:
  struct Pair {
    Pair(std::byte* submission_queue, std::byte* completion_queue, uint32_t depth)
        : submissions(submission_queue, depth), completions(completion_queue, depth) {}

    Producer<Submission> submissions;
    SleepyConsumer<Completion> completions;
  };

  const Layout layout_;
  const Mapping control_;
  const Mapping arena_;
  const UniqueFd submission_doorbell_;
  uint32_t& daemon_asleep_;           // in control_
  std::atomic<bool> broken_ = false;  // the daemon's indexes made no sense
  std::deque<Pair> pairs_;            // never resized after construction; each of one thread
  SleepyConsumer<Notification> notifications_;
};

std::unexpected<Error> Misfit(const std::string& what) {
  return Fail(Code::kFailedPrecondition, "session channel does not fit: " + what);
}

// The geometry, read once, or what does not fit.
Result<Geometry> ReadHeader(const std::byte* shared, uint64_t generation) {
  SessionHeader header{};
  std::memcpy(&header, shared, sizeof(header));
  if (header.magic != kMagic) return Misfit("the control memory is not mlcache's");
  if (header.version != kProtocolVersion) {
    return Misfit("the daemon speaks version " + std::to_string(header.version) + ", this shim version " +
                  std::to_string(kProtocolVersion) + "; install both from the same release");
  }
  if (header.generation != generation) {
    return Misfit("it belongs to generation " + std::to_string(header.generation) + ", expected " +
                  std::to_string(generation));
  }
  const Geometry geometry = {.queue_pairs = header.queue_pairs,
                             .queue_depth = header.queue_depth,
                             .small_slots = header.small_slots,
                             .large_slots = header.large_slots};
  if (const Status status = CheckGeometry(geometry); !status.has_value()) return Misfit(status.error().message());
  return geometry;
}

}  // namespace

Result<std::unique_ptr<ShimChannel>> AttachChannel(const ChannelDescriptors& descriptors, uint64_t generation) {
  MLCACHE_ASSIGN_OR_RETURN(const uint64_t control_bytes,
                           SealedSize("control memory", descriptors.control.get(), kControlSeals));
  MLCACHE_ASSIGN_OR_RETURN(const uint64_t arena_bytes,
                           SealedSize("arena memory", descriptors.arena.get(), kArenaSeals));
  if (control_bytes < kPage) return Misfit("the control memory has only " + std::to_string(control_bytes) + " bytes");
  MLCACHE_ASSIGN_OR_RETURN(const Mapping header,
                           Mapping::Map(descriptors.control.get(), kPage, Mapping::Access::kReadWrite));
  MLCACHE_ASSIGN_OR_RETURN(const Geometry geometry, ReadHeader(header.data(), generation));

  const Layout layout(geometry);
  if (control_bytes != layout.ControlBytes() || arena_bytes != layout.ArenaBytes()) {
    return Misfit("its memories have " + std::to_string(control_bytes) + " and " + std::to_string(arena_bytes) +
                  " bytes, expected " + std::to_string(layout.ControlBytes()) + " and " +
                  std::to_string(layout.ArenaBytes()));
  }
  if (descriptors.completion_doorbells.size() != geometry.queue_pairs) {
    return Misfit("it came with " + std::to_string(descriptors.completion_doorbells.size()) +
                  " completion doorbells for " + std::to_string(geometry.queue_pairs) + " queue pairs");
  }
  MLCACHE_ASSIGN_OR_RETURN(Mapping control,
                           Mapping::Map(descriptors.control.get(), control_bytes, Mapping::Access::kReadWrite));
  MLCACHE_ASSIGN_OR_RETURN(Mapping arena,
                           Mapping::Map(descriptors.arena.get(), arena_bytes, Mapping::Access::kReadOnly));
  UniqueFd doorbell(::fcntl(descriptors.submission_doorbell.get(), F_DUPFD_CLOEXEC, 0));
  if (!doorbell.valid()) return FailErrno(errno, "duplicate the submission doorbell");
  return std::make_unique<RealShimChannel>(layout, std::move(control), std::move(arena), std::move(doorbell));
}

}  // namespace mlcache::ring
