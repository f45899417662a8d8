// Both ends of one bounded single-producer single-consumer queue in memory that an untrusted process also maps.
// Internal to common/ring. Each end is used by one thread at a time.
//
// Each end keeps its own index in private memory and only publishes it; the peer's index is read once, and believed
// only if it describes a queue that can exist. Entries are copied word by word with relaxed atomics, so that a peer
// that writes where it must not produces garbage values and no undefined behaviour.
//
// Why sequential consistency: a push stores `tail` and then loads `asleep`; a consumer about to sleep stores `asleep`
// and then loads `tail` (Dekker's pattern). All four in one total order means that at least one of them sees the other,
// so no wake-up is lost. Plain seq_cst operations rather than fences because ThreadSanitizer understands only the
// former; on x86-64 they cost one xchg a push.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>

#include "common/ring/layout.h"
#include "common/ring/wire.h"

namespace mlcache::ring {

static_assert(std::atomic_ref<uint32_t>::is_always_lock_free && std::atomic_ref<uint64_t>::is_always_lock_free);

// How much of an entry travels: the fixed part first, then what the fixed part says; nothing if it says nonsense.
template <typename T>
struct EntryExtent;

template <>
struct EntryExtent<Submission> {
  static constexpr size_t kFixedBytes = 64;
  static std::optional<size_t> TotalBytes(const Submission& entry) {
    if (entry.name_length > kMaxNameBytes) return std::nullopt;
    return std::max(kFixedBytes, (offsetof(Submission, name) + entry.name_length + 7) / 8 * 8);
  }
};

template <>
struct EntryExtent<Completion> {
  static constexpr size_t kFixedBytes = sizeof(Completion);
  static std::optional<size_t> TotalBytes(const Completion& /*entry*/) { return kFixedBytes; }
};

template <>
struct EntryExtent<Notification> {
  static constexpr size_t kFixedBytes = offsetof(Notification, name);
  static std::optional<size_t> TotalBytes(const Notification& entry) {
    if (entry.name_length > kMaxNameBytes) return std::nullopt;
    return (kFixedBytes + entry.name_length + 7) / 8 * 8;
  }
};

static_assert(EntryExtent<Notification>::kFixedBytes % 8 == 0);
static_assert(offsetof(Submission, name) <= EntryExtent<Submission>::kFixedBytes);

// `shared` is 8-byte aligned; [from, to) are multiples of 8.
inline void CopyOut(std::byte* shared, size_t from, size_t to, void* local) {
  for (size_t at = from; at < to; at += sizeof(uint64_t)) {
    const uint64_t word =
        std::atomic_ref<uint64_t>(*reinterpret_cast<uint64_t*>(shared + at)).load(std::memory_order_relaxed);
    std::memcpy(static_cast<std::byte*>(local) + at, &word, sizeof(word));
  }
}

inline void CopyIn(const void* local, size_t bytes, std::byte* shared) {
  for (size_t at = 0; at < bytes; at += sizeof(uint64_t)) {
    uint64_t word = 0;
    std::memcpy(&word, static_cast<const std::byte*>(local) + at, sizeof(word));
    std::atomic_ref<uint64_t>(*reinterpret_cast<uint64_t*>(shared + at)).store(word, std::memory_order_relaxed);
  }
}

inline std::atomic_ref<uint32_t> SharedWord(uint32_t& word) { return std::atomic_ref<uint32_t>(word); }

// After a push: wakes the consumer if it announced that it sleeps. Of several producers one writes the doorbell.
inline void RingIfAsleep(uint32_t& asleep, int doorbell) {
  if (SharedWord(asleep).load(std::memory_order_seq_cst) == 0) return;
  if (SharedWord(asleep).exchange(0, std::memory_order_seq_cst) == 0) return;
  const uint64_t one = 1;
  // Fails only when a peer drove the counter to its end, which can but silence the peer's own session.
  [[maybe_unused]] const ssize_t written = ::write(doorbell, &one, sizeof(one));
}

template <typename T>
class Producer {
 public:
  // `at` is where the queue begins: its indexes, then its entries.
  Producer(std::byte* at, uint32_t depth)
      : indexes_(reinterpret_cast<QueueIndexes*>(at)), entries_(at + sizeof(QueueIndexes)), depth_(depth) {}

  uint32_t& asleep() const { return indexes_->asleep; }

  // True if a Push would succeed now; stays true until then.
  bool HasRoom() {
    if (tail_ - known_head_ < depth_) return true;
    const uint32_t head = SharedWord(indexes_->head).load(std::memory_order_acquire);
    if (tail_ - head > depth_) return false;  // no such queue: the peer is broken, and for us it is full
    known_head_ = head;
    return tail_ - head < depth_;
  }

  // Requires HasRoom() and an entry of legal extent.
  void Push(const T& entry) {
    const size_t bytes = EntryExtent<T>::TotalBytes(entry).value_or(EntryExtent<T>::kFixedBytes);
    CopyIn(&entry, bytes, entries_ + (size_t{tail_ & (depth_ - 1)} * sizeof(T)));
    ++tail_;
    SharedWord(indexes_->tail).store(tail_, std::memory_order_seq_cst);
  }

 private:
  QueueIndexes* indexes_;
  std::byte* entries_;
  uint32_t depth_;
  uint32_t tail_ = 0;
  uint32_t known_head_ = 0;
};

enum class Popped { kNothing, kEntry, kCorrupt };

template <typename T>
class Consumer {
 public:
  Consumer(std::byte* at, uint32_t depth)
      : indexes_(reinterpret_cast<QueueIndexes*>(at)), entries_(at + sizeof(QueueIndexes)), depth_(depth) {}

  uint32_t& asleep() const { return indexes_->asleep; }

  // kCorrupt: the producer's index or the entry's extent is impossible; nothing more may be popped.
  Popped Pop(T* entry) {
    if (head_ == known_tail_) {
      known_tail_ = SharedWord(indexes_->tail).load(std::memory_order_acquire);
      if (head_ == known_tail_) return Popped::kNothing;
    }
    if (known_tail_ - head_ > depth_) return Popped::kCorrupt;
    std::byte* const at = entries_ + (size_t{head_ & (depth_ - 1)} * sizeof(T));
    CopyOut(at, 0, EntryExtent<T>::kFixedBytes, entry);
    const std::optional<size_t> bytes = EntryExtent<T>::TotalBytes(*entry);
    if (!bytes.has_value()) return Popped::kCorrupt;
    CopyOut(at, EntryExtent<T>::kFixedBytes, *bytes, entry);
    ++head_;
    SharedWord(indexes_->head).store(head_, std::memory_order_release);
    return Popped::kEntry;
  }

  // The look after the announcement of sleep; a corrupt index counts as something to pop.
  bool EmptyForSleep() {
    if (head_ != known_tail_) return false;
    known_tail_ = SharedWord(indexes_->tail).load(std::memory_order_seq_cst);
    return head_ == known_tail_;
  }

 private:
  QueueIndexes* indexes_;
  std::byte* entries_;
  uint32_t depth_;
  uint32_t head_ = 0;
  uint32_t known_tail_ = 0;
};

// A consumer's announcement that it sleeps. One thread.
class SleepFlag {
 public:
  explicit SleepFlag(uint32_t& word) : word_(&word) {}

  void Announce() {
    announced_ = true;
    SharedWord(*word_).store(1, std::memory_order_seq_cst);
  }

  // Spares the producers their doorbell while we are awake. A producer that saw the announcement before rings in vain.
  void Withdraw() {
    if (!announced_) return;
    announced_ = false;
    SharedWord(*word_).store(0, std::memory_order_relaxed);
  }

 private:
  uint32_t* word_;
  bool announced_ = false;
};

}  // namespace mlcache::ring
