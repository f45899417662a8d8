#include "cached/fetch/buffer_pool.h"

#include <utility>

#include "cached/cache/object_cache.h"

namespace mlcache::fetch {

Buffer::Buffer(BufferPool* pool, std::unique_ptr<std::byte[]> memory, size_t size)
    : pool_(pool), memory_(std::move(memory)), size_(size) {}

Buffer::Buffer(Buffer&& other) noexcept
    : pool_(std::exchange(other.pool_, nullptr)),
      memory_(std::move(other.memory_)),
      size_(std::exchange(other.size_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(pool_, other.pool_);
  std::swap(memory_, other.memory_);
  std::swap(size_, other.size_);
  return *this;
}

Buffer::~Buffer() {
  if (pool_ != nullptr && memory_ != nullptr) pool_->GiveBack(std::move(memory_));
}

Buffer BufferPool::Take(size_t size) {
  // Small objects get memory of their size; only whole chunks are worth keeping.
  if (size < cache::kChunkBytes) return {nullptr, std::make_unique_for_overwrite<std::byte[]>(size), size};
  {
    const std::scoped_lock lock(mutex_);
    if (!idle_.empty()) {
      std::unique_ptr<std::byte[]> memory = std::move(idle_.back());
      idle_.pop_back();
      return {this, std::move(memory), size};
    }
  }
  return {this, std::make_unique_for_overwrite<std::byte[]>(cache::kChunkBytes), size};
}

void BufferPool::GiveBack(std::unique_ptr<std::byte[]> memory) {
  const std::scoped_lock lock(mutex_);
  if (idle_.size() < max_idle_) idle_.push_back(std::move(memory));
}

}  // namespace mlcache::fetch
