#include "shim/file_system.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

#include "shim/answers.h"

namespace mlcache::shim {
namespace {

constexpr uint32_t kReadaheadBytes = 1U << 20;
constexpr uint32_t kMaxBackground = 128;
constexpr std::string_view kXattrPrefix = "user.mlcache.";
constexpr size_t kKernelDirent = 24;  // struct fuse_dirent without its name

thread_local FileSystem* file_system = nullptr;
thread_local RequestSink* sink = nullptr;

Request Make(fuse_req_t kernel, ring::Op op, fuse_ino_t node) {
  Request request;
  request.kernel = kernel;
  request.submission.op = op;
  request.node = node;
  request.submission.node = OpenTable::BaseOf(node);
  const fuse_ctx& caller = *fuse_req_ctx(kernel);
  request.submission.uid = caller.uid;
  request.submission.gid = caller.gid;
  request.submission.pid = static_cast<uint32_t>(caller.pid);
  return request;
}

// False when the name is longer than any file's.
bool SetName(Request& request, std::string_view name) {
  if (name.size() > ring::kMaxNameBytes) return false;
  std::ranges::copy(name, request.submission.name.begin());
  request.submission.name_length = static_cast<uint16_t>(name.size());
  return true;
}

void Init(void* /*userdata*/, fuse_conn_info* connection) {
  // AUTO_INVAL_DATA would drop pages when attributes look changed; here a nodeid's bytes never change.
  connection->want &= ~static_cast<unsigned>(FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE |
                                             FUSE_CAP_SPLICE_MOVE | FUSE_CAP_WRITEBACK_CACHE);
  connection->want |=
      connection->capable & static_cast<unsigned>(FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO |
                                                  FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO |
                                                  FUSE_CAP_CACHE_SYMLINKS | FUSE_CAP_EXPLICIT_INVAL_DATA);
  connection->max_read = ring::kMaxReadBytes;
  // More than the kernel offers, which is what its device had before the keeper raised that; it takes the smaller one.
  connection->max_readahead = kReadaheadBytes;
  connection->max_background = kMaxBackground;
}

Request MakeStats(fuse_req_t kernel, fuse_ino_t node, StatsUse use) {
  Request request = Make(kernel, ring::Op::kStats, node);
  request.submission.node = ring::kRootNode;
  request.submission.length = ring::kMaxReadBytes;
  request.stats = use;
  return request;
}

void ReplyControlDirectory(fuse_req_t kernel) {
  fuse_entry_param entry{};
  entry.ino = kControlDirectoryNode;
  entry.attr = file_system->control_files().Attributes(kControlDirectoryNode).value_or(entry.attr);
  entry.attr_timeout = entry.entry_timeout = kControlTimeoutSeconds;
  fuse_reply_entry(kernel, &entry);
}

void Lookup(fuse_req_t kernel, fuse_ino_t parent, const char* name) {
  switch (ControlFiles::Lookup(parent, name)) {
    case ControlFiles::Name::kDirectory:
      return ReplyControlDirectory(kernel);
    case ControlFiles::Name::kStats:
      return sink->Start(MakeStats(kernel, parent, StatsUse::kLookup));
    case ControlFiles::Name::kNone:
      break;
  }
  if (IsControlNode(parent)) {
    fuse_reply_err(kernel, ENOENT);
    return;
  }
  Request request = Make(kernel, ring::Op::kLookup, parent);
  if (!SetName(request, name)) {
    fuse_reply_err(kernel, ENAMETOOLONG);
    return;
  }
  sink->Start(request);
}

void HintForget(fuse_ino_t node) {
  if (IsControlNode(node)) return;
  ring::Submission hint;
  hint.op = ring::Op::kForget;
  hint.node = OpenTable::BaseOf(node);
  sink->Hint(hint);
}

void Forget(fuse_req_t kernel, fuse_ino_t node, uint64_t /*lookups*/) {
  HintForget(node);
  fuse_reply_none(kernel);
}

void ForgetMany(fuse_req_t kernel, size_t count, fuse_forget_data* forgets) {
  for (size_t i = 0; i < count; ++i) HintForget(forgets[i].ino);
  fuse_reply_none(kernel);
}

void GetAttributes(fuse_req_t kernel, fuse_ino_t node, fuse_file_info* /*file*/) {
  if (!IsControlNode(node)) return sink->Start(Make(kernel, ring::Op::kGetAttr, node));
  const std::optional<struct stat> attributes = file_system->control_files().Attributes(node);
  if (attributes.has_value()) {
    fuse_reply_attr(kernel, &*attributes, kControlTimeoutSeconds);
  } else if (ControlFiles::IsStats(node)) {
    sink->Start(MakeStats(kernel, node, StatsUse::kAttributes));
  } else {
    fuse_reply_err(kernel, ESTALE);
  }
}

void ReadLink(fuse_req_t kernel, fuse_ino_t node) { sink->Start(Make(kernel, ring::Op::kReadLink, node)); }

void Open(fuse_req_t kernel, fuse_ino_t node, fuse_file_info* file) {
  if ((file->flags & O_ACCMODE) != O_RDONLY || (file->flags & O_TRUNC) != 0) {
    fuse_reply_err(kernel, EROFS);
    return;
  }
  // Said once, this keeps all further opens in the kernel.
  if (file_system->serving().EndsOpens()) {
    fuse_reply_err(kernel, ENOSYS);
    return;
  }
  if (IsControlNode(node)) {
    file->fh = 0;
    file->noflush = 1;
    file->keep_cache = 1;
    fuse_reply_open(kernel, file);
    return;
  }
  Request request = Make(kernel, ring::Op::kOpen, node);
  request.submission.flags = static_cast<uint32_t>(file->flags);
  sink->Start(request);
}

void HintRelease(ring::Op op, fuse_ino_t node, uint64_t handle) {
  ring::Submission hint;
  hint.op = op;
  hint.node = node;
  hint.handle = handle;
  sink->Hint(hint);
}

void Release(fuse_req_t kernel, fuse_ino_t node, fuse_file_info* file) {
  if (!IsControlNode(node)) {
    const OpenTable::Released released = file_system->opens().Release(file->fh);
    if (released.handle != 0) HintRelease(ring::Op::kRelease, OpenTable::BaseOf(node), released.handle);
    if (!released.closing.empty()) sink->CloseBackings(released.closing);
  }
  fuse_reply_err(kernel, 0);
}

void ReadStats(fuse_req_t kernel, fuse_ino_t node, size_t length, off_t offset) {
  const auto position = static_cast<uint64_t>(offset);
  if (const auto text = file_system->control_files().Read(node, position, length)) {
    fuse_reply_buf(kernel, text->data(), text->size());
    return;
  }
  Request request = MakeStats(kernel, node, StatsUse::kRead);
  request.room = length;
  request.position = position;
  sink->Start(request);
}

void Read(fuse_req_t kernel, fuse_ino_t node, size_t length, off_t offset, fuse_file_info* file) {
  if (IsControlNode(node)) return ReadStats(kernel, node, length, offset);
  Request request = Make(kernel, ring::Op::kRead, node);
  request.submission.handle = file_system->opens().HandleOf(file->fh);
  request.submission.offset = static_cast<uint64_t>(offset);
  request.submission.length = static_cast<uint32_t>(std::min<size_t>(length, ring::kMaxReadBytes));
  request.room = request.submission.length;
  sink->Start(request);
}

void OpenDirectory(fuse_req_t kernel, fuse_ino_t node, fuse_file_info* file) {
  if (IsControlNode(node)) {
    fuse_reply_open(kernel, file);
    return;
  }
  Request request = Make(kernel, ring::Op::kOpenDir, node);
  sink->Start(request);
}

void ReleaseDirectory(fuse_req_t kernel, fuse_ino_t node, fuse_file_info* file) {
  if (!IsControlNode(node)) HintRelease(ring::Op::kReleaseDir, node, file->fh);
  fuse_reply_err(kernel, 0);
}

void StartReadDirectory(fuse_req_t kernel, fuse_ino_t node, size_t room, off_t offset, uint64_t handle, bool plus) {
  const auto position = static_cast<uint64_t>(offset);
  if (IsControlNode(node)) return AnswerControlDirectory(kernel, position, room, plus);
  Request request = Make(kernel, ring::Op::kReadDir, node);
  request.plus = plus;
  request.submission.flags = plus ? 0 : ring::kNamesOnly;
  request.room = room;
  request.position = position;
  request.submission.handle = handle;
  request.submission.offset = position <= 2 ? 0 : position;
  // The daemon's records carry attributes, so they are longer than the kernel's plain ones.
  const size_t wanted = plus ? room : room * (sizeof(ring::DirEntry) / kKernelDirent);
  request.submission.length = static_cast<uint32_t>(std::min<size_t>(wanted, ring::kMaxReadBytes));
  sink->Start(request);
}

void ReadDirectory(fuse_req_t kernel, fuse_ino_t node, size_t room, off_t offset, fuse_file_info* file) {
  StartReadDirectory(kernel, node, room, offset, file->fh, false);
}

void ReadDirectoryPlus(fuse_req_t kernel, fuse_ino_t node, size_t room, off_t offset, fuse_file_info* file) {
  StartReadDirectory(kernel, node, room, offset, file->fh, true);
}

void StatFs(fuse_req_t kernel, fuse_ino_t /*node*/) { sink->Start(Make(kernel, ring::Op::kStatFs, ring::kRootNode)); }

// Only our own attributes exist. An overlay above us must never be told any trusted.overlay.*, nor the kernel any
// security.*, whatever the store holds.
void GetXattr(fuse_req_t kernel, fuse_ino_t node, const char* name, size_t room) {
  Request request = Make(kernel, ring::Op::kGetXattr, node);
  if (IsControlNode(node) || !std::string_view(name).starts_with(kXattrPrefix) || !SetName(request, name)) {
    fuse_reply_err(kernel, ENODATA);
    return;
  }
  request.room = room;
  request.submission.length = 64 * 1024;  // the kernel's limit; whether it fits is decided here
  sink->Start(request);
}

void ListXattr(fuse_req_t kernel, fuse_ino_t node, size_t room) {
  if (IsControlNode(node)) {
    if (room == 0) {
      fuse_reply_xattr(kernel, 0);
    } else {
      fuse_reply_buf(kernel, nullptr, 0);
    }
    return;
  }
  Request request = Make(kernel, ring::Op::kListXattr, node);
  request.room = room;
  request.submission.length = 64 * 1024;
  sink->Start(request);
}

void Sync(fuse_req_t kernel, fuse_ino_t /*node*/, int /*data_only*/, fuse_file_info* /*file*/) {
  fuse_reply_err(kernel, 0);
}

// Whatever would change something. The kernel refuses most of it itself on a read-only mount, until root remounts it.
template <typename... Arguments>
void Refuse(fuse_req_t kernel, Arguments... /*ignored*/) {
  fuse_reply_err(kernel, EROFS);
}

fuse_lowlevel_ops MakeOperations() {
  fuse_lowlevel_ops operations{};
  operations.init = &Init;
  operations.lookup = &Lookup;
  operations.forget = &Forget;
  operations.forget_multi = &ForgetMany;
  operations.getattr = &GetAttributes;
  operations.readlink = &ReadLink;
  operations.open = &Open;
  operations.read = &Read;
  operations.release = &Release;
  // No flush: the first one is answered ENOSYS, after which the kernel closes files without asking. Nothing is written.
  operations.fsync = &Sync;
  operations.opendir = &OpenDirectory;
  operations.readdir = &ReadDirectory;
  operations.readdirplus = &ReadDirectoryPlus;
  operations.releasedir = &ReleaseDirectory;
  operations.fsyncdir = &Sync;
  operations.statfs = &StatFs;
  operations.getxattr = &GetXattr;
  operations.listxattr = &ListXattr;
  operations.setattr = &Refuse;
  operations.mknod = &Refuse;
  operations.mkdir = &Refuse;
  operations.unlink = &Refuse;
  operations.rmdir = &Refuse;
  operations.symlink = &Refuse;
  operations.rename = &Refuse;
  operations.link = &Refuse;
  operations.write = &Refuse;
  operations.create = &Refuse;
  operations.setxattr = &Refuse;
  operations.removexattr = &Refuse;
  operations.fallocate = &Refuse;
  return operations;
}

}  // namespace

const fuse_lowlevel_ops& FileSystem::Operations() {
  static const fuse_lowlevel_ops operations = MakeOperations();
  return operations;
}

void FileSystem::ServeOnThisThread(RequestSink* requests) {
  file_system = this;
  sink = requests;
}

}  // namespace mlcache::shim
