#include "shim/view_tree.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/unique_fd.h"

namespace mlcache::shim {
namespace {

constexpr uint64_t kSuperOffset = 1024;
constexpr uint64_t kBlockBytes = 4096;
constexpr uint64_t kSlotBytes = 32;
constexpr uint32_t kMagic = 0xE0F5E1E2;
constexpr size_t kInodeBytes = 64;
constexpr size_t kXattrHeaderBytes = 12;
constexpr size_t kEntryBytes = 12;
constexpr uint64_t kMaxDirectoryBytes = uint64_t{4} << 30;
constexpr size_t kMaxDepth = 2048;
constexpr uint8_t kTrusted = 4;

struct Xattr {
  std::string name;
  std::string value;
};

struct Node {
  mode_t mode = 0;
  uid_t uid = 0;
  gid_t gid = 0;
  uint64_t size = 0;
  timespec mtime{};
  std::vector<Xattr> xattrs;
  uint64_t data = 0;  // offset of a directory's or link's bytes
  uint64_t attribute_bytes = 0;
};

struct Entry {
  std::string name;
  uint64_t nid = 0;
};

std::unexpected<Error> Unsound(std::string_view what) {
  return Fail(Code::kDataLoss, "the view's metadata image is unsound: " + std::string(what));
}

template <typename T>
T Get(std::string_view bytes, size_t at) {
  T value{};
  if (at + sizeof(value) > bytes.size()) return value;  // callers have checked
  std::memcpy(&value, bytes.data() + at, sizeof(value));
  return value;
}

class Reader {
 public:
  explicit Reader(int fd) : fd_(fd) {}

  Result<uint64_t> Root() {
    const Result<std::string> read = Read(kSuperOffset, 128);
    if (!read.has_value()) return std::unexpected(read.error());
    const std::string_view super = *read;
    if (Get<uint32_t>(super, 0) != kMagic || Get<uint8_t>(super, 12) != 12) return Unsound("no superblock");
    return uint64_t{Get<uint16_t>(super, 14)};
  }

  Result<Node> At(uint64_t nid) {
    const uint64_t position = nid * kSlotBytes;
    MLCACHE_ASSIGN_OR_RETURN(const std::string bytes, Read(position, kInodeBytes));
    const auto format = Get<uint16_t>(bytes, 0);
    const auto layout = static_cast<uint16_t>(format >> 1);
    if ((format & 1) == 0 || (layout != 0 && layout != 2 && layout != 4)) return Unsound("an inode of another kind");
    Node node;
    node.mode = Get<uint16_t>(bytes, 4);
    node.size = Get<uint64_t>(bytes, 8);
    node.uid = Get<uint32_t>(bytes, 24);
    node.gid = Get<uint32_t>(bytes, 28);
    node.mtime.tv_sec = static_cast<time_t>(Get<uint64_t>(bytes, 32));
    node.mtime.tv_nsec = Get<uint32_t>(bytes, 40);
    const auto count = Get<uint16_t>(bytes, 2);
    const size_t xattr_bytes = count == 0 ? 0 : kXattrHeaderBytes + (count - 1) * size_t{4};
    if (xattr_bytes > 0) {
      MLCACHE_ASSIGN_OR_RETURN(node.xattrs, Xattrs(position + kInodeBytes, xattr_bytes));
    }
    node.attribute_bytes = xattr_bytes;
    const bool is_inline = layout == 2;
    node.data = is_inline ? position + kInodeBytes + xattr_bytes : uint64_t{Get<uint32_t>(bytes, 16)} * kBlockBytes;
    return node;
  }

  Result<std::vector<Entry>> Entries(const Node& directory) {
    std::vector<Entry> entries;
    if (directory.size > kMaxDirectoryBytes) return Unsound("a directory of " + std::to_string(directory.size));
    for (uint64_t at = 0; at < directory.size; at += kBlockBytes) {
      const auto length = static_cast<size_t>(std::min(kBlockBytes, directory.size - at));
      const Result<std::string> block = Read(directory.data + at, length);
      if (!block.has_value()) return std::unexpected(block.error());
      MLCACHE_RETURN_IF_ERROR(AppendEntries(*block, entries));
    }
    return entries;
  }

  Result<std::string> Target(const Node& link) {
    if (link.size == 0 || link.size >= kBlockBytes) return Unsound("a link of a wrong length");
    MLCACHE_ASSIGN_OR_RETURN(std::string target, Read(link.data, static_cast<size_t>(link.size)));
    if (target.find('\0') != std::string::npos) return Unsound("a link with a NUL");
    return target;
  }

 private:
  Result<std::string> Read(uint64_t offset, size_t length) const {
    std::string bytes(length, '\0');
    if (offset > INT64_MAX - length) return Unsound("an offset");
    const ssize_t done = ::pread(fd_, bytes.data(), length, static_cast<off_t>(offset));
    if (done < 0) return FailErrno(errno, "read the view's metadata");
    if (static_cast<size_t>(done) != length) return Unsound("it ends early");
    return bytes;
  }

  Result<std::vector<Xattr>> Xattrs(uint64_t offset, size_t length) const {
    MLCACHE_ASSIGN_OR_RETURN(const std::string bytes, Read(offset, length));
    std::vector<Xattr> xattrs;
    for (size_t at = kXattrHeaderBytes; at + 4 <= length;) {
      const auto name_length = Get<uint8_t>(bytes, at);
      const auto value_length = Get<uint16_t>(bytes, at + 2);
      if (at + 4 + name_length + value_length > length) return Unsound("an attribute");
      if (Get<uint8_t>(bytes, at + 1) != kTrusted) return Unsound("an attribute of another kind");
      xattrs.push_back({.name = "trusted." + bytes.substr(at + 4, name_length),
                        .value = bytes.substr(at + 4 + name_length, value_length)});
      at += (size_t{4} + name_length + value_length + 3) / 4 * 4;
    }
    return xattrs;
  }

  static Status AppendEntries(const std::string& block, std::vector<Entry>& entries) {
    if (block.size() < kEntryBytes) return Unsound("a directory");
    const size_t count = Get<uint16_t>(block, 8) / kEntryBytes;
    if (count == 0 || count * kEntryBytes > block.size()) return Unsound("a directory");
    for (size_t i = 0; i < count; ++i) {
      const auto begin = Get<uint16_t>(block, i * kEntryBytes + 8);
      size_t end = block.size();
      if (i + 1 < count) end = Get<uint16_t>(block, (i + 1) * kEntryBytes + 8);
      if (begin < count * kEntryBytes || end > block.size() || end < begin) return Unsound("a directory");
      std::string name = block.substr(begin, end - begin);
      if (i + 1 == count) name = name.substr(0, name.find('\0'));
      if (name == "." || name == "..") continue;
      const bool sound = !name.empty() && name.size() <= 255 && name.find('/') == std::string::npos &&
                         name.find('\0') == std::string::npos;
      if (!sound) return Unsound("a name");
      entries.push_back({.name = std::move(name), .nid = Get<uint64_t>(block, i * kEntryBytes)});
    }
    return {};
  }

  const int fd_;
};

Status Describe(int fd, const Node& node) {
  for (const Xattr& xattr : node.xattrs) {
    if (::fsetxattr(fd, xattr.name.c_str(), xattr.value.data(), xattr.value.size(), 0) != 0)
      return FailErrno(errno, "tmpfs: set " + xattr.name);
  }
  const std::array<timespec, 2> times = {node.mtime, node.mtime};
  // The owner first: a change of it may clear bits of the mode.
  if (::fchown(fd, node.uid, node.gid) != 0 || ::fchmod(fd, node.mode & 0777) != 0 ||
      ::futimens(fd, times.data()) != 0) {
    return FailErrno(errno, "tmpfs: set attributes");
  }
  return {};
}

Status MakeFile(int parent, const std::string& name, const Node& node) {
  const UniqueFd file(::openat(parent, name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file.valid() || ::ftruncate(file.get(), static_cast<off_t>(node.size)) != 0)
    return FailErrno(errno, "tmpfs: make a file");
  return Describe(file.get(), node);
}

Status MakeLink(int parent, const std::string& name, const Node& node, const std::string& target) {
  const std::array<timespec, 2> times = {node.mtime, node.mtime};
  if (::symlinkat(target.c_str(), parent, name.c_str()) != 0 ||
      ::fchownat(parent, name.c_str(), node.uid, node.gid, AT_SYMLINK_NOFOLLOW) != 0 ||
      ::utimensat(parent, name.c_str(), times.data(), AT_SYMLINK_NOFOLLOW) != 0) {
    return FailErrno(errno, "tmpfs: make a link");
  }
  return {};
}

// The bytes of the image that are not holes: a file system gives holes for nothing.
uint64_t BytesIn(int fd) {
  uint64_t bytes = 0;
  for (off_t begin = 0; (begin = ::lseek(fd, begin, SEEK_DATA)) >= 0;) {
    const off_t end = ::lseek(fd, begin, SEEK_HOLE);
    if (end <= begin) break;
    bytes += static_cast<uint64_t>(end - begin);
    begin = end;
  }
  return bytes;
}

// What a tree may cost: an inode of the image for each name, and its attributes and target, for each is copied. An
// image can name one inode as often as it likes, and a directory within itself.
class Allowance {
 public:
  explicit Allowance(uint64_t image_bytes) : left_(image_bytes) {}

  Status Take(uint64_t bytes) {
    if (bytes > left_) return Unsound("more names than inodes");
    left_ -= bytes;
    return {};
  }

 private:
  uint64_t left_;
};

struct Level {
  UniqueFd fd;
  Node node;
  std::vector<Entry> left;
};

}  // namespace

Status CopyImageTree(int image, int mount) {
  Reader reader(image);
  MLCACHE_ASSIGN_OR_RETURN(const uint64_t root_nid, reader.Root());
  Allowance allowance(BytesIn(image));
  std::vector<Level> levels;
  const auto descend = [&](UniqueFd fd, Node node) -> Status {
    if (!fd.valid()) return FailErrno(errno, "tmpfs: open a directory");
    MLCACHE_ASSIGN_OR_RETURN(std::vector<Entry> entries, reader.Entries(node));
    MLCACHE_RETURN_IF_ERROR(allowance.Take(entries.size() * kInodeBytes));
    levels.push_back({std::move(fd), std::move(node), std::move(entries)});
    return {};
  };
  MLCACHE_ASSIGN_OR_RETURN(Node root, reader.At(root_nid));
  MLCACHE_RETURN_IF_ERROR(descend(UniqueFd(::openat(mount, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)), std::move(root)));
  while (!levels.empty()) {
    Level& level = levels.back();
    if (level.left.empty()) {
      // Last, for what is made within changes the time.
      MLCACHE_RETURN_IF_ERROR(Describe(level.fd.get(), level.node));
      levels.pop_back();
      continue;
    }
    const Entry entry = std::move(level.left.back());
    level.left.pop_back();
    MLCACHE_ASSIGN_OR_RETURN(Node node, reader.At(entry.nid));
    MLCACHE_RETURN_IF_ERROR(allowance.Take(node.attribute_bytes + (S_ISLNK(node.mode) ? node.size : 0)));
    const int parent = level.fd.get();
    if (S_ISREG(node.mode)) {
      MLCACHE_RETURN_IF_ERROR(MakeFile(parent, entry.name, node));
    } else if (S_ISLNK(node.mode)) {
      MLCACHE_ASSIGN_OR_RETURN(const std::string target, reader.Target(node));
      MLCACHE_RETURN_IF_ERROR(MakeLink(parent, entry.name, node, target));
    } else if (S_ISDIR(node.mode)) {
      if (levels.size() >= kMaxDepth) return Unsound("too deep a tree");
      if (::mkdirat(parent, entry.name.c_str(), 0700) != 0) return FailErrno(errno, "tmpfs: make a directory");
      MLCACHE_RETURN_IF_ERROR(
          descend(UniqueFd(::openat(parent, entry.name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)),
                  std::move(node)));
    } else if (S_ISCHR(node.mode)) {  // a whiteout
      if (::mknodat(parent, entry.name.c_str(), S_IFCHR, 0) != 0) return FailErrno(errno, "tmpfs: make a whiteout");
    } else {
      return Unsound("a file of another kind");
    }
  }
  return {};
}

}  // namespace mlcache::shim
