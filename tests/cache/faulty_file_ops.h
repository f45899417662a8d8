// File operations that fail or die on demand, over the kernel's. Thread-safe.
#pragma once

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <string>

#include "cached/cache/file_ops.h"

namespace mlcache::cache {

class FaultyFileOps final : public FileOps {
 public:
  // The errno that each operation fails with; 0: none.
  std::atomic<int> read_error = 0;
  std::atomic<int> write_error = 0;
  std::atomic<int> sync_error = 0;
  std::atomic<int> punch_error = 0;
  std::atomic<int> unlink_error = 0;
  std::atomic<size_t> most_written_at_once = SIZE_MAX;
  std::atomic<int> faults = 0;  // how many were injected
  // Kills the process, as kill -9 would, when this moment is reached. Set before the cache is opened.
  std::string die_at;

  ssize_t Read(int fd, std::span<std::byte> out, uint64_t offset, bool nowait) override {
    if (read_error != 0) return -Fault(read_error);
    return KernelFileOps().Read(fd, out, offset, nowait);
  }
  ssize_t Write(int fd, std::span<const std::byte> bytes, uint64_t offset) override {
    if (write_error != 0) return -Fault(write_error);
    return KernelFileOps().Write(fd, bytes.first(std::min(bytes.size(), most_written_at_once.load())), offset);
  }
  int Sync(int fd, bool whole_file_system) override {
    if (sync_error != 0) return Fault(sync_error);
    return KernelFileOps().Sync(fd, whole_file_system);
  }
  int Punch(int fd, uint64_t offset, uint64_t length) override {
    if (punch_error != 0) return Fault(punch_error);
    return KernelFileOps().Punch(fd, offset, length);
  }
  int Unlink(int directory, const std::string& name) override {
    if (unlink_error != 0) return Fault(unlink_error);
    return KernelFileOps().Unlink(directory, name);
  }
  void Reach(std::string_view moment) override {
    if (moment == die_at) static_cast<void>(::kill(::getpid(), SIGKILL));
  }

 private:
  int Fault(int error) {
    ++faults;
    return error;
  }
};

}  // namespace mlcache::cache
