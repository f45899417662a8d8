#include "common/ring/memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/interprocess/exceptions.hpp>
#include <cerrno>
#include <string>
#include <utility>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

namespace mlcache::ring {
namespace {

static_assert(kControlSeals == (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW));
static_assert(kArenaSeals == (kControlSeals | F_SEAL_FUTURE_WRITE));

// What boost::interprocess::mapped_region wants to know of a memory.
class MappableFd {
 public:
  explicit MappableFd(int fd) : fd_(fd) {}
  boost::interprocess::mapping_handle_t get_mapping_handle() const { return {.handle = fd_, .is_xsi = false}; }

 private:
  int fd_;
};

Result<UniqueFd> CreateMemfd(const char* name, size_t bytes) {
  constexpr unsigned int kFlags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  UniqueFd fd(::memfd_create(name, kFlags | MFD_NOEXEC_SEAL));
  if (!fd.valid() && errno == EINVAL) fd.Reset(::memfd_create(name, kFlags));  // Linux < 6.3
  if (!fd.valid()) return FailErrno(errno, std::string("memfd_create ") + name);
  if (::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) {
    return FailErrno(errno, std::string("size ") + name + " to " + std::to_string(bytes) + " bytes");
  }
  return fd;
}

Status Seal(const char* name, int fd, int seals) {
  if (::fcntl(fd, F_ADD_SEALS, seals) == 0) return {};
  return FailErrno(errno, std::string("seal ") + name + " (needs Linux 5.1 or later)");
}

}  // namespace

Result<Mapping> Mapping::Map(int fd, size_t bytes, Access access) {
  namespace bip = boost::interprocess;
  try {
    Mapping mapping;
    mapping.region_ =
        bip::mapped_region(MappableFd(fd), access == Access::kReadWrite ? bip::read_write : bip::read_only, 0, bytes);
    return mapping;
  } catch (const bip::interprocess_exception& exception) {
    const std::string what = "map " + std::to_string(bytes) + " bytes of channel memory";
    if (exception.get_native_error() != 0) return FailErrno(exception.get_native_error(), what);
    return Fail(Code::kResourceExhausted, what + ": " + exception.what());
  }
}

Result<Memory> CreateControlMemory(size_t bytes) {
  constexpr const char* kName = "mlcache-control";
  MLCACHE_ASSIGN_OR_RETURN(UniqueFd fd, CreateMemfd(kName, bytes));
  MLCACHE_RETURN_IF_ERROR(Seal(kName, fd.get(), kControlSeals));
  MLCACHE_ASSIGN_OR_RETURN(Mapping mapping, Mapping::Map(fd.get(), bytes, Mapping::Access::kReadWrite));
  return Memory{.fd = std::move(fd), .mapping = std::move(mapping)};
}

Result<Memory> CreateArenaMemory(size_t bytes) {
  constexpr const char* kName = "mlcache-arena";
  MLCACHE_ASSIGN_OR_RETURN(const UniqueFd writable, CreateMemfd(kName, bytes));
  // FUTURE_WRITE leaves mappings made before it writable, and only those.
  MLCACHE_ASSIGN_OR_RETURN(Mapping mapping, Mapping::Map(writable.get(), bytes, Mapping::Access::kReadWrite));
  MLCACHE_RETURN_IF_ERROR(Seal(kName, writable.get(), kArenaSeals));
  // The seal is what protects; the mode only makes the attempt of another user fail earlier.
  if (::fchmod(writable.get(), 0400) != 0) return FailErrno(errno, std::string("chmod ") + kName);
  const std::string path = "/proc/self/fd/" + std::to_string(writable.get());
  UniqueFd read_only(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!read_only.valid()) return FailErrno(errno, std::string("open ") + kName + " read-only at " + path);
  return Memory{.fd = std::move(read_only), .mapping = std::move(mapping)};
}

Result<uint64_t> SealedSize(const char* name, int fd, int seals) {
  // The seals first: without them the size would be worth nothing.
  const int present = ::fcntl(fd, F_GET_SEALS);
  if (present < 0) return Fail(Code::kFailedPrecondition, std::string(name) + " is not a sealable memory");
  if ((present & seals) != seals) {
    return Fail(Code::kFailedPrecondition, std::string(name) + " is not sealed: its peer could resize or write it");
  }
  struct stat attributes{};
  if (::fstat(fd, &attributes) != 0) return FailErrno(errno, std::string("stat ") + name);
  return static_cast<uint64_t>(attributes.st_size);
}

}  // namespace mlcache::ring
