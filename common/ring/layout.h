// Where everything lies in a channel's two memories. Internal to common/ring and its tests.
//
//   control:  ControlHeader │ for each pair: SQ indexes, SQ entries, CQ indexes, CQ entries │ NQ indexes, NQ entries
//   arena:    large slots (1 MiB each) │ small slots (64 KiB each); slot numbers count the small ones first
//
// All offsets follow from the geometry, which each side takes from its own checked copy, never again from shared
// memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "common/ring/channel.h"
#include "common/ring/wire.h"
#include "common/status.h"

namespace mlcache::ring {

inline constexpr uint64_t kMagic = 0x3145484341434c4d;  // "MLCACHE1"
inline constexpr size_t kLine = 128;                    // two cache lines: the prefetcher fetches them in pairs
inline constexpr size_t kPage = 4096;

inline constexpr uint32_t kMaxQueuePairs = 64;
inline constexpr uint32_t kMaxQueueDepth = 4096;
inline constexpr uint32_t kMaxSlots = 4096;  // of each class

// One queue's shared words. `tail` counts entries ever pushed and `head` entries ever popped, both modulo 2^32; each is
// written by one side only. `asleep` is set by a consumer about to sleep and cleared by the producer that wakes it.
struct QueueIndexes {
  alignas(kLine) uint32_t tail;
  alignas(kLine) uint32_t head;
  alignas(kLine) uint32_t asleep;
};

struct SessionHeader {  // written before the shim is told of the memory, never after
  uint64_t magic;
  uint32_t version;
  uint32_t queue_pairs;
  uint64_t generation;
  uint32_t queue_depth;
  uint32_t small_slots;
  uint32_t large_slots;
  uint32_t padding;
};

struct ControlHeader {
  SessionHeader session;
  std::array<std::byte, kLine - sizeof(SessionHeader)> to_next_line;
  uint32_t daemon_asleep;  // the daemon sleeps on all submission queues at once
  std::array<std::byte, kLine - sizeof(uint32_t)> to_end_of_line;
};

static_assert(std::is_trivially_copyable_v<QueueIndexes> && sizeof(QueueIndexes) == 3 * kLine);
static_assert(offsetof(QueueIndexes, tail) == 0 && offsetof(QueueIndexes, head) == kLine &&
              offsetof(QueueIndexes, asleep) == 2 * kLine);
static_assert(std::is_trivially_copyable_v<ControlHeader> && sizeof(ControlHeader) == 2 * kLine);
static_assert(std::is_trivially_copyable_v<SessionHeader> && sizeof(SessionHeader) == 40 &&
              offsetof(ControlHeader, daemon_asleep) == kLine);

class Layout {
 public:
  explicit Layout(const Geometry& geometry) : geometry_(geometry) {}

  const Geometry& geometry() const { return geometry_; }

  size_t SubmissionQueue(uint32_t pair) const { return sizeof(ControlHeader) + (pair * PairBytes()); }
  size_t CompletionQueue(uint32_t pair) const { return SubmissionQueue(pair) + QueueBytes(sizeof(Submission)); }
  size_t NotificationQueue() const { return SubmissionQueue(geometry_.queue_pairs); }
  size_t ControlBytes() const { return RoundUp(NotificationQueue() + QueueBytes(sizeof(Notification)), kPage); }

  uint32_t SlotCount() const { return geometry_.small_slots + geometry_.large_slots; }
  bool IsSmall(uint32_t slot) const { return slot < geometry_.small_slots; }
  uint32_t SlotBytes(uint32_t slot) const { return IsSmall(slot) ? kSmallSlotBytes : kMaxReadBytes; }
  uint64_t SlotOffset(uint32_t slot) const {
    if (IsSmall(slot)) return LargeBytes() + (uint64_t{slot} * kSmallSlotBytes);
    return uint64_t{slot - geometry_.small_slots} * kMaxReadBytes;
  }
  uint64_t ArenaBytes() const { return LargeBytes() + (uint64_t{geometry_.small_slots} * kSmallSlotBytes); }

 private:
  static size_t RoundUp(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }
  size_t QueueBytes(size_t entry_bytes) const {
    return RoundUp(sizeof(QueueIndexes) + (geometry_.queue_depth * entry_bytes), kLine);
  }
  size_t PairBytes() const { return QueueBytes(sizeof(Submission)) + QueueBytes(sizeof(Completion)); }
  uint64_t LargeBytes() const { return uint64_t{geometry_.large_slots} * kMaxReadBytes; }

  Geometry geometry_;
};

// kInvalidArgument, naming the field and its bounds.
Status CheckGeometry(const Geometry& geometry);

}  // namespace mlcache::ring
