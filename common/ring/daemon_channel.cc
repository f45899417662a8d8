#include <fcntl.h>
#include <glog/logging.h>
#include <sys/eventfd.h>

#include <cerrno>
#include <cstring>
#include <deque>
#include <mutex>
#include <string>
#include <utility>

#include "common/ring/channel.h"
#include "common/ring/doorbell.h"
#include "common/ring/layout.h"
#include "common/ring/memory.h"
#include "common/ring/slot_table.h"
#include "common/ring/spsc.h"

namespace mlcache::ring {
namespace {

Result<UniqueFd> CreateDoorbell() {
  UniqueFd doorbell(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!doorbell.valid()) return FailErrno(errno, "eventfd for a channel's doorbell");
  return doorbell;
}

Result<UniqueFd> Duplicate(const UniqueFd& fd) {
  UniqueFd copy(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
  if (!copy.valid()) return FailErrno(errno, "duplicate a channel descriptor");
  return copy;
}

Error BrokenShim(uint32_t pair, const std::string& what) {
  return {Code::kDataLoss, "shim broke the ring protocol on queue pair " + std::to_string(pair) + ": " + what};
}

// What a submission may say at all; the rest is for whoever executes it.
bool WellFormed(const Submission& submission) {
  const auto op = static_cast<uint32_t>(submission.op);
  return op > static_cast<uint32_t>(Op::kNone) && op <= static_cast<uint32_t>(kLastOp) &&
         submission.length <= kMaxReadBytes;
}

class RealDaemonChannel final : public DaemonChannel {
 public:
  RealDaemonChannel(const Layout& layout, Memory control, Memory arena, ChannelDescriptors doorbells)
      : layout_(layout),
        control_(std::move(control)),
        arena_(std::move(arena)),
        doorbells_(std::move(doorbells)),
        sleep_(reinterpret_cast<ControlHeader*>(control_.mapping.data())->daemon_asleep),
        notifications_(control_.mapping.data() + layout.NotificationQueue(), layout.geometry().queue_depth),
        slots_(layout) {
    const uint32_t depth = layout_.geometry().queue_depth;
    for (uint32_t pair = 0; pair < layout_.geometry().queue_pairs; ++pair) {
      pairs_.emplace_back(control_.mapping.data() + layout_.SubmissionQueue(pair),
                          control_.mapping.data() + layout_.CompletionQueue(pair), depth);
    }
  }

  Result<ChannelDescriptors> Descriptors() const override {
    ChannelDescriptors copies;
    MLCACHE_ASSIGN_OR_RETURN(copies.control, Duplicate(control_.fd));
    MLCACHE_ASSIGN_OR_RETURN(copies.arena, Duplicate(arena_.fd));
    MLCACHE_ASSIGN_OR_RETURN(copies.submission_doorbell, Duplicate(doorbells_.submission_doorbell));
    MLCACHE_ASSIGN_OR_RETURN(copies.notification_doorbell, Duplicate(doorbells_.notification_doorbell));
    for (const UniqueFd& doorbell : doorbells_.completion_doorbells) {
      MLCACHE_ASSIGN_OR_RETURN(UniqueFd copy, Duplicate(doorbell));
      copies.completion_doorbells.push_back(std::move(copy));
    }
    return copies;
  }

  Result<std::optional<Submission>> PopSubmission(uint32_t* pair) override {
    if (broken_.has_value()) return std::unexpected(*broken_);
    sleep_.Withdraw();
    const auto pairs = static_cast<uint32_t>(pairs_.size());
    for (uint32_t tried = 0; tried < pairs; ++tried) {
      const uint32_t turn = next_pair_;
      next_pair_ = turn + 1 == pairs ? 0 : turn + 1;
      MLCACHE_ASSIGN_OR_RETURN(std::optional<Submission> submission, PopFrom(turn));
      if (!submission.has_value()) continue;
      *pair = turn;
      return submission;
    }
    return std::nullopt;
  }

  bool PrepareToSleep() override {
    if (broken_.has_value()) return false;
    sleep_.Announce();
    for (Pair& pair : pairs_) {
      if (pair.submissions.EmptyForSleep()) continue;
      sleep_.Withdraw();
      return false;
    }
    return true;
  }

  bool PushCompletion(uint32_t pair, const Completion& completion) override {
    CHECK_LT(pair, pairs_.size());
    Completion sent = completion;
    if (sent.slot != kNoSlot) {
      CHECK_LT(sent.slot, layout_.SlotCount());
      CHECK_LE(sent.length, layout_.SlotBytes(sent.slot));
      sent.arena_offset = layout_.SlotOffset(sent.slot);
    }
    Pair& to = pairs_[pair];
    {
      const std::scoped_lock lock(to.mutex);
      if (!to.completions.HasRoom()) return false;
      // Before it is published: the shim may give the slot back at once.
      if (sent.slot != kNoSlot) slots_.Send(sent.slot);
      to.completions.Push(sent);
    }
    RingIfAsleep(to.completions.asleep(), doorbells_.completion_doorbells[pair].get());
    return true;
  }

  bool PushNotification(const Notification& notification) override {
    CHECK_LE(notification.name_length, kMaxNameBytes);
    {
      const std::scoped_lock lock(notification_mutex_);
      if (!notifications_.HasRoom()) return false;
      notifications_.Push(notification);
    }
    RingIfAsleep(notifications_.asleep(), doorbells_.notification_doorbell.get());
    return true;
  }

  std::optional<Slot> AcquireSlot(uint32_t bytes) override {
    const std::optional<uint32_t> slot = slots_.Acquire(bytes);
    if (!slot.has_value()) return std::nullopt;
    const uint64_t offset = layout_.SlotOffset(*slot);
    return Slot{
        .index = *slot, .arena_offset = offset, .bytes = {arena_.mapping.data() + offset, layout_.SlotBytes(*slot)}};
  }

  void ReleaseSlot(uint32_t index) override { slots_.Release(index); }

  uint32_t SlotsInUse() const override { return slots_.InUse(); }

 private:
  struct Pair {
    Pair(std::byte* submission_queue, std::byte* completion_queue, uint32_t depth)
        : submissions(submission_queue, depth), completions(completion_queue, depth) {}

    Consumer<Submission> submissions;  // of the popping thread
    std::mutex mutex;
    Producer<Completion> completions;  // guarded by mutex
  };

  // The next submission of one pair that is not a kReleaseSlot.
  Result<std::optional<Submission>> PopFrom(uint32_t pair) {
    while (true) {
      Submission submission;
      switch (pairs_[pair].submissions.Pop(&submission)) {
        case Popped::kNothing:
          return std::nullopt;
        case Popped::kCorrupt:
          return Break(pair, "impossible queue index or name length");
        case Popped::kEntry:
          break;
      }
      if (!WellFormed(submission)) return Break(pair, "submission with an unknown operation or an excessive length");
      if (submission.op != Op::kReleaseSlot) return submission;
      if (!slots_.TakeBack(submission.offset)) {
        return Break(pair, "gave back slot " + std::to_string(submission.offset) + ", which it does not own");
      }
    }
  }

  std::unexpected<Error> Break(uint32_t pair, const std::string& what) {
    broken_ = BrokenShim(pair, what);
    return std::unexpected(*broken_);
  }

  const Layout layout_;
  const Memory control_;
  const Memory arena_;
  const ChannelDescriptors doorbells_;  // without memories

  // Of the popping thread.
  SleepFlag sleep_;
  uint32_t next_pair_ = 0;
  std::optional<Error> broken_;

  std::deque<Pair> pairs_;  // never resized after construction
  std::mutex notification_mutex_;
  Producer<Notification> notifications_;  // guarded by notification_mutex_
  SlotTable slots_;
};

}  // namespace

Result<std::unique_ptr<DaemonChannel>> CreateChannel(const Geometry& geometry, uint64_t generation) {
  MLCACHE_RETURN_IF_ERROR(CheckGeometry(geometry));
  const Layout layout(geometry);
  MLCACHE_ASSIGN_OR_RETURN(Memory control, CreateControlMemory(layout.ControlBytes()));
  MLCACHE_ASSIGN_OR_RETURN(Memory arena, CreateArenaMemory(layout.ArenaBytes()));

  // Nobody else maps it yet, and the daemon never reads it again.
  const SessionHeader header = {.magic = kMagic,
                                .version = kProtocolVersion,
                                .queue_pairs = geometry.queue_pairs,
                                .generation = generation,
                                .queue_depth = geometry.queue_depth,
                                .small_slots = geometry.small_slots,
                                .large_slots = geometry.large_slots,
                                .padding = 0};
  std::memcpy(control.mapping.data(), &header, sizeof(header));

  ChannelDescriptors doorbells;
  MLCACHE_ASSIGN_OR_RETURN(doorbells.submission_doorbell, CreateDoorbell());
  MLCACHE_ASSIGN_OR_RETURN(doorbells.notification_doorbell, CreateDoorbell());
  for (uint32_t pair = 0; pair < geometry.queue_pairs; ++pair) {
    MLCACHE_ASSIGN_OR_RETURN(UniqueFd doorbell, CreateDoorbell());
    doorbells.completion_doorbells.push_back(std::move(doorbell));
  }
  return std::make_unique<RealDaemonChannel>(layout, std::move(control), std::move(arena), std::move(doorbells));
}

}  // namespace mlcache::ring
