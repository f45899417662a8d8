#include "shim/answers.h"

#include <glog/logging.h>
#include <limits.h>
#include <linux/fuse.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "shim/errno.h"

namespace mlcache::shim {
namespace {

constexpr double kLongestTimeoutSeconds = 1e8;  // about three years
constexpr uint64_t kUnknownInode = 0xffffffff;

double Seconds(uint64_t nanos) { return std::min(static_cast<double>(nanos) * 1e-9, kLongestTimeoutSeconds); }

timespec Time(int64_t nanos) {
  constexpr int64_t kSecond = 1'000'000'000;
  int64_t seconds = nanos / kSecond;
  int64_t rest = nanos % kSecond;
  if (rest < 0) {
    rest += kSecond;
    --seconds;
  }
  return {seconds, rest};
}

// A nodeid the daemon may give out; anything else would let its file pass for the root or for one of ours.
bool IsForeign(uint64_t node) { return OpenTable::HasAlias(node) && OpenTable::BaseOf(node) == node; }

// With node 0 the kernel takes a READDIRPLUS record for a name alone, and looks it up when it needs more.
bool IsPlusNode(uint64_t node) { return node == 0 || IsForeign(node); }

void Malformed(const Request& request, std::string_view what) {
  LOG_EVERY_N(ERROR, 100) << "the daemon's answer to operation " << static_cast<uint32_t>(request.submission.op)
                          << " on node " << request.submission.node << " is malformed: " << what;
  fuse_reply_err(request.kernel, EIO);
}

// As EntryOf, with the nodeid that the kernel is to know a file by now.
fuse_entry_param ShownEntryOf(const ring::NodeAttributes& attributes, const AnswerContext& context) {
  fuse_entry_param entry = EntryOf(attributes);
  if (S_ISREG(attributes.mode) && attributes.node != 0) {
    entry.ino = context.opens.NodeFor(attributes.node);
    context.serving.Saw(attributes.size);
  }
  return entry;
}

void AnswerLookup(const Request& request, const ring::Completion& completion, const AnswerContext& context) {
  if (!IsForeign(completion.attributes.node)) return Malformed(request, "nodeid out of range");
  const fuse_entry_param entry = ShownEntryOf(completion.attributes, context);
  fuse_reply_entry(request.kernel, &entry);
}

// An entry with nodeid 0: the kernel remembers for so long that there is none.
void AnswerNoEntry(const Request& request, const ring::Completion& completion) {
  fuse_entry_param entry{};
  entry.entry_timeout = Seconds(completion.attributes.entry_timeout_ns);
  fuse_reply_entry(request.kernel, &entry);
}

void AnswerOpenDirectory(const Request& request, const ring::Completion& completion) {
  fuse_file_info file{};
  file.fh = completion.handle;
  file.cache_readdir = 1;
  file.keep_cache = (completion.flags & ring::kListingUnchanged) != 0 ? 1 : 0;
  fuse_reply_open(request.kernel, &file);
}

void AnswerBytes(const Request& request, std::span<const std::byte> bytes) {
  const size_t length = std::min<uint64_t>(bytes.size(), request.room);
  fuse_reply_buf(request.kernel, reinterpret_cast<const char*>(bytes.data()), length);
}

void AnswerLink(const Request& request, std::span<const std::byte> bytes) {
  const std::string target(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (target.empty() || target.size() >= PATH_MAX || target.contains('\0')) return Malformed(request, "link target");
  fuse_reply_readlink(request.kernel, target.c_str());
}

void AnswerXattr(const Request& request, std::span<const std::byte> bytes) {
  if (request.room == 0) {
    fuse_reply_xattr(request.kernel, bytes.size());
  } else if (bytes.size() > request.room) {
    fuse_reply_err(request.kernel, ERANGE);
  } else {
    AnswerBytes(request, bytes);
  }
}

void AnswerStatFs(const Request& request, std::span<const std::byte> bytes) {
  ring::StatFsReply reply;
  if (bytes.size() < sizeof(reply)) return Malformed(request, "short statfs");
  std::memcpy(&reply, bytes.data(), sizeof(reply));
  struct statvfs space{};
  space.f_bsize = space.f_frsize = reply.block_bytes;
  space.f_blocks = reply.blocks;
  space.f_bfree = space.f_bavail = reply.blocks_free;
  space.f_files = reply.files;
  space.f_ffree = space.f_favail = reply.files_free;
  space.f_namemax = ring::kMaxNameBytes;
  fuse_reply_statfs(request.kernel, &space);
}

void AnswerStats(const Request& request, std::span<const std::byte> bytes, ControlFiles& files) {
  std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  uint64_t node = request.node;
  if (request.stats == StatsUse::kLookup) {
    node = files.Add(std::move(text));
  } else {
    files.Restore(node, std::move(text));
  }
  if (request.stats == StatsUse::kRead) {
    const std::string part = files.Read(node, request.position, request.room).value_or("");
    fuse_reply_buf(request.kernel, part.data(), part.size());
    return;
  }
  fuse_entry_param entry{};
  entry.ino = node;
  entry.attr = files.Attributes(node).value_or(entry.attr);
  entry.attr_timeout = kControlTimeoutSeconds;  // the text of this node stays; the next LOOKUP makes another
  if (request.stats == StatsUse::kLookup) {
    fuse_reply_entry(request.kernel, &entry);
  } else {
    fuse_reply_attr(request.kernel, &entry.attr, entry.attr_timeout);
  }
}

// Fills the kernel's buffer with directory entries until one does not fit.
class DirectoryWriter {
 public:
  DirectoryWriter(fuse_req_t kernel, uint64_t room, bool plus) : kernel_(kernel), plus_(plus), buffer_(room) {}

  // False when there was no room left.
  bool Add(const char* name, const fuse_entry_param& entry, uint64_t next) {
    const size_t left = buffer_.size() - used_;
    char* const at = buffer_.data() + used_;
    const size_t needed = plus_ ? fuse_add_direntry_plus(kernel_, at, left, name, &entry, static_cast<off_t>(next))
                                : fuse_add_direntry(kernel_, at, left, name, &entry.attr, static_cast<off_t>(next));
    if (needed > left) return false;
    used_ += needed;
    return true;
  }

  // `.` and `..`, as far as they lie behind `position`. Nodeid 0: the kernel knows them already.
  bool AddDots(uint64_t position) {
    fuse_entry_param dot{};
    dot.attr.st_mode = S_IFDIR;
    dot.attr.st_ino = kUnknownInode;
    return (position > 0 || Add(".", dot, 1)) && (position > 1 || Add("..", dot, 2));
  }

  void Send() { fuse_reply_buf(kernel_, buffer_.data(), used_); }

 private:
  fuse_req_t kernel_;
  const bool plus_;
  std::vector<char> buffer_;
  size_t used_ = 0;
};

void AnswerDirectory(const Request& request, std::span<const std::byte> bytes, const AnswerContext& context) {
  DirectoryWriter writer(request.kernel, std::min<uint64_t>(request.room, ring::kMaxReadBytes), request.plus);
  if (!writer.AddDots(request.position)) return writer.Send();
  while (bytes.size() >= sizeof(ring::DirEntry)) {
    ring::DirEntry record;
    std::memcpy(&record, bytes.data(), sizeof(record));
    const size_t padded = (record.name_length + size_t{7}) & ~size_t{7};
    if (record.name_length > ring::kMaxNameBytes || bytes.size() < sizeof(record) + record.name_length) break;
    const std::string name(reinterpret_cast<const char*>(bytes.data()) + sizeof(record), record.name_length);
    bytes = bytes.subspan(std::min(bytes.size(), sizeof(record) + padded));
    const bool is_ours = request.submission.node == ring::kRootNode && name == kControlDirectoryName;
    // A name the kernel would take the whole listing amiss for.
    const bool is_odd = name.empty() || name == "." || name == ".." || name.contains('/') || name.contains('\0');
    if (is_ours || is_odd || (request.plus && !IsPlusNode(record.attributes.node)) || record.next_cookie <= 2) continue;
    const fuse_entry_param entry = request.plus ? ShownEntryOf(record.attributes, context) : EntryOf(record.attributes);
    if (!writer.Add(name.c_str(), entry, record.next_cookie)) break;
  }
  writer.Send();
}

}  // namespace

fuse_entry_param EntryOf(const ring::NodeAttributes& attributes) {
  fuse_entry_param entry{};
  entry.ino = attributes.node;
  entry.entry_timeout = Seconds(attributes.entry_timeout_ns);
  entry.attr_timeout = Seconds(attributes.attr_timeout_ns);
  struct stat& attr = entry.attr;
  attr.st_ino = attributes.inode;
  attr.st_mode = attributes.mode;
  attr.st_nlink = attributes.nlink;
  attr.st_uid = attributes.uid;
  attr.st_gid = attributes.gid;
  attr.st_size = static_cast<off_t>(attributes.size);
  attr.st_blocks = static_cast<blkcnt_t>(attributes.size / 512 + (attributes.size % 512 != 0 ? 1 : 0));
  attr.st_atim = Time(attributes.atime_ns);
  attr.st_mtim = Time(attributes.mtime_ns);
  attr.st_ctim = Time(attributes.ctime_ns);
  return entry;
}

// Of stats only the name: nodeid 0 makes the kernel look it up when it is wanted.
void AnswerControlDirectory(fuse_req_t kernel, uint64_t position, uint64_t room, bool plus) {
  DirectoryWriter writer(kernel, std::min<uint64_t>(room, ring::kMaxReadBytes), plus);
  if (writer.AddDots(position) && position < 3) {
    fuse_entry_param entry{};
    entry.attr.st_ino = kStatsNode;
    entry.attr.st_mode = S_IFREG | 0444;
    writer.Add(std::string(kStatsName).c_str(), entry, 3);
  }
  writer.Send();
}

bool ReplyOpened(fuse_req_t kernel, uint64_t unique, int device, uint64_t file_handle, int32_t backing_id) {
  if (backing_id == 0) {
    fuse_file_info file{};
    file.fh = file_handle;
    file.keep_cache = 1;  // a nodeid names one version, so what the kernel holds of it stays true
    file.noflush = 1;     // nothing is written, so close(2) need not ask
    return fuse_reply_open(kernel, &file) != -ENOENT;
  }
  // libfuse before 3.17 cannot say this; the layout is the kernel's, whatever libfuse there is (linux/fuse.h, 7.40).
  struct {
    fuse_out_header header;
    uint64_t file_handle;
    uint32_t open_flags;
    int32_t backing_id;
  } reply{};
  static_assert(sizeof(reply) == sizeof(fuse_out_header) + sizeof(fuse_open_out));
  constexpr uint32_t kPassthrough = 1U << 7;  // FOPEN_PASSTHROUGH
  constexpr uint32_t kNoFlush = 1U << 5;      // FOPEN_NOFLUSH
  reply.header = {.len = sizeof(reply), .error = 0, .unique = unique};
  reply.file_handle = file_handle;
  reply.open_flags = kPassthrough | kNoFlush;
  reply.backing_id = backing_id;
  const bool taken = ::write(device, &reply, sizeof(reply)) == sizeof(reply) || errno != ENOENT;
  fuse_reply_none(kernel);  // libfuse lets go of it
  return taken;
}

void Answer(const Request& request, const ring::Completion& completion, std::span<const std::byte> bytes,
            const AnswerContext& context) {
  const ring::Op op = request.submission.op;
  if (const std::optional<Code> code = CodeOf(completion.code); code.has_value()) {
    if (op == ring::Op::kLookup && *code == Code::kNotFound) return AnswerNoEntry(request, completion);
    fuse_reply_err(request.kernel, ErrnoFor(op, *code));
    return;
  }
  if (bytes.size() != completion.length) return Malformed(request, "bytes outside the arena");
  switch (op) {
    case ring::Op::kLookup:
      return AnswerLookup(request, completion, context);
    case ring::Op::kGetAttr: {
      const fuse_entry_param entry = EntryOf(completion.attributes);
      fuse_reply_attr(request.kernel, &entry.attr, entry.attr_timeout);
      return;
    }
    case ring::Op::kReadLink:
      return AnswerLink(request, bytes);
    case ring::Op::kOpenDir:
      return AnswerOpenDirectory(request, completion);
    case ring::Op::kRead:
      return AnswerBytes(request, bytes);
    case ring::Op::kReadDir:
      return AnswerDirectory(request, bytes, context);
    case ring::Op::kStatFs:
      return AnswerStatFs(request, bytes);
    case ring::Op::kGetXattr:
    case ring::Op::kListXattr:
      return AnswerXattr(request, bytes);
    case ring::Op::kStats:
      return AnswerStats(request, bytes, context.control_files);
    default:
      return Malformed(request, "an operation without completion");
  }
}

}  // namespace mlcache::shim
