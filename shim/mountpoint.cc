#include "shim/mountpoint.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <ranges>
#include <sstream>
#include <system_error>
#include <utility>

#include "common/unique_fd.h"

namespace mlcache::shim {
namespace {

// "\040" and the like stand for spaces, tabs, newlines and backslashes.
std::string Unescape(std::string_view text) {
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto is_octal = [&](size_t at) { return at < text.size() && text[at] >= '0' && text[at] <= '7'; };
    if (text[i] == '\\' && is_octal(i + 1) && is_octal(i + 2) && is_octal(i + 3)) {
      plain += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0'));
      i += 3;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

std::optional<MountedFileSystem> ParseLine(const std::string& line) {
  std::istringstream words(line);
  std::string skipped;
  MountedFileSystem mount;
  std::string mountpoint;
  words >> skipped >> skipped >> mount.device >> skipped >> mountpoint;
  while (words >> skipped && skipped != "-") {
  }
  std::string source;
  if (!(words >> mount.type >> source)) return std::nullopt;
  mount.mountpoint = Unescape(mountpoint);
  mount.source = Unescape(source);
  return mount;
}

Status RefuseIfOurs(const std::string& path) {
  const std::optional<MountedFileSystem> present = FindMount(path);
  const bool is_ours =
      present.has_value() && (present->type == kFileSystemType || present->source.starts_with(kSealedSource));
  if (!is_ours) return {};
  return Fail(Code::kAlreadyExists, "mountpoint " + path + " is busy: it already shows " + present->source +
                                        "; run `umount " + path + "` first, or choose another directory");
}

}  // namespace

std::vector<MountedFileSystem> ParseMountInfo(std::string_view text) {
  std::vector<MountedFileSystem> mounts;
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    if (std::optional<MountedFileSystem> mount = ParseLine(line)) mounts.push_back(std::move(*mount));
  }
  return mounts;
}

std::optional<MountedFileSystem> FindMount(const std::string& mountpoint) {
  std::ostringstream text;
  text << std::ifstream("/proc/self/mountinfo").rdbuf();
  // Later lines lie over earlier ones.
  for (MountedFileSystem& mount : ParseMountInfo(text.str()) | std::views::reverse) {
    if (mount.mountpoint == mountpoint) return std::move(mount);
  }
  return std::nullopt;
}

Result<std::string> CheckMountpoint(const std::string& mountpoint) {
  // Looked up in the table first: one of ours whose daemon is away would keep a stat waiting.
  std::error_code failure;
  std::string path = std::filesystem::absolute(mountpoint, failure).lexically_normal();
  if (path.size() > 1 && path.back() == '/') path.pop_back();
  MLCACHE_RETURN_IF_ERROR(RefuseIfOurs(path));
  struct stat attributes{};
  std::array<char, PATH_MAX> real{};
  if (::stat(path.c_str(), &attributes) != 0 || ::realpath(path.c_str(), real.data()) == nullptr) {
    const int error = errno;
    if (error == ENOENT) {
      return Fail(Code::kNotFound,
                  "mountpoint " + mountpoint + " does not exist; make it with `mkdir -p " + path + "`");
    }
    if (error == ENOTCONN) {
      return Fail(Code::kFailedPrecondition, "mountpoint " + mountpoint +
                                                 " holds a mount whose server is dead; run `umount -l " + path +
                                                 "` (or `fusermount3 -u -z " + path + "`) first");
    }
    return FailErrno(error, "mountpoint " + mountpoint);
  }
  if (!S_ISDIR(attributes.st_mode)) {
    return Fail(Code::kInvalidArgument, "mountpoint " + mountpoint + " is no directory; name an empty one");
  }
  MLCACHE_RETURN_IF_ERROR(RefuseIfOurs(real.data()));
  if (::geteuid() != 0 && ::access(real.data(), W_OK) != 0) {
    return Fail(Code::kPermissionDenied, "mountpoint " + mountpoint +
                                             " is not writable for you, so you may not mount there; use a directory "
                                             "of your own, or mount as root");
  }
  return std::string(real.data());
}

Status CheckFuseDevice() {
  const UniqueFd device(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
  if (device.valid()) return {};
  const int error = errno;
  if (error == ENOENT || error == ENODEV || error == ENXIO) {
    return Fail(Code::kFailedPrecondition,
                "there is no /dev/fuse: load the module with `modprobe fuse`, or give the container the device "
                "(docker run --device /dev/fuse --cap-add SYS_ADMIN …)");
  }
  if (error == EACCES || error == EPERM) {
    return Fail(Code::kPermissionDenied,
                "/dev/fuse may not be opened: " + ErrnoError(error, "open").message() +
                    "; its mode should be 0666 (chmod 0666 /dev/fuse), and a container must be allowed the device");
  }
  return FailErrno(error, "open /dev/fuse");
}

Status RaiseReadahead(const std::string& device, uint64_t kibibytes) {
  const std::string path = "/sys/class/bdi/" + device + "/read_ahead_kb";
  uint64_t present = 0;
  if (std::ifstream file(path); file >> present && present >= kibibytes) return {};
  const UniqueFd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  const std::string text = std::to_string(kibibytes);
  if (!file.valid() || ::write(file.get(), text.data(), text.size()) < 0) return FailErrno(errno, path);
  return {};
}

}  // namespace mlcache::shim
