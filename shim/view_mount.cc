#include "shim/view_mount.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <utility>

#include "common/view_layout.h"
#include "shim/view_tree.h"

namespace mlcache::shim {
namespace {

constexpr int kLoopTries = 16;  // another process may take the free device first

std::string ProcPath(int fd) { return "/proc/self/fd/" + std::to_string(fd); }

// A file system being configured (fsopen(2)), with the kernel's explanations.
class FsContext {
 public:
  static Result<FsContext> Open(const std::string& type) {
    UniqueFd fd(::fsopen(type.c_str(), FSOPEN_CLOEXEC));
    if (!fd.valid()) return FailErrno(errno, "fsopen " + type);
    return FsContext(type, std::move(fd));
  }

  Status Set(const std::string& key, const std::string& value) {
    if (::fsconfig(fd_.get(), FSCONFIG_SET_STRING, key.c_str(), value.c_str(), 0) == 0) return {};
    return Failed(key + "=" + value);
  }

  Status SetFlag(const std::string& key) {
    if (::fsconfig(fd_.get(), FSCONFIG_SET_FLAG, key.c_str(), nullptr, 0) == 0) return {};
    return Failed(key);
  }

  Result<UniqueFd> Mount(unsigned attributes) {
    if (::fsconfig(fd_.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) return Failed("create");
    UniqueFd mount(::fsmount(fd_.get(), FSMOUNT_CLOEXEC, attributes));
    if (!mount.valid()) return Failed("fsmount");
    return mount;
  }

 private:
  FsContext(std::string type, UniqueFd fd) : type_(std::move(type)), fd_(std::move(fd)) {}

  std::unexpected<Error> Failed(const std::string& step) {
    const int error = errno;
    std::string words;
    std::array<char, 512> line{};
    for (ssize_t length = 0; (length = ::read(fd_.get(), line.data(), line.size())) > 0;) {
      words += "; " + std::string(line.data(), static_cast<size_t>(length));
    }
    const Error cause = ErrnoError(error, type_ + ": " + step);
    return Fail(cause.code(), cause.message() + words);
  }

  std::string type_;
  UniqueFd fd_;
};

constexpr unsigned kQuiet = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOATIME;

Result<UniqueFd> MountErofs(const std::string& source) {
  MLCACHE_ASSIGN_OR_RETURN(FsContext context, FsContext::Open("erofs"));
  MLCACHE_RETURN_IF_ERROR(context.Set("source", source));
  MLCACHE_RETURN_IF_ERROR(context.SetFlag("ro"));
  return context.Mount(kQuiet | MOUNT_ATTR_NOEXEC);
}

// A loop device that the kernel frees with its last user, which is the mount.
Result<UniqueFd> MountErofsByLoop(int image) {
  const UniqueFd control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  if (!control.valid()) return FailErrno(errno, "open /dev/loop-control");
  loop_config config{};
  config.fd = static_cast<uint32_t>(image);
  config.info.lo_flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR;
  for (int i = 0; i < kLoopTries; ++i) {
    const int number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
    if (number < 0) return FailErrno(errno, "find a free loop device");
    const std::string path = "/dev/loop" + std::to_string(number);
    const UniqueFd device(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!device.valid()) return FailErrno(errno, "open " + path);
    if (::ioctl(device.get(), LOOP_CONFIGURE, &config) == 0) return MountErofs(path);
    if (errno != EBUSY) return FailErrno(errno, path + ": set up a loop device");
  }
  return Fail(Code::kResourceExhausted, "no loop device stays free");
}

Result<UniqueFd> MountTmpfs(int image) {
  MLCACHE_ASSIGN_OR_RETURN(FsContext context, FsContext::Open("tmpfs"));
  // No limit of its own: CopyImageTree bounds what it makes by the bytes of the image.
  MLCACHE_RETURN_IF_ERROR(context.Set("size", "0"));
  MLCACHE_RETURN_IF_ERROR(context.Set("mode", "0700"));
  MLCACHE_ASSIGN_OR_RETURN(UniqueFd mount, context.Mount(MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC));
  MLCACHE_RETURN_IF_ERROR(CopyImageTree(image, mount.get()));
  return mount;
}

Result<UniqueFd> MountMetadata(int image, const std::vector<MetadataWay>& ways) {
  std::string reasons;
  for (const MetadataWay way : ways) {
    Result<UniqueFd> mount = Fail(Code::kInternal, "");
    switch (way) {
      case MetadataWay::kFile:
        mount = MountErofs(ProcPath(image));
        break;
      case MetadataWay::kLoop:
        mount = MountErofsByLoop(image);
        break;
      case MetadataWay::kTmpfs:
        mount = MountTmpfs(image);
        break;
    }
    if (mount.has_value()) return mount;
    reasons += (reasons.empty() ? "" : "; then ") + mount.error().message();
  }
  return Fail(Code::kUnimplemented, "the view's metadata cannot be mounted: " + reasons);
}

bool IsDaemons(const struct stat& info, const ViewOptions& options) { return info.st_uid == options.daemon_uid; }

Status CheckImage(const ViewParts& parts, const ViewOptions& options) {
  struct stat info{};
  if (::fstat(parts.metadata.get(), &info) != 0) return FailErrno(errno, "the view's metadata");
  if (!S_ISREG(info.st_mode) || !IsDaemons(info, options))
    return Fail(Code::kPermissionDenied, "the view's metadata is no file of the daemon's");
  return {};
}

// The layer's directory as this namespace sees it. Only what is private to the daemon's user may be shown: the overlay
// reads it with the keeper's rights.
Result<UniqueFd> OpenLayer(const ViewLayer& layer, const ViewOptions& options) {
  struct stat sent{};
  if (::fstat(layer.directory.get(), &sent) != 0) return FailErrno(errno, "the view's data layer");
  if (!S_ISDIR(sent.st_mode) || !IsDaemons(sent, options) || (sent.st_mode & 077) != 0) {
    return Fail(Code::kPermissionDenied, "the view's data layer " + layer.path +
                                             " is no private directory of the daemon's; nothing is shown of it");
  }
  UniqueFd opened(::open(layer.path.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  struct stat seen{};
  if (!opened.valid() || ::fstat(opened.get(), &seen) != 0) {
    return FailErrno(errno, "the cache tier is not visible at " + layer.path + " where the mount lives");
  }
  if (seen.st_dev != sent.st_dev || seen.st_ino != sent.st_ino) {
    return Fail(Code::kFailedPrecondition, "where the mount lives, " + layer.path +
                                               " is another directory than the daemon's: let both see the tier at one "
                                               "path");
  }
  return opened;
}

// Linux before 6.15 takes no layer that stands nowhere in the tree of mounts: gives one a place for that moment.
class Stage {
 public:
  static Result<Stage> Put(int mount) {
    std::string directory = std::filesystem::temp_directory_path() / "mlcache-view-XXXXXX";
    if (::mkdtemp(directory.data()) == nullptr) return FailErrno(errno, "make " + directory);
    if (::move_mount(mount, "", AT_FDCWD, directory.c_str(), MOVE_MOUNT_F_EMPTY_PATH) != 0) {
      const int error = errno;
      ::rmdir(directory.c_str());
      return FailErrno(error, "mount the view's metadata on " + directory);
    }
    return Stage(std::move(directory));
  }
  Stage(Stage&& other) noexcept : directory_(std::exchange(other.directory_, "")) {}
  Stage& operator=(Stage&&) = delete;
  ~Stage() {
    if (directory_.empty()) return;
    ::umount2(directory_.c_str(), MNT_DETACH);
    ::rmdir(directory_.c_str());
  }

 private:
  explicit Stage(std::string directory) : directory_(std::move(directory)) {}
  std::string directory_;
};

Result<UniqueFd> MountOverlay(const std::string& layers, const ViewOptions& options) {
  MLCACHE_ASSIGN_OR_RETURN(FsContext context, FsContext::Open("overlay"));
  MLCACHE_RETURN_IF_ERROR(context.Set("source", options.source));
  MLCACHE_RETURN_IF_ERROR(context.SetFlag("ro"));
  MLCACHE_RETURN_IF_ERROR(context.Set("metacopy", "on"));
  MLCACHE_RETURN_IF_ERROR(context.Set("redirect_dir", "follow"));
  MLCACHE_RETURN_IF_ERROR(context.Set("lowerdir", layers));
  return context.Mount(kQuiet | (options.no_exec ? MOUNT_ATTR_NOEXEC : 0U));
}

}  // namespace

Result<UniqueFd> MountView(const ViewParts& parts, const ViewOptions& options, int fuse) {
  MLCACHE_RETURN_IF_ERROR(CheckImage(parts, options));
  if (parts.layers.empty()) return Fail(Code::kInvalidArgument, "the view has no data layer");
  std::vector<UniqueFd> data;
  for (const ViewLayer& layer : parts.layers) {
    MLCACHE_ASSIGN_OR_RETURN(UniqueFd opened, OpenLayer(layer, options));
    data.push_back(std::move(opened));
  }
  MLCACHE_ASSIGN_OR_RETURN(const UniqueFd metadata, MountMetadata(parts.metadata.get(), options.ways));
  const std::string image = ProcPath(metadata.get()) + "/";
  std::string layers = image + kViewTree;
  if (parts.over_mount) layers += ":" + image + kViewFence + ":" + ProcPath(fuse);
  for (const UniqueFd& directory : data) layers += "::" + ProcPath(directory.get());
  if (!options.stage) {
    Result<UniqueFd> mount = MountOverlay(layers, options);
    if (mount.has_value() || mount.error().code() != Code::kInvalidArgument) return mount;
  }
  MLCACHE_ASSIGN_OR_RETURN(const Stage stage, Stage::Put(metadata.get()));
  return MountOverlay(layers, options);
}

}  // namespace mlcache::shim
