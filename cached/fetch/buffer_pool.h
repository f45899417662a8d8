// Memory for chunks on their way. Keeps a few whole-chunk buffers for the next flights, since fresh pages cost more
// than the copy into them. How much may be out at once is the board's business. Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

namespace mlcache::fetch {

class BufferPool;

// Uninitialised bytes, given back on destruction. The pool must outlive it. Thread-compatible.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer();

  std::span<std::byte> bytes() const { return {memory_.get(), size_}; }

 private:
  friend class BufferPool;
  Buffer(BufferPool* pool, std::unique_ptr<std::byte[]> memory, size_t size);

  BufferPool* pool_ = nullptr;
  std::unique_ptr<std::byte[]> memory_;
  size_t size_ = 0;
};

class BufferPool {
 public:
  explicit BufferPool(size_t max_idle) : max_idle_(max_idle) {}

  // At most kChunkBytes.
  Buffer Take(size_t size);

 private:
  friend class Buffer;
  void GiveBack(std::unique_ptr<std::byte[]> memory);

  const size_t max_idle_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<std::byte[]>> idle_;  // guarded by mutex_; each of kChunkBytes
};

}  // namespace mlcache::fetch
