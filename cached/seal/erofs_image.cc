#include "cached/seal/erofs_image.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <span>
#include <utility>

namespace mlcache::seal {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little endian, and written as it lies here");

constexpr uint32_t kMagic = 0xE0F5E1E2;
constexpr uint64_t kSuperOffset = 1024;
constexpr uint64_t kBlockBytes = 4096;
constexpr uint8_t kBlockBits = 12;
constexpr uint64_t kSlotBytes = 32;  // inode numbers count these
constexpr uint32_t kFeatureMtime = 0x2;
constexpr uint32_t kFeatureChunkedFile = 0x4;
constexpr uint32_t kNoBlock = 0xFFFFFFFF;
constexpr int64_t kNanosPerSecond = 1'000'000'000;

enum Layout : uint16_t { kPlain = 0, kInline = 2, kChunked = 4 };

struct SuperBlock {
  uint32_t magic = kMagic;
  uint32_t checksum = 0;
  uint32_t feature_compat = kFeatureMtime;
  uint8_t block_bits = kBlockBits;
  uint8_t extra_slots = 0;
  uint16_t root_nid = 0;
  uint64_t inodes = 0;
  uint64_t build_time = 0;
  uint32_t build_time_nsec = 0;
  uint32_t blocks = 0;
  uint32_t meta_block = 0;
  uint32_t xattr_block = 0;
  uint8_t uuid[16] = {};
  char volume_name[16] = {};
  uint32_t feature_incompat = kFeatureChunkedFile;
  uint8_t unused[44] = {};
};
static_assert(sizeof(SuperBlock) == 128);

struct Inode {
  uint16_t format = 0;
  uint16_t xattr_count = 0;
  uint16_t mode = 0;
  uint16_t unused = 0;
  uint64_t size = 0;
  uint32_t data = 0;  // first block, or the chunk format
  uint32_t number = 0;
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint64_t mtime = 0;
  uint32_t mtime_nsec = 0;
  uint32_t nlink = 0;
  uint8_t unused2[16] = {};
};
static_assert(sizeof(Inode) == 64);

struct XattrHeader {
  uint32_t name_filter = 0;
  uint8_t shared_count = 0;
  uint8_t unused[7] = {};
};
static_assert(sizeof(XattrHeader) == 12);

struct XattrEntry {
  uint8_t name_length = 0;
  uint8_t name_index = 4;  // "trusted."
  uint16_t value_length = 0;
};
static_assert(sizeof(XattrEntry) == 4);

struct [[gnu::packed]] DirectoryEntry {
  uint64_t nid = 0;
  uint16_t name_offset = 0;
  uint8_t type = 0;
  uint8_t unused = 0;
};
static_assert(sizeof(DirectoryEntry) == 12);

template <typename T>
void Append(std::string& out, const T& value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

constexpr uint64_t RoundUp(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

void AppendXattr(std::string& out, std::string_view name, std::string_view value) {
  const XattrEntry entry{.name_length = static_cast<uint8_t>(name.size()),
                         .value_length = static_cast<uint16_t>(value.size())};
  Append(out, entry);
  out += name;
  out += value;
  out.resize(RoundUp(out.size(), 4));
}

uint8_t TypeByte(uint32_t type) {
  if (type == S_IFDIR) return 2;
  if (type == S_IFCHR) return 3;
  return type == S_IFLNK ? 7 : 1;
}

// The chunk that holds all of a file: its size as a power of two, in blocks.
uint16_t ChunkFormat(uint64_t size) {
  const uint64_t blocks = std::max<uint64_t>(1, RoundUp(size, kBlockBytes) / kBlockBytes);
  return static_cast<uint16_t>(std::bit_width(blocks - 1));
}

struct Name {
  std::string_view name;
  uint64_t nid = 0;
  uint8_t type = 0;
};

// One block of a directory: as many of `names` as fit; how many those were. Its unused end is left out.
size_t AppendBlock(std::span<const Name> names, std::string& out) {
  size_t count = 0;
  for (size_t used = 0; count < names.size(); ++count) {
    used += sizeof(DirectoryEntry) + names[count].name.size();
    if (used > kBlockBytes) break;
  }
  size_t offset = count * sizeof(DirectoryEntry);
  for (const Name& name : names.first(count)) {
    Append(out, DirectoryEntry{.nid = name.nid, .name_offset = static_cast<uint16_t>(offset), .type = name.type});
    offset += name.name.size();
  }
  for (const Name& name : names.first(count)) out += name.name;
  return count;
}

}  // namespace

// Gathers what is written in order, and writes large pieces.
class ErofsImage::Output {
 public:
  explicit Output(int fd) : fd_(fd) {}

  void SkipTo(uint64_t position) { Add(std::string(position - position_, '\0')); }

  void Add(std::string_view bytes) {
    buffer_ += bytes;
    position_ += bytes.size();
    if (buffer_.size() >= kPieceBytes) Flush();
  }

  Status Finish() {
    Flush();
    if (error_ != 0) return FailErrno(error_, "write a view's metadata");
    return {};
  }

 private:
  static constexpr size_t kPieceBytes = size_t{1} << 20;

  void Flush() {
    for (std::string_view left = buffer_; !left.empty() && error_ == 0;) {
      const ssize_t done = ::write(fd_, left.data(), left.size());
      if (done > 0) left.remove_prefix(static_cast<size_t>(done));
      if (done == 0) error_ = EIO;
      if (done < 0 && errno != EINTR) error_ = errno;
    }
    buffer_.clear();
  }

  const int fd_;
  int error_ = 0;
  uint64_t position_ = 0;
  std::string buffer_;
};

ErofsImage::ErofsImage(const ImageAttributes& root, bool opaque) {
  nodes_.push_back({.attributes = root, .type = S_IFDIR, .opaque = opaque});
}

ErofsImage::Node ErofsImage::Add(Node parent, std::string_view name, Item item) {
  const auto node = static_cast<Node>(nodes_.size());
  item.parent = parent;
  nodes_.push_back(std::move(item));
  AddName(parent, name, node);
  return node;
}

void ErofsImage::AddName(Node parent, std::string_view name, Node node) {
  nodes_[parent].children.push_back({.name = std::string(name), .node = node});
}

ErofsImage::Node ErofsImage::AddDirectory(Node parent, std::string_view name, const ImageAttributes& attributes,
                                          bool opaque) {
  return Add(parent, name, {.attributes = attributes, .type = S_IFDIR, .opaque = opaque});
}

ErofsImage::Node ErofsImage::AddFile(Node parent, std::string_view name, const ImageAttributes& attributes,
                                     std::string_view redirect) {
  return Add(parent, name, {.attributes = attributes, .type = S_IFREG, .text = std::string(redirect)});
}

ErofsImage::Node ErofsImage::AddSymlink(Node parent, std::string_view name, const ImageAttributes& attributes,
                                        std::string_view target) {
  return Add(parent, name, {.attributes = attributes, .type = S_IFLNK, .text = std::string(target)});
}

// As overlayfs has it: a character device 0:0.
ErofsImage::Node ErofsImage::AddWhiteout(Node parent, std::string_view name) {
  return Add(parent, name, {.attributes = {.permissions = 0}, .type = S_IFCHR});
}

std::string ErofsImage::AttributeBytes(const Item& item) {
  std::string bytes;
  if (item.type == S_IFREG ? item.text.empty() : !item.opaque) return bytes;
  Append(bytes, XattrHeader());
  if (item.type == S_IFDIR) {
    AppendXattr(bytes, "overlay.opaque", "y");
  } else {
    AppendXattr(bytes, "overlay.metacopy", "");
    AppendXattr(bytes, "overlay.redirect", item.text);
  }
  return bytes;
}

// What a directory or a link holds; of a directory it is complete once all nodes are placed, and has its length before.
std::string ErofsImage::DataOf(Node node) const {
  const Item& item = nodes_[node];
  if (item.type == S_IFLNK) return item.text;
  if (item.type != S_IFDIR) return {};
  const auto nid = [this](Node other) { return nodes_[other].position / kSlotBytes; };
  std::vector<Name> names;
  names.reserve(item.children.size() + 2);
  names.push_back({".", nid(node), TypeByte(S_IFDIR)});
  names.push_back({"..", nid(item.parent), TypeByte(S_IFDIR)});
  for (const Child& child : item.children)
    names.push_back({child.name, nid(child.node), TypeByte(nodes_[child.node].type)});
  // Looked up by bisection, in the order of bytes.
  std::ranges::sort(names, {}, &Name::name);
  std::string data;
  for (std::span<const Name> left = names; !left.empty();) {
    left = left.subspan(AppendBlock(left, data));
    if (!left.empty()) data.resize(RoundUp(data.size(), kBlockBytes));
  }
  return data;
}

// An inode with its attributes and what follows them.
uint64_t ErofsImage::NodeBytes(const Item& item) {
  uint64_t bytes = sizeof(Inode) + AttributeBytes(item).size();
  if (item.type == S_IFREG) bytes += sizeof(uint32_t);  // the chunk's address
  if (item.inlined) bytes += item.data_bytes;
  return bytes;
}

// No inode crosses the border of a block, which also keeps what is inlined in one, as the format wants.
void ErofsImage::Place() {
  uint64_t at = kSuperOffset + sizeof(SuperBlock);
  for (Node node = 0; node < nodes_.size(); ++node) {
    Item& item = nodes_[node];
    item.data_bytes = DataOf(node).size();
    item.inlined = true;
    item.inlined = item.data_bytes > 0 && item.data_bytes < kBlockBytes && NodeBytes(item) <= kBlockBytes;
    const uint64_t bytes = NodeBytes(item);
    at = RoundUp(at, kSlotBytes);
    if (at / kBlockBytes != (at + bytes - 1) / kBlockBytes) at = RoundUp(at, kBlockBytes);
    item.position = at;
    at += bytes;
  }
  data_begin_ = RoundUp(at, kBlockBytes);
  end_ = data_begin_;
  for (Item& item : nodes_) {
    if (item.data_bytes == 0 || item.inlined) continue;
    item.data_block = end_ / kBlockBytes;
    end_ += RoundUp(item.data_bytes, kBlockBytes);
  }
}

std::string ErofsImage::InodeBytes(Node node) const {
  const Item& item = nodes_[node];
  const std::string attributes = AttributeBytes(item);
  Inode inode;
  uint16_t layout = item.inlined ? kInline : kPlain;
  if (item.type == S_IFREG) layout = kChunked;
  inode.format = static_cast<uint16_t>(1 | (layout << 1));
  if (!attributes.empty()) {
    inode.xattr_count = static_cast<uint16_t>((attributes.size() - sizeof(XattrHeader)) / sizeof(uint32_t) + 1);
  }
  inode.mode = static_cast<uint16_t>(item.type | (item.attributes.permissions & 07777));
  inode.size = item.type == S_IFREG ? item.attributes.size : item.data_bytes;
  inode.data = static_cast<uint32_t>(item.data_block);
  if (item.type == S_IFREG) inode.data = ChunkFormat(item.attributes.size);
  inode.number = node + 1;
  inode.uid = item.attributes.uid;
  inode.gid = item.attributes.gid;
  int64_t seconds = item.attributes.mtime_ns / kNanosPerSecond;
  int64_t nanos = item.attributes.mtime_ns % kNanosPerSecond;
  if (nanos < 0) {
    --seconds;
    nanos += kNanosPerSecond;
  }
  inode.mtime = static_cast<uint64_t>(seconds);
  inode.mtime_nsec = static_cast<uint32_t>(nanos);
  inode.nlink = std::max<uint32_t>(1, item.attributes.nlink);
  std::string bytes;
  Append(bytes, inode);
  bytes += attributes;
  if (item.type == S_IFREG) Append(bytes, kNoBlock);
  if (item.inlined) bytes += DataOf(node);
  return bytes;
}

Result<uint64_t> ErofsImage::Write(int fd) {
  Place();
  if (end_ / kBlockBytes >= kNoBlock) return Fail(Code::kOutOfRange, "a view's metadata would exceed 16 TiB");
  SuperBlock super;
  super.root_nid = static_cast<uint16_t>(nodes_[kRoot].position / kSlotBytes);
  super.inodes = nodes_.size();
  super.build_time = static_cast<uint64_t>(std::time(nullptr));
  super.blocks = static_cast<uint32_t>(end_ / kBlockBytes);
  Output output(fd);
  output.SkipTo(kSuperOffset);
  std::string bytes;
  Append(bytes, super);
  output.Add(bytes);
  for (Node node = 0; node < nodes_.size(); ++node) {
    output.SkipTo(nodes_[node].position);
    output.Add(InodeBytes(node));
  }
  for (Node node = 0; node < nodes_.size(); ++node) {
    const Item& item = nodes_[node];
    if (item.data_bytes == 0 || item.inlined) continue;
    output.SkipTo(item.data_block * kBlockBytes);
    output.Add(DataOf(node));
  }
  output.SkipTo(end_);
  MLCACHE_RETURN_IF_ERROR(output.Finish());
  return end_;
}

}  // namespace mlcache::seal
