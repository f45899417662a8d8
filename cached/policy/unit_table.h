// Where policies keep what they know of units: nodes in one slab, found by an open-addressing table of 32-bit indexes,
// strung on intrusive lists. A node costs 28 bytes and its payload, plus 6 to 11 bytes of table. Thread-compatible.
#pragma once

#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

#include "cached/cache/eviction_policy.h"

namespace mlcache::policy {

using cache::AccessHints;
using cache::EvictionPolicy;
using cache::EvictionUnit;
using cache::kWholeObject;

// A well mixed hash of a unit (object ids are hashes, but chunks of one object are not).
inline uint64_t MixedHash(const EvictionUnit& unit) {
  uint64_t hash = cache::EvictionUnitHash()(unit) * 0x9E3779B97F4A7C15ULL;
  hash ^= hash >> 32;
  return hash * 0xD6E8FEB86659FD93ULL;
}

template <typename Payload>
class UnitTable {
 public:
  using Index = uint32_t;
  static constexpr Index kNone = UINT32_MAX;

  struct List {
    Index head = kNone;
    Index tail = kNone;
    uint32_t count = 0;
    bool empty() const { return head == kNone; }
  };

  UnitTable() : slots_(kLeastSlots, kNone) {}

  Index Find(const EvictionUnit& unit) const {
    for (size_t at = HomeOf(unit);; at = Next(at)) {
      const Index index = slots_[at];
      if (index == kNone || Is(nodes_[index], unit)) return index;
    }
  }

  // `unit` must not be there yet.
  Index Insert(const EvictionUnit& unit) {
    if ((size_ + 1) * 4 > slots_.size() * 3) Grow();
    Index index = free_;
    if (index == kNone) {
      index = static_cast<Index>(nodes_.size());
      nodes_.emplace_back();
    } else {
      free_ = nodes_[index].next;
    }
    nodes_[index] = {.object = unit.object,
                     .chunk = static_cast<int32_t>(unit.chunk),
                     .previous = kNone,
                     .next = kNone,
                     .payload = {}};
    Place(index);
    ++size_;
    return index;
  }

  // Its node must be on no list.
  void Erase(Index index) {
    size_t hole = HomeOf(UnitOf(index));
    while (slots_[hole] != index) hole = Next(hole);
    slots_[hole] = kNone;
    // Those behind the hole move up, so that no search ends before them.
    for (size_t at = Next(hole); slots_[at] != kNone; at = Next(at)) {
      const size_t home = HomeOf(UnitOf(slots_[at]));
      const bool may_move = hole <= at ? (home <= hole || home > at) : (home <= hole && home > at);
      if (!may_move) continue;
      slots_[hole] = std::exchange(slots_[at], kNone);
      hole = at;
    }
    nodes_[index].next = free_;
    free_ = index;
    --size_;
  }

  Payload& operator[](Index index) { return nodes_[index].payload; }
  const Payload& operator[](Index index) const { return nodes_[index].payload; }
  EvictionUnit UnitOf(Index index) const { return {.object = nodes_[index].object, .chunk = nodes_[index].chunk}; }
  Index NextOf(Index index) const { return nodes_[index].next; }
  size_t size() const { return size_; }

  void PushBack(List& list, Index index) {
    Node& node = nodes_[index];
    node.previous = list.tail;
    node.next = kNone;
    (list.tail == kNone ? list.head : nodes_[list.tail].next) = index;
    list.tail = index;
    ++list.count;
  }

  void Remove(List& list, Index index) {
    const Node& node = nodes_[index];
    (node.previous == kNone ? list.head : nodes_[node.previous].next) = node.next;
    (node.next == kNone ? list.tail : nodes_[node.next].previous) = node.previous;
    --list.count;
  }

 private:
  static constexpr size_t kLeastSlots = 16;

  struct Node {
    cache::ObjectId object;
    int32_t chunk;
    Index previous;
    Index next;  // of a free node: the next free one
    Payload payload;
  };

  static bool Is(const Node& node, const EvictionUnit& unit) {
    return node.chunk == unit.chunk && node.object == unit.object;
  }
  size_t HomeOf(const EvictionUnit& unit) const { return MixedHash(unit) & (slots_.size() - 1); }
  size_t Next(size_t at) const { return (at + 1) & (slots_.size() - 1); }

  void Place(Index index) {
    size_t at = HomeOf(UnitOf(index));
    while (slots_[at] != kNone) at = Next(at);
    slots_[at] = index;
  }

  void Grow() {
    const std::vector<Index> old = std::exchange(slots_, std::vector<Index>(slots_.size() * 2, kNone));
    for (const Index index : old) {
      if (index != kNone) Place(index);
    }
  }

  std::deque<Node> nodes_;
  std::vector<Index> slots_;  // a power of two
  Index free_ = kNone;
  size_t size_ = 0;
};

}  // namespace mlcache::policy
