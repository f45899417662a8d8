// How queue entries are copied into and out of memory that an untrusted process also maps: word by word with relaxed
// atomics, so that a peer that writes where it must not produces garbage values and no undefined behaviour. Internal to
// common/ring.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>

#include "common/ring/wire.h"

namespace mlcache::ring {

static_assert(std::atomic_ref<uint64_t>::is_always_lock_free);

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

}  // namespace mlcache::ring
