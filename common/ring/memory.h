// The memory of a channel: sealed memfds and their mappings. The one place that touches Boost.Interprocess.
// Internal to common/ring. Thread-compatible.
#pragma once

#include <boost/interprocess/mapped_region.hpp>
#include <cstddef>
#include <cstdint>

#include "common/status.h"
#include "common/unique_fd.h"

namespace mlcache::ring {

class Mapping {
 public:
  enum class Access { kReadOnly, kReadWrite };

  Mapping() = default;

  // The first `bytes` of `fd`, shared. The descriptor may be closed afterwards.
  static Result<Mapping> Map(int fd, size_t bytes, Access access);

  std::byte* data() const { return static_cast<std::byte*>(region_.get_address()); }
  size_t size() const { return region_.get_size(); }

 private:
  boost::interprocess::mapped_region region_;
};

struct Memory {
  UniqueFd fd;  // what the peer gets
  Mapping mapping;
};

inline constexpr int kControlSeals = 0x0001 | 0x0002 | 0x0004;         // F_SEAL_SEAL, SHRINK, GROW
inline constexpr int kArenaSeals = 0x0001 | 0x0002 | 0x0004 | 0x0010;  // and FUTURE_WRITE

// Zeroed memory that both sides write, sealed with kControlSeals. Pages are allocated when they are first touched.
Result<Memory> CreateControlMemory(size_t bytes);

// Zeroed memory that only this mapping writes, sealed with kArenaSeals. `fd` is read-only, and whoever holds it, of
// whatever user, can neither write, map writable, resize nor punch the memory, not even after opening it again.
Result<Memory> CreateArenaMemory(size_t bytes);

// The size of `fd`, fixed for ever; kFailedPrecondition unless it is a memfd that carries `seals`. `name` begins the
// message.
Result<uint64_t> SealedSize(const char* name, int fd, int seals);

}  // namespace mlcache::ring
