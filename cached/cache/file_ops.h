// The file operations of a tier that can fail or be cut short by a crash, as a seam: the kernel's in the programs, one
// that fails or dies on demand in tests. Thread-safe.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace mlcache::cache {

class FileOps {
 public:
  virtual ~FileOps() = default;

  // As preadv2 with RWF_NOWAIT if `nowait`; bytes read or -errno.
  virtual ssize_t Read(int fd, std::span<std::byte> out, uint64_t offset, bool nowait) = 0;

  // As pwrite: bytes written, perhaps fewer than asked, or -errno.
  virtual ssize_t Write(int fd, std::span<const std::byte> bytes, uint64_t offset) = 0;

  // fdatasync of the file, or syncfs of its whole file system. 0 or an errno.
  virtual int Sync(int fd, bool whole_file_system) = 0;

  // Frees the blocks of a range; the size stays. 0 or an errno.
  virtual int Punch(int fd, uint64_t offset, uint64_t length) = 0;

  virtual int Unlink(int directory, const std::string& name) = 0;

  // Names a moment in an order that a crash must not break; does nothing outside tests.
  virtual void Reach(std::string_view moment) = 0;
};

// The kernel's. Lives for the whole process.
FileOps& KernelFileOps();

}  // namespace mlcache::cache
