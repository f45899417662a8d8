#include "cached/cache/file_ops.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>

namespace mlcache::cache {
namespace {

class Kernel final : public FileOps {
 public:
  ssize_t Read(int fd, std::span<std::byte> out, uint64_t offset, bool nowait) override {
    const iovec part = {.iov_base = out.data(), .iov_len = out.size()};
    ssize_t done = -1;
    do {
      done = ::preadv2(fd, &part, 1, static_cast<off_t>(offset), nowait ? RWF_NOWAIT : 0);
    } while (done < 0 && errno == EINTR);
    return done < 0 ? -errno : done;
  }

  ssize_t Write(int fd, std::span<const std::byte> bytes, uint64_t offset) override {
    ssize_t done = -1;
    do {
      done = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    } while (done < 0 && errno == EINTR);
    return done < 0 ? -errno : done;
  }

  int Sync(int fd, bool whole_file_system) override {
    return (whole_file_system ? ::syncfs(fd) : ::fdatasync(fd)) == 0 ? 0 : errno;
  }

  int Punch(int fd, uint64_t offset, uint64_t length) override {
    const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    return ::fallocate(fd, mode, static_cast<off_t>(offset), static_cast<off_t>(length)) == 0 ? 0 : errno;
  }

  int Unlink(int directory, const std::string& name) override {
    return ::unlinkat(directory, name.c_str(), 0) == 0 ? 0 : errno;
  }

  void Reach(std::string_view /*moment*/) override {}
};

}  // namespace

FileOps& KernelFileOps() {
  static Kernel kernel;
  return kernel;
}

}  // namespace mlcache::cache
