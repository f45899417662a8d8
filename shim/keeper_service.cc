#include "shim/keeper_service.h"

#include <fcntl.h>
#include <glog/logging.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cerrno>
#include <string>
#include <string_view>
#include <utility>

#include "common/ring/socket.h"

#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#endif

namespace mlcache::shim {
namespace {

// linux/fuse.h of Linux 6.9; older headers lack them.
struct FuseBackingMap {
  int32_t fd;
  uint32_t flags;
  uint64_t padding;
};
constexpr unsigned long kBackingOpen = _IOW(229, 1, FuseBackingMap);
constexpr unsigned long kBackingClose = _IOW(229, 2, uint32_t);

constexpr std::string_view kObjects = "/objects";

}  // namespace

Result<UniqueFd> CloneReadOnly(const keeper::CloneReadOnly& wanted) {
  const std::string& path = wanted.path();
  if (!path.ends_with(kObjects)) return Fail(Code::kInvalidArgument, path + " is no directory of object files");
  UniqueFd clone(::open_tree(AT_FDCWD, path.c_str(), OPEN_TREE_CLONE | O_CLOEXEC | AT_SYMLINK_NOFOLLOW));
  if (!clone.valid()) return FailErrno(errno, "clone the mount of " + path);
  struct stat found{};
  if (::fstat(clone.get(), &found) != 0) return FailErrno(errno, "stat " + path);
  if (!S_ISDIR(found.st_mode) || found.st_dev != wanted.device() || found.st_ino != wanted.inode()) {
    return Fail(Code::kFailedPrecondition,
                path + " is another directory here than for mlcached: do both see the same mounts?");
  }
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
  if (::mount_setattr(clone.get(), "", AT_EMPTY_PATH, &attributes, sizeof(attributes)) != 0) {
    return FailErrno(errno, "make the clone of " + path + " read-only");
  }
  return clone;
}

bool KeeperService::Serve(int socket) {
  Result<ring::Message> message = ring::Receive(socket, 0);
  if (!message) return message.error().code() == Code::kDeadlineExceeded;
  keeper::Request request;
  if (!request.ParseFromString(message->bytes)) return false;
  if (request.has_backing_close()) {
    CloseBacking(request.backing_close());
    return true;
  }
  UniqueFd out;
  const keeper::Reply reply = Answer(request, std::move(message->descriptors), &out);
  std::vector<int> descriptors;
  if (out.valid()) descriptors.push_back(out.get());
  return ring::Send(socket, reply.SerializeAsString(), descriptors).has_value();
}

keeper::Reply KeeperService::Answer(const keeper::Request& request, std::vector<UniqueFd> descriptors, UniqueFd* out) {
  keeper::Reply reply;
  reply.set_number(request.number());
  const auto refuse = [&reply](const Error& error) {
    reply.set_error(error.code() == Code::kPermissionDenied ? EPERM : EINVAL);
    reply.set_message(error.message());
  };
  if (request.has_backing_open()) {
    const Result<int> id = OpenBacking(request.backing_open(), descriptors);
    if (id.has_value()) {
      reply.set_backing_id(*id);
    } else {
      refuse(id.error());
    }
  } else if (request.has_clone_read_only()) {
    Result<UniqueFd> clone = CloneReadOnly(request.clone_read_only());
    if (clone.has_value()) {
      *out = *std::move(clone);
    } else {
      refuse(clone.error());
    }
  } else if (request.has_show_view()) {
    const Status begun = views_.Show(request.show_view(), std::move(descriptors));
    if (!begun.has_value()) refuse(begun.error());
  } else if (request.has_withdraw_view()) {
    const Status withdrawn = views_.Withdraw();
    if (!withdrawn.has_value()) refuse(withdrawn.error());
  } else {
    refuse(Error(Code::kUnimplemented, "the keeper knows no such request"));
  }
  return reply;
}

Result<int> KeeperService::OpenBacking(const keeper::BackingOpen& wanted, const std::vector<UniqueFd>& descriptors) {
  if (wanted.record() >= kMaxBackings || wanted.node() == 0 || descriptors.size() != 1) {
    return Fail(Code::kInvalidArgument, "register a backing file: no such record, or no descriptor");
  }
  const int file = descriptors[0].get();
  const int flags = ::fcntl(file, F_GETFL);
  if (flags < 0 || (flags & O_ACCMODE) != O_RDONLY) {
    return Fail(Code::kInvalidArgument, "register a backing file: it is not opened for reading alone");
  }
  BackingRecord& record = state_.backings[wanted.record()];
  if (record.id != 0) return Fail(Code::kInvalidArgument, "register a backing file: the record is taken");
  const FuseBackingMap map{.fd = file, .flags = 0, .padding = 0};
  const int id = ::ioctl(device_, kBackingOpen, &map);
  if (id <= 0) return FailErrno(errno, "register a backing file with the kernel");
  record.node = wanted.node();
  record.id.store(id, std::memory_order_release);
  return id;
}

void KeeperService::CloseBacking(const keeper::BackingClose& wanted) {
  if (wanted.record() >= kMaxBackings) return;
  BackingRecord& record = state_.backings[wanted.record()];
  const auto id = static_cast<uint32_t>(record.id.exchange(0));
  if (id != 0 && ::ioctl(device_, kBackingClose, &id) != 0) PLOG(WARNING) << "end the registration of a backing file";
  record.node.store(0, std::memory_order_release);
}

}  // namespace mlcache::shim
