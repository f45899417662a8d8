// The shared-memory channel of one session: for each shim worker thread a pair of lock-free single-producer
// single-consumer queues, one notification queue, and an arena of slots that the daemon fills and the shim maps
// read-only. The daemon makes it, seals it (SHRINK, GROW, SEAL; FUTURE_WRITE on the arena) and passes its descriptors
// over the session socket. Indexes read from shared memory are checked at every step: a hostile peer can only stall
// or garble its own session. No lock lives in shared memory.
//
// Sleeping: a side that finds nothing spins a little (spin.h), announces in shared memory that it sleeps, looks once
// more, and waits on its eventfd with EPOLLET (its counter is never read; waiting level-triggered would never sleep
// again). The other side writes the eventfd only when it sees the announcement. Wake-ups for nothing happen.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "common/ring/wire.h"
#include "common/status.h"
#include "common/unique_fd.h"

namespace mlcache::ring {

struct Geometry {
  uint32_t queue_pairs = 2;    // 1..64, one for each shim worker
  uint32_t queue_depth = 256;  // entries of each queue, a power of two, at most 4096
  uint32_t small_slots = 64;   // of kSmallSlotBytes
  uint32_t large_slots = 24;   // of kMaxReadBytes
};

inline constexpr uint32_t kSmallSlotBytes = 64U << 10;

// What the daemon hands to the shim, in this order, in one SCM_RIGHTS message: control, arena (opened read-only),
// submission doorbell, notification doorbell, then one completion doorbell a pair. All eventfds non-blocking.
struct ChannelDescriptors {
  UniqueFd control;
  UniqueFd arena;
  UniqueFd submission_doorbell;
  UniqueFd notification_doorbell;
  std::vector<UniqueFd> completion_doorbells;
};

// A slot the daemon may fill. Slots are the daemon's until a Completion carries them to the shim.
struct Slot {
  uint32_t index = kNoSlot;
  uint64_t arena_offset = 0;
  std::span<std::byte> bytes;
};

// The daemon's end. Pop* and PrepareToSleep: one thread. The rest: thread-safe (locks in private memory).
class DaemonChannel {
 public:
  virtual ~DaemonChannel() = default;

  // Duplicates for the shim; any number of times.
  virtual Result<ChannelDescriptors> Descriptors() const = 0;

  // The next submission of any pair, round robin, copied once; `pair` says whose. Its op is known, its length at most
  // kMaxReadBytes, its name_length at most kMaxNameBytes; all else is the shim's word. kReleaseSlot is handled inside,
  // so slots may have come free even where nothing is returned: then serve whoever waits for one.
  // kDataLoss: the shim broke the protocol; the session must end.
  virtual Result<std::optional<Submission>> PopSubmission(uint32_t* pair) = 0;

  // Announces sleep; true if there is still nothing to pop, and waiting on `submission_doorbell` is then safe.
  virtual bool PrepareToSleep() = 0;

  // The completion's slot, if any, must be acquired and becomes the shim's; arena_offset is filled in here.
  // False: the queue is full because the shim does not drain it (it may have at most queue_depth outstanding, so this
  // is a broken shim); the slot is still the daemon's.
  virtual bool PushCompletion(uint32_t pair, const Completion& completion) = 0;

  // False when the queue is full; notifications are hints.
  virtual bool PushNotification(const Notification& notification) = 0;

  // A free slot of at least `bytes`, or none: there is never one above kMaxReadBytes; else ask again after
  // PopSubmission has taken back a slot (SlotsInUse fell). A thread that leaves its wish to the popping thread must ask
  // once more after it has done so: the last slot may have come back in between.
  virtual std::optional<Slot> AcquireSlot(uint32_t bytes) = 0;

  // Gives back a slot that was acquired and not sent.
  virtual void ReleaseSlot(uint32_t index) = 0;

  // Slots now with the shim or acquired; 0 when the session is idle.
  virtual uint32_t SlotsInUse() const = 0;
};

// The shim's end. Per pair: one thread submits and pops. Notifications: one thread.
class ShimChannel {
 public:
  virtual ~ShimChannel() = default;

  // False when the queue is full: drain completions first. Requires name_length and length within their limits.
  virtual bool Submit(uint32_t pair, const Submission& submission) = 0;

  virtual std::optional<Completion> PopCompletion(uint32_t pair) = 0;

  // As the daemon's: true if waiting on the pair's completion doorbell is safe. The announcement is withdrawn by the
  // next PopCompletion, so a worker that wakes for another reason (/dev/fuse) only goes on with its loop.
  virtual bool PrepareToSleep(uint32_t pair) = 0;

  virtual std::optional<Notification> PopNotification() = 0;
  virtual bool PrepareToSleepForNotification() = 0;

  // The bytes of a completion; empty if it has no slot or lies outside the arena.
  virtual std::span<const std::byte> SlotBytes(const Completion& completion) const = 0;

  // True once the daemon's queue indexes made no sense; nothing is popped any more: drop the session, connect again.
  // Any thread.
  virtual bool Broken() const = 0;
};

// kInvalidArgument for a bad geometry; kResourceExhausted when memory or descriptors are short. `generation` tells
// this session from every other of this daemon and its predecessors.
Result<std::unique_ptr<DaemonChannel>> CreateChannel(const Geometry& geometry, uint64_t generation);

// Maps what the daemon sent, after checking magic, version, generation, seals and sizes: kFailedPrecondition names
// what does not fit. The descriptors stay the caller's to poll.
Result<std::unique_ptr<ShimChannel>> AttachChannel(const ChannelDescriptors& descriptors, uint64_t generation);

}  // namespace mlcache::ring
