#include "cached/cache/tier.h"

#include <dirent.h>
#include <fcntl.h>
#include <glog/logging.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <set>

#include "common/units.h"

namespace mlcache::cache {
namespace {

constexpr size_t kObjectDirectories = 256;
constexpr size_t kSyncOneByOne = 16;  // more files than this are synced with their whole file system

std::string DirectoryName(size_t number) {
  std::array<char, 4> name{};
  static_cast<void>(std::snprintf(name.data(), name.size(), "%02zx", number));
  return name.data();
}

Status MakeDirectory(int parent, const std::string& name, const std::string& where) {
  if (::mkdirat(parent, name.c_str(), 0700) == 0 || errno == EEXIST) return {};
  return FailErrno(errno, where + "/" + name + ": mkdir");
}

int HexDigit(char digit) {
  if (digit >= '0' && digit <= '9') return digit - '0';
  if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;
  return -1;
}

// nullopt for a name that we did not give.
std::optional<ObjectId> ParseId(std::string_view name) {
  ObjectId id{};
  if (name.size() != id.size() * 2) return std::nullopt;
  for (size_t i = 0; i < id.size(); ++i) {
    const int high = HexDigit(name[2 * i]);
    const int low = HexDigit(name[2 * i + 1]);
    if (high < 0 || low < 0) return std::nullopt;
    id[i] = static_cast<std::byte>(high * 16 + low);
  }
  return id;
}

}  // namespace

Tier::Tier(Options options, const Clock& clock, Metrics& metrics)
    : options_(std::move(options)),
      clock_(clock),
      metrics_(metrics),
      budget_(options_.capacity_bytes),
      descriptors_(options_.open_files),
      graveyard_(budget_) {}

Tier::Counters Tier::counters() const {
  const prometheus::Labels labels = {{"tier", kind()}};
  return {metrics_.evicted_bytes.Add(labels), metrics_.verified_bytes.Add(labels), metrics_.corrupt_blocks.Add(labels)};
}

void Tier::PublishGauges(uint64_t objects) const {
  const prometheus::Labels labels = {{"tier", options_.directory}};
  metrics_.tier_used_bytes.Add(labels).Set(static_cast<double>(budget_.UsedBytes()));
  metrics_.tier_capacity_bytes.Add(labels).Set(static_cast<double>(budget_.capacity_bytes()));
  metrics_.tier_objects.Add(labels).Set(static_cast<double>(objects));
  metrics_.tier_isolated.Add(labels).Set(health() == TierHealth::kOk ? 0 : 1);
}

std::string Tier::PathOf(const ObjectId& id) {
  const std::string hex = ToHex(id);
  return hex.substr(0, 2) + "/" + hex;
}

Result<std::unique_ptr<Tier>> Tier::Open(const Options& options, const Clock& clock, Metrics& metrics) {
  const std::string& directory = options.directory;
  if (options.capacity_bytes < kMinTierBytes) {
    return Fail(Code::kInvalidArgument, "tier " + directory + ": " + FormatSize(options.capacity_bytes) +
                                            " is too small; give it at least " + FormatSize(kMinTierBytes));
  }
  std::unique_ptr<Tier> tier(new Tier(options, clock, metrics));
  MLCACHE_RETURN_IF_ERROR(tier->Lock());
  MLCACHE_RETURN_IF_ERROR(tier->MakeDirectories());
  auto index = ObjectIndex::Open(directory + "/index");
  if (!index.has_value()) return std::unexpected(index.error().WithContext("tier " + directory));
  tier->index_ = std::move(*index);
  std::vector<std::string> databases = {directory + "/index"};
  if (options.keeps_state) databases.push_back(tier->StateDirectory());
  const uint64_t margin = databases.size() * kDatabaseMarginBytes;
  tier->meter_ = std::make_unique<OverheadMeter>(tier->budget_, databases, directory + "/objects", margin);
  tier->index_->CountInto(*tier->meter_);
  if (const uint64_t used = tier->budget_.UsedBytes(); used >= options.capacity_bytes) {
    return Fail(Code::kInvalidArgument, "tier " + directory + ": its index alone needs " + FormatSize(used) +
                                            ", more than the " + FormatSize(options.capacity_bytes) +
                                            " given; give it more, or empty the directory");
  }
  return tier;
}

Status Tier::Lock() {
  const std::string& directory = options_.directory;
  root_.Reset(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!root_.valid()) {
    const int error = errno;
    std::string hint;
    if (error == ENOENT) hint = "; make the directory first";
    if (error == EACCES) hint = "; give the daemon's user access to it";
    const Error cause = ErrnoError(error, "tier " + directory);
    return Fail(cause.code(), cause.message() + hint);
  }
  struct statfs file_system{};
  if (::fstatfs(root_.get(), &file_system) != 0) return FailErrno(errno, "tier " + directory + ": statfs");
  in_memory_ = file_system.f_type == TMPFS_MAGIC;
  lock_.Reset(::openat(root_.get(), "LOCK", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!lock_.valid()) {
    const Error cause = ErrnoError(errno, "tier " + directory + ": LOCK");
    return Fail(cause.code(), cause.message() + "; the daemon's user must be able to write in the directory");
  }
  if (::flock(lock_.get(), LOCK_EX | LOCK_NB) != 0) {
    std::array<char, 32> owner{};
    const ssize_t length = ::pread(lock_.get(), owner.data(), owner.size() - 1, 0);
    const std::string pid = length > 0 ? std::string(owner.data(), static_cast<size_t>(length)) : "unknown";
    return Fail(Code::kAlreadyExists, "tier " + directory + ": in use by the daemon with pid " + pid +
                                          "; stop it or give this one another directory");
  }
  const std::string pid = std::to_string(::getpid());
  if (::ftruncate(lock_.get(), 0) != 0 ||
      ::pwrite(lock_.get(), pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size())) {
    const Error cause = ErrnoError(errno, "tier " + directory + ": write LOCK");
    return Fail(cause.code(), cause.message() + "; make room on its file system");
  }
  return {};
}

Status Tier::MakeDirectories() {
  const std::string where = "tier " + options_.directory;
  // The databases' too: RocksDB complains when it has to.
  for (const char* name : {"objects", "index", "state"}) {
    if (name != std::string_view("state") || options_.keeps_state) {
      MLCACHE_RETURN_IF_ERROR(MakeDirectory(root_.get(), name, where));
    }
  }
  objects_.Reset(::openat(root_.get(), "objects", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!objects_.valid()) return FailErrno(errno, where + "/objects");
  for (size_t i = 0; i < kObjectDirectories; ++i) {
    MLCACHE_RETURN_IF_ERROR(MakeDirectory(objects_.get(), DirectoryName(i), where + "/objects"));
  }
  if (::fsync(objects_.get()) != 0 || ::fsync(root_.get()) != 0) return FailErrno(errno, where + ": fsync");
  return {};
}

uint64_t Tier::FloorShortage(uint64_t bytes) const {
  struct statvfs space{};
  if (in_memory_ || options_.free_space_floor_bytes == 0 || ::fstatvfs(root_.get(), &space) != 0) return 0;
  const uint64_t free = static_cast<uint64_t>(space.f_bavail) * space.f_frsize;
  const uint64_t wanted = options_.free_space_floor_bytes + bytes;
  return free < wanted ? std::min(bytes, wanted - free) : 0;
}

Result<std::shared_ptr<ObjectFile>> Tier::OpenObject(const ObjectId& id, bool writable) {
  if (auto file = descriptors_.Find(id); file != nullptr && (file->writable() || !writable)) return file;
  const std::string path = PathOf(id);
  const int flags = (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOFOLLOW;
  UniqueFd fd(::openat(objects_.get(), path.c_str(), flags));
  if (!fd.valid() && (errno == EMFILE || errno == ENFILE)) {
    descriptors_.Shrink();
    fd.Reset(::openat(objects_.get(), path.c_str(), flags));
  }
  if (!fd.valid()) return FailErrno(errno, options_.directory + "/objects/" + path);
  auto file = std::make_shared<ObjectFile>(std::move(fd), writable, budget_);
  descriptors_.Insert(id, file);
  return file;
}

Result<std::shared_ptr<ObjectFile>> Tier::CreateObject(const ObjectId& id, uint64_t size) {
  const std::string path = PathOf(id);
  constexpr int kFlags = O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW;
  UniqueFd fd(::openat(objects_.get(), path.c_str(), kFlags, 0600));
  if (!fd.valid() && errno == EEXIST) {
    RemoveLeftover(id);
    fd.Reset(::openat(objects_.get(), path.c_str(), kFlags, 0600));
  }
  if (!fd.valid() && (errno == EMFILE || errno == ENFILE)) {
    descriptors_.Shrink();
    fd.Reset(::openat(objects_.get(), path.c_str(), kFlags, 0600));
  }
  const std::string name = options_.directory + "/objects/" + path;
  if (!fd.valid()) return std::unexpected(Failed(errno, name));
  if (::ftruncate(fd.get(), static_cast<off_t>(size)) != 0) {
    const Error error = Failed(errno, name);
    RemoveLeftover(id);
    return std::unexpected(error);
  }
  NoteDirectory(id);
  auto file = std::make_shared<ObjectFile>(std::move(fd), true, budget_);
  descriptors_.Insert(id, file);
  return file;
}

ObjectsDirectory Tier::Objects() const {
  struct stat info{};
  std::error_code failure;
  std::string path = std::filesystem::canonical(options_.directory + "/objects", failure).string();
  if (failure || ::fstat(objects_.get(), &info) != 0) return {};
  return {.path = std::move(path), .device = info.st_dev, .inode = info.st_ino};
}

Result<UniqueFd> Tier::OpenForLending(const ObjectId& id, const LendingRoots& roots) const {
  const std::string path = PathOf(id);
  if (options_.number >= roots.directories.size()) {
    return Fail(Code::kFailedPrecondition, options_.directory + ": no read-only view to lend from");
  }
  UniqueFd fd(::openat(roots.directories[options_.number].get(), path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd.valid()) return FailErrno(errno, options_.directory + "/objects/" + path + ": open to lend it");
  return fd;
}

void Tier::NoteDirectory(const ObjectId& id) {
  const auto number = std::to_integer<size_t>(id[0]);
  struct stat info{};
  if (::fstatat(objects_.get(), DirectoryName(number).c_str(), &info, 0) != 0) return;
  constexpr uint64_t kStatBlockBytes = 512;
  meter_->DirectoryNow(number, static_cast<uint64_t>(info.st_blocks) * kStatBlockBytes);
}

void Tier::RemoveObject(const ObjectId& id, uint64_t charged_bytes, bool may_be_lent) {
  std::shared_ptr<ObjectFile> file;
  if (may_be_lent) {
    // Not to be found again by name, but its users are.
    if (auto opened = OpenObject(id, false); opened.has_value()) file = *std::move(opened);
  }
  if (std::shared_ptr<ObjectFile> cached = descriptors_.Remove(id); cached != nullptr) file = std::move(cached);
  const int error = ops().Unlink(objects_.get(), PathOf(id));
  if (error != 0 && error != ENOENT) {
    // The bytes are still there, and stay charged until a restart looks again.
    static_cast<void>(Failed(error, options_.directory + "/objects/" + PathOf(id) + ": unlink"));
    return;
  }
  if (file != nullptr && may_be_lent) {
    graveyard_.Bury(std::move(file), charged_bytes);
  } else if (file != nullptr) {
    file->ReleaseOnClose(charged_bytes);
  } else {
    budget_.Release(charged_bytes);
  }
}

Status Tier::LinkObject(const ObjectId& id, int directory) {
  const std::string path = PathOf(id);
  const std::string name = ToHex(id);
  // A link of an earlier file of the object may be left there.
  if (::linkat(objects_.get(), path.c_str(), directory, name.c_str(), 0) == 0) return {};
  if (errno == EEXIST && ::unlinkat(directory, name.c_str(), 0) == 0 &&
      ::linkat(objects_.get(), path.c_str(), directory, name.c_str(), 0) == 0) {
    return {};
  }
  return FailErrno(errno, options_.directory + "/objects/" + path + ": link");
}

Status Tier::SyncFiles(const std::vector<ObjectId>& files) {
  if (in_memory_ || files.empty()) return {};
  if (files.size() > kSyncOneByOne) {
    const int error = ops().Sync(objects_.get(), true);
    if (error != 0) return std::unexpected(Failed(error, options_.directory + ": syncfs"));
    return {};
  }
  std::set<std::string> directories;
  for (const ObjectId& id : files) {
    const auto file = OpenObject(id, false);
    if (!file.has_value()) continue;  // evicted meanwhile
    if (const int error = ops().Sync((*file)->fd(), false); error != 0) {
      return std::unexpected(Failed(error, options_.directory + "/objects/" + PathOf(id) + ": fdatasync"));
    }
    directories.insert(DirectoryName(std::to_integer<size_t>(id[0])));
  }
  for (const std::string& name : directories) {
    const UniqueFd directory(::openat(objects_.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!directory.valid() || ::fsync(directory.get()) != 0) {
      return std::unexpected(Failed(errno, options_.directory + "/objects/" + name + ": fsync"));
    }
  }
  return {};
}

Result<std::vector<ObjectId>> Tier::ListObjects() const {
  std::vector<ObjectId> ids;
  for (size_t i = 0; i < kObjectDirectories; ++i) {
    const std::string path = options_.directory + "/objects/" + DirectoryName(i);
    const std::unique_ptr<DIR, int (*)(DIR*)> directory(::opendir(path.c_str()), &::closedir);
    if (directory == nullptr) return FailErrno(errno, path);
    while (const dirent* entry = ::readdir(directory.get())) {
      const std::string_view name = entry->d_name;
      if (const auto id = ParseId(name); id.has_value()) {
        ids.push_back(*id);
      } else if (name != "." && name != "..") {
        LOG(WARNING) << path << "/" << name << ": not a file of this cache; its space is not counted";
      }
    }
  }
  return ids;
}

}  // namespace mlcache::cache
