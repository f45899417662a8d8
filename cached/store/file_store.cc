#include "cached/store/file_store.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <pwd.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <climits>
#include <cstdlib>
#include <optional>
#include <utility>

#include "cached/store/call.h"
#include "common/units.h"

namespace mlcache::store {
namespace {

constexpr size_t kSnapshots = 16;
constexpr uint64_t kPieceBytes = 256 * kKiB;
constexpr Nanos kSettleTime = std::chrono::seconds(2);
constexpr unsigned kStatxMask =
    STATX_TYPE | STATX_MODE | STATX_NLINK | STATX_UID | STATX_GID | STATX_SIZE | STATX_MTIME | STATX_CTIME | STATX_INO;

int OpenAt2(int directory, const char* path, uint64_t flags, uint64_t resolve) {
  open_how how = {.flags = flags | O_CLOEXEC, .mode = 0, .resolve = resolve};
  for (int tries = 0;; ++tries) {
    const auto fd = static_cast<int>(syscall(SYS_openat2, directory, path, &how, sizeof(how)));
    // EAGAIN: a rename elsewhere in the tree raced the resolution.
    if (fd >= 0 || (errno != EINTR && (errno != EAGAIN || tries == 100))) return fd;
  }
}

int64_t ToNanos(const struct statx_timestamp& time) { return time.tv_sec * 1'000'000'000LL + time.tv_nsec; }

std::string VersionOf(const struct statx& status) {
  std::string text;
  const auto add = [&](auto number) {
    std::array<char, 20> digits{};
    const char* end = std::to_chars(digits.data(), digits.data() + digits.size(), number, 16).ptr;
    if (!text.empty()) text += '.';
    text.append(static_cast<const char*>(digits.data()), end);
  };
  add(status.stx_ino);
  add(status.stx_size);
  add(ToNanos(status.stx_mtime));
  add(ToNanos(status.stx_ctime));
  return text;
}

// Nothing for a thing that this store does not show.
std::optional<ObjectInfo> InfoOf(const struct statx& status, Nanos wall_now) {
  ObjectInfo info;
  switch (status.stx_mode & S_IFMT) {
    case S_IFREG:
      info.type = FileType::kRegular;
      break;
    case S_IFDIR:
      info.type = FileType::kDirectory;
      break;
    case S_IFLNK:
      info.type = FileType::kSymlink;
      break;
    default:
      return {};
  }
  info.size = status.stx_size;
  info.mode = status.stx_mode & 07777;
  info.uid = status.stx_uid;
  info.gid = status.stx_gid;
  info.nlink = status.stx_nlink;
  info.mtime_ns = ToNanos(status.stx_mtime);
  info.ctime_ns = ToNanos(status.stx_ctime);
  if (info.type == FileType::kRegular) {
    info.version = VersionOf(status);
    info.settled = wall_now - Nanos(std::max(info.mtime_ns, info.ctime_ns)) >= kSettleTime;
  }
  return info;
}

// Nothing for a thing that this store does not show, and for DT_UNKNOWN.
std::optional<FileType> TypeOf(unsigned char d_type) {
  switch (d_type) {
    case DT_REG:
      return FileType::kRegular;
    case DT_DIR:
      return FileType::kDirectory;
    case DT_LNK:
      return FileType::kSymlink;
    default:
      return {};
  }
}

// `name` is "" for the link that `directory` itself is.
std::optional<std::string> ReadLink(int directory, const char* name) {
  std::array<char, PATH_MAX> target{};
  const ssize_t size = readlinkat(directory, name, target.data(), target.size());
  if (size < 0) return {};
  return std::string(target.data(), static_cast<size_t>(size));
}

std::string UserName() {
  const uid_t uid = geteuid();
  std::array<char, 1024> buffer{};
  passwd entry{};
  passwd* found = nullptr;
  getpwuid_r(uid, &entry, buffer.data(), buffer.size(), &found);
  return found == nullptr ? std::to_string(uid) : std::string(found->pw_name);
}

std::unexpected<Error> Unreadable(const std::string& path) {
  const std::string user = UserName();
  return Fail(Code::kPermissionDenied,
              path + ": user " + user + " may not read it. Add the user to the directory's group (usermod -aG GROUP " +
                  user + "), or grant it an ACL (setfacl -R -m u:" + user + ":rX " + path +
                  "), or, where systemd's sandbox hides it, add BindReadOnlyPaths=" + path +
                  " by 'systemctl edit mlcached'");
}

std::unexpected<Error> Changed(const std::string& path) {
  return Fail(Code::kFailedPrecondition, path + ": the file changed since it was opened; open it again");
}

Status CheckVersion(int fd, const ObjectRef& ref, const std::string& shown) {
  struct statx status{};
  // FORCE_SYNC: a network file system must not answer from its attribute cache.
  if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, kStatxMask, &status) != 0) {
    return errno == ESTALE ? Status(Changed(shown)) : Status(FailErrno(errno, shown));
  }
  if (!S_ISREG(status.stx_mode) || VersionOf(status) != ref.version) return Changed(shown);
  return {};
}

}  // namespace

FileStore::FileStore(std::string root, UniqueFd root_fd, const Clock& clock, size_t page_entries)
    : root_(std::move(root)), root_fd_(std::move(root_fd)), clock_(clock), page_entries_(page_entries) {}

Result<std::shared_ptr<FileStore>> FileStore::Open(const std::string& root, const Clock& clock, size_t page_entries) {
  std::string path = root.starts_with('/') ? root : "/" + root;
  // Links on the way to the root are the administrator's; what they lead to now is the root for good.
  if (const std::unique_ptr<char, decltype(&std::free)> real(realpath(path.c_str(), nullptr), &std::free); real) {
    path = real.get();
  }
  UniqueFd fd(OpenAt2(AT_FDCWD, path.c_str(), O_RDONLY | O_DIRECTORY, RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS));
  if (!fd.valid()) {
    const int error = errno;
    if (error == EACCES || error == EPERM) return Unreadable(path);
    if (error == ENOENT || error == ELOOP)
      return Fail(Code::kNotFound, path + ": no such directory; is its file system mounted?");
    if (error == ENOTDIR) return Fail(Code::kInvalidArgument, path + ": is not a directory");
    if (error == ENOSYS) return Fail(Code::kUnimplemented, path + ": file:// stores need openat2 (Linux 5.6 or newer)");
    return FailErrno(error, path);
  }
  // Search permission, too: without it every look-up below would fail one by one.
  if (faccessat(fd.get(), ".", R_OK | X_OK, AT_EACCESS) != 0 && errno == EACCES) return Unreadable(path);
  return std::shared_ptr<FileStore>(new FileStore(path, std::move(fd), clock, page_entries));
}

std::string FileStore::Shown(const std::string& path) const {
  if (path.empty()) return root_;
  return root_.ends_with('/') ? root_ + path : root_ + "/" + path;
}

Result<UniqueFd> FileStore::OpenBelow(const std::string& path, uint64_t flags) const {
  MLCACHE_RETURN_IF_ERROR(CheckPath(path));
  UniqueFd fd(OpenAt2(root_fd_.get(), path.empty() ? "." : path.c_str(), flags,
                      RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS));
  if (fd.valid()) return fd;
  // A link or a file in the middle of a path: below it there is nothing. ENXIO: a socket.
  if (errno == ENOENT || errno == ELOOP || errno == ENOTDIR || errno == ENXIO || errno == ENAMETOOLONG) {
    return Fail(Code::kNotFound, Shown(path) + ": no such file or directory in the store");
  }
  if (errno == EACCES || errno == EPERM) return Unreadable(Shown(path));
  return FailErrno(errno, Shown(path));
}

Result<ObjectInfo> FileStore::Stat(const std::string& path, const CallContext& context) {
  MLCACHE_RETURN_IF_ERROR(CheckCall(context, clock_, path));
  MLCACHE_ASSIGN_OR_RETURN(const UniqueFd fd, OpenBelow(path, O_PATH | O_NOFOLLOW));
  struct statx status{};
  if (statx(fd.get(), "", AT_EMPTY_PATH, kStatxMask, &status) != 0) return FailErrno(errno, Shown(path));
  std::optional<ObjectInfo> info = InfoOf(status, clock_.WallNow());
  if (!info) return Fail(Code::kNotFound, Shown(path) + ": neither a file, a directory nor a link");
  if (info->type == FileType::kSymlink) {
    std::optional<std::string> target = ReadLink(fd.get(), "");
    if (!target) return FailErrno(errno, Shown(path));
    info->symlink_target = std::move(*target);
  }
  return std::move(*info);
}

Result<FileStore::Names> FileStore::ReadNames(const std::string& path, int directory) const {
  // A descriptor of its own: the caller goes on using `directory`.
  const int duplicate = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (duplicate < 0) return FailErrno(errno, Shown(path));
  DIR* stream = fdopendir(duplicate);
  if (stream == nullptr) {
    close(duplicate);
    return FailErrno(errno, Shown(path));
  }
  auto names = std::make_shared<std::vector<Name>>();
  errno = 0;
  for (const dirent* entry = readdir(stream); entry != nullptr; entry = readdir(stream)) {
    const std::optional<FileType> type = TypeOf(entry->d_type);
    const std::string_view name = entry->d_name;
    if (!type && entry->d_type != DT_UNKNOWN) continue;
    if (name != "." && name != "..") names->push_back({.name = std::string(name), .type = type});
  }
  const int error = errno;
  closedir(stream);
  if (error != 0) return FailErrno(error, Shown(path));
  std::ranges::sort(*names, {}, &Name::name);
  return names;
}

FileStore::Names FileStore::FindSnapshot(uint64_t id, const std::string& path) {
  const std::lock_guard lock(mutex_);
  const auto found = std::ranges::find(snapshots_, id, &Snapshot::id);
  if (found == snapshots_.end() || found->path != path) return nullptr;
  snapshots_.splice(snapshots_.begin(), snapshots_, found);
  return found->names;
}

uint64_t FileStore::KeepSnapshot(const std::string& path, Names names) {
  std::list<Snapshot> dropped;  // freed after the lock
  const std::lock_guard lock(mutex_);
  snapshots_.push_front({.id = ++last_id_, .path = path, .names = std::move(names)});
  if (snapshots_.size() > kSnapshots) dropped.splice(dropped.begin(), snapshots_, std::prev(snapshots_.end()));
  return last_id_;
}

// Nothing for what went meanwhile, or is not shown.
Result<std::optional<ObjectInfo>> FileStore::Describe(const std::string& path, int directory, const std::string& name,
                                                      Nanos wall_now) const {
  struct statx status{};
  if (statx(directory, name.c_str(), AT_SYMLINK_NOFOLLOW, kStatxMask, &status) != 0) {
    if (errno == ENOENT) return std::nullopt;
    if (errno == EACCES) return Unreadable(Shown(path));
    return FailErrno(errno, Shown(path.empty() ? name : path + "/" + name));
  }
  std::optional<ObjectInfo> info = InfoOf(status, wall_now);
  if (info && info->type == FileType::kSymlink) {
    std::optional<std::string> target = ReadLink(directory, name.c_str());
    if (!target) return std::nullopt;
    info->symlink_target = *std::move(target);
  }
  return info;
}

Result<ListPage> FileStore::List(const std::string& path, const std::string& token, const CallContext& context) {
  MLCACHE_RETURN_IF_ERROR(CheckCall(context, clock_, path));
  MLCACHE_ASSIGN_OR_RETURN(const UniqueFd directory, OpenBelow(path, O_RDONLY | O_DIRECTORY));
  // A token is "ID/NAME": the snapshot, and the last name of the page before.
  uint64_t id = 0;
  std::string last;
  Names names;
  if (!token.empty()) {
    const auto [end, error] = std::from_chars(token.data(), token.data() + token.size(), id);
    if (error != std::errc() || end == token.data() + token.size() || *end != '/') {
      return Fail(Code::kInvalidArgument, Shown(path) + ": not a page token of this store");
    }
    last.assign(end + 1, token.data() + token.size());
    names = FindSnapshot(id, path);
  }
  if (names == nullptr) {
    MLCACHE_ASSIGN_OR_RETURN(names, ReadNames(path, directory.get()));
    id = 0;
  }
  auto name = token.empty() ? names->begin() : std::ranges::upper_bound(*names, last, {}, &Name::name);
  ListPage page;
  page.entries.reserve(std::min(page_entries_, static_cast<size_t>(names->end() - name)));
  const Nanos wall_now = clock_.WallNow();
  for (; name != names->end() && page.entries.size() < page_entries_; ++name) {
    if (page.entries.size() % 256 == 255) MLCACHE_RETURN_IF_ERROR(CheckCall(context, clock_, path));
    if (context.names_suffice && name->type) {
      page.entries.push_back({.name = name->name, .info = {.type = *name->type}, .described = false});
      continue;
    }
    MLCACHE_ASSIGN_OR_RETURN(std::optional<ObjectInfo> info, Describe(path, directory.get(), name->name, wall_now));
    if (info) page.entries.push_back({.name = name->name, .info = *std::move(info)});
  }
  if (name != names->end()) {
    if (id == 0) id = KeepSnapshot(path, names);
    page.next = std::to_string(id) + "/" + std::prev(name)->name;
  }
  return page;
}

Status FileStore::ReadRange(const ObjectRef& ref, uint64_t offset, uint64_t length, const ByteSink& sink,
                            const CallContext& context) {
  const std::string shown = Shown(ref.path);
  MLCACHE_RETURN_IF_ERROR(CheckCall(context, clock_, shown));
  if (offset > ref.size || length > ref.size - offset) return Fail(Code::kOutOfRange, shown + ": range past the end");
  // NONBLOCK: should a pipe have taken the file's place, the open must not wait for its writer.
  Result<UniqueFd> fd = OpenBelow(ref.path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  if (!fd && fd.error().code() == Code::kNotFound) return Changed(shown);
  if (!fd) return std::unexpected(fd.error());
  MLCACHE_RETURN_IF_ERROR(CheckVersion(fd->get(), ref, shown));
  // Starts the whole range's I/O at once, and no more than the range.
  if (length > kPieceBytes) {
    posix_fadvise(fd->get(), static_cast<off_t>(offset), static_cast<off_t>(length), POSIX_FADV_WILLNEED);
  }
  const uint64_t capacity = std::min(length, kPieceBytes);
  const auto buffer = std::make_unique_for_overwrite<std::byte[]>(capacity);
  for (uint64_t done = 0; done < length;) {
    MLCACHE_RETURN_IF_ERROR(CheckCall(context, clock_, shown));
    const ssize_t got =
        pread(fd->get(), buffer.get(), std::min(capacity, length - done), static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno != ESTALE) return FailErrno(errno, "read " + shown);
    if (got <= 0) return Changed(shown);
    MLCACHE_RETURN_IF_ERROR(sink(std::span(buffer.get(), static_cast<size_t>(got))));
    done += static_cast<uint64_t>(got);
  }
  return CheckVersion(fd->get(), ref, shown);
}

Result<StoreCapacity> FileStore::Capacity(const CallContext& context) {
  MLCACHE_RETURN_IF_ERROR(CheckCall(context, clock_, root_));
  struct statvfs status{};
  if (fstatvfs(root_fd_.get(), &status) != 0) return FailErrno(errno, root_);
  return StoreCapacity{.total_bytes = status.f_blocks * status.f_frsize,
                       .free_bytes = status.f_bavail * status.f_frsize,
                       .total_files = status.f_files,
                       .free_files = status.f_favail};
}

Status FileStore::Watch(const std::string& path, const ChangeSink& /*sink*/, const CallContext& /*context*/) {
  return Fail(Code::kUnimplemented, Shown(path) + ": file:// stores have no change feed");
}

}  // namespace mlcache::store
