// Both ends of one bounded single-producer single-consumer queue in memory that an untrusted process also maps.
// Internal to common/ring. Each end is used by one thread at a time.
//
// Each end keeps its own index in private memory and only publishes it; the peer's index is read once, and believed
// only if it describes a queue that can exist. `tail` is sequentially consistent for the sake of doorbell.h.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "common/ring/doorbell.h"
#include "common/ring/entry.h"
#include "common/ring/layout.h"

namespace mlcache::ring {

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

}  // namespace mlcache::ring
