#include "cached/fetch/prefetch_ledger.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace mlcache::fetch {
namespace {

static_assert(cache::kBlocksPerChunk == 64, "one word holds a bit for each block of a chunk");

// The blocks of `chunk` that [begin, end) touches.
uint64_t BlockMask(uint64_t chunk, uint64_t begin, uint64_t end) {
  const uint64_t base = chunk * cache::kChunkBytes;
  begin = std::max(begin, base);
  end = std::min(end, base + cache::kChunkBytes);
  if (begin >= end) return 0;
  const uint64_t first = (begin - base) / cache::kBlockBytes;
  const uint64_t last = (end - 1 - base) / cache::kBlockBytes;
  const uint64_t below_end = last == 63 ? ~uint64_t{0} : (uint64_t{1} << (last + 1)) - 1;
  return below_end & ~((uint64_t{1} << first) - 1);
}

uint64_t BytesOf(uint64_t mask, uint64_t chunk, uint64_t object_bytes) {
  uint64_t bytes = std::popcount(mask) * cache::kBlockBytes;
  const uint64_t base = chunk * cache::kChunkBytes;
  const uint64_t last = (object_bytes - 1) / cache::kBlockBytes;  // the object's last block may be short
  if (object_bytes > base && last - base / cache::kBlockBytes < cache::kBlocksPerChunk) {
    const uint64_t bit = last - base / cache::kBlockBytes;
    if ((mask >> bit & 1) != 0) bytes -= (last + 1) * cache::kBlockBytes - object_bytes;
  }
  return bytes;
}

}  // namespace

void PrefetchLedger::Issue(const std::shared_ptr<cache::CachedObject>& object, uint64_t chunk,
                           const std::vector<cache::ByteRange>& ranges, std::shared_ptr<FetchObserver> observer,
                           std::stop_token purpose) {
  uint64_t mask = 0;
  for (const cache::ByteRange& range : ranges) mask |= BlockMask(chunk, range.offset, range.offset + range.length);
  const std::scoped_lock lock(mutex_);
  const Key key{object.get(), chunk};
  if (const auto found = index_.find(key); found != index_.end()) {
    // What was outstanding and is fetched again had been evicted; an expired entry is another object's.
    Entry& entry = *found->second;
    const bool same = entry.object.lock() == object;
    Waste(entry, same ? entry.unread & mask : entry.unread);
    entry.unread = (same ? entry.unread : 0) | mask;
    entry.arriving = true;
    entry.object = object;
    entry.object_bytes = object->key().size;
    entry.observer = std::move(observer);
    entry.purpose = std::move(purpose);
    return;
  }
  if (entries_.size() >= max_chunks_) {
    Waste(entries_.front(), entries_.front().unread);
    Erase(entries_.begin());
  }
  entries_.push_back({.key = key,
                      .object = object,
                      .object_bytes = object->key().size,
                      .unread = mask,
                      .observer = std::move(observer),
                      .purpose = std::move(purpose)});
  index_.emplace(key, std::prev(entries_.end()));
  outstanding_.store(entries_.size(), std::memory_order_relaxed);
}

void PrefetchLedger::Land(const cache::CachedObject& object, uint64_t chunk) {
  const std::scoped_lock lock(mutex_);
  if (const auto found = index_.find(Key{&object, chunk}); found != index_.end()) found->second->arriving = false;
}

void PrefetchLedger::Withdraw(const cache::CachedObject& object, uint64_t chunk) {
  const std::scoped_lock lock(mutex_);
  if (const auto found = index_.find(Key{&object, chunk}); found != index_.end()) Erase(found->second);
}

void PrefetchLedger::UseSlowly(const cache::CachedObject& object, uint64_t begin, uint64_t end) {
  const std::scoped_lock lock(mutex_);
  for (uint64_t chunk = begin / cache::kChunkBytes; chunk * cache::kChunkBytes < end; ++chunk) {
    const auto found = index_.find(Key{&object, chunk});
    if (found == index_.end()) continue;
    Entry& entry = *found->second;
    const uint64_t read = entry.unread & BlockMask(chunk, begin, end);
    if (read != 0) {
      const uint64_t bytes = BytesOf(read, chunk, entry.object_bytes);
      used_.Increment(static_cast<double>(bytes));
      if (entry.observer != nullptr) entry.observer->Used(bytes);
    }
    entry.unread &= ~read;
    if (entry.unread == 0) Erase(found->second);
  }
}

void PrefetchLedger::Sweep(size_t count) {
  const std::scoped_lock lock(mutex_);
  for (count = std::min(count, entries_.size()); count > 0; --count) {
    const auto entry = entries_.begin();
    const std::shared_ptr<cache::CachedObject> object = entry->object.lock();
    if (object == nullptr) {
      Waste(*entry, entry->unread);
      Erase(entry);
      continue;
    }
    uint64_t gone = 0;
    const uint64_t base = entry->key.chunk * cache::kChunkBytes;
    for (const cache::ByteRange& range : object->Missing(base, cache::kChunkBytes)) {
      gone |= BlockMask(entry->key.chunk, range.offset, range.offset + range.length);
    }
    gone &= entry->arriving ? 0 : entry->unread;
    Waste(*entry, gone);
    entry->unread &= ~gone;
    if (entry->purpose.stop_requested()) {
      TellWaste(*entry, entry->unread);
      entry->observer = nullptr;
    }
    entries_.splice(entries_.end(), entries_, entry);
    if (entry->unread == 0) Erase(entry);
  }
}

void PrefetchLedger::TellWaste(const Entry& entry, uint64_t blocks) {
  if (blocks == 0 || entry.observer == nullptr) return;
  entry.observer->Wasted(BytesOf(blocks, entry.key.chunk, entry.object_bytes));
}

void PrefetchLedger::Waste(const Entry& entry, uint64_t blocks) {
  TellWaste(entry, blocks);
  if (blocks != 0) wasted_.Increment(static_cast<double>(BytesOf(blocks, entry.key.chunk, entry.object_bytes)));
}

void PrefetchLedger::Erase(Entries::iterator entry) {
  index_.erase(entry->key);
  entries_.erase(entry);
  outstanding_.store(entries_.size(), std::memory_order_relaxed);
}

}  // namespace mlcache::fetch
