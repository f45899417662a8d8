#include "shim/view.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <fstream>
#include <utility>
#include <vector>

#include "common/ring/socket.h"
#include "shim/privileges.h"

namespace mlcache::shim {
namespace {

// linux/mount.h of Linux 6.5; older headers lack it.
constexpr unsigned kMoveBeneath = 0x200;
constexpr std::string_view kBuilt = "ok";
constexpr int kEndMillis = 1000;  // of a process that has nothing left to do
constexpr char kTooOld[] = "; a view needs Linux 6.5 (a mount moved beneath another)";

// What is known of a mount without asking its file system.
Result<struct statx> Look(int fd) {
  struct statx info{};
  const unsigned mask = STATX_BASIC_STATS | STATX_MNT_ID;
  if (::statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, mask, &info) != 0)
    return FailErrno(errno, "statx of a mount");
  if ((info.stx_mask & STATX_MNT_ID) == 0) return Fail(Code::kUnimplemented, "the kernel tells no mount ids");
  return info;
}

Status MoveBeneath(int mount, const std::string& mountpoint) {
  if (::move_mount(mount, "", AT_FDCWD, mountpoint.c_str(), MOVE_MOUNT_F_EMPTY_PATH | kMoveBeneath) == 0) return {};
  const Error error = ErrnoError(errno, "put a mount beneath " + mountpoint);
  return Fail(error.code(), error.message() + (errno == EINVAL ? kTooOld : ""));
}

Result<UniqueFd> Build(const ViewParts& parts, const ViewOptions& options, const std::string& device) {
  UniqueFd fuse;
  if (parts.over_mount) {
    MLCACHE_ASSIGN_OR_RETURN(fuse, FuseRoot(options.mountpoint, device));
  }
  return MountView(parts, options, fuse.get());
}

// The very mount whose root `root` is, wherever it stands.
int Detach(int root) { return ::umount2(("/proc/self/fd/" + std::to_string(root)).c_str(), MNT_DETACH); }

}  // namespace

Result<std::unique_ptr<ViewBuild>> ViewBuild::Start(const ViewParts& parts, const ViewOptions& options,
                                                    const std::string& device) {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0) return FailErrno(errno, "socketpair");
  UniqueFd ours(ends[0]);
  const UniqueFd theirs(ends[1]);
  const pid_t keeper = ::getpid();
  const pid_t child = ::fork();
  if (child < 0) return FailErrno(errno, "start a process that mounts a view");
  if (child == 0) {
    ::prctl(PR_SET_NAME, "mlcache-view", 0, 0, 0);
    ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (::getppid() != keeper) ::_exit(1);
    // It may come to wait for the FUSE server beyond any signal: a copy of /dev/fuse would then keep the connection
    // alive that its wait depends on, whoever else ends.
    std::vector<int> kept = {theirs.get(), parts.metadata.get()};
    for (const ViewLayer& layer : parts.layers) kept.push_back(layer.directory.get());
    CloseAllBut(std::move(kept));
    Result<UniqueFd> mount = Build(parts, options, device);
    const std::string words(mount.has_value() ? kBuilt : mount.error().message().substr(0, 4096));
    std::vector<int> descriptors;
    if (mount.has_value()) descriptors.push_back(mount->get());
    const Status sent = ring::Send(theirs.get(), words, descriptors);
    if (mount.has_value()) mount->Reset();  // before the socket: see Take
    ::_exit(sent.has_value() ? 0 : 1);
  }
  return std::unique_ptr<ViewBuild>(new ViewBuild(child, std::move(ours)));
}

ViewBuild::~ViewBuild() {
  // Reaped with the keeper's other children, for it may be held by the kernel for a while.
  ::kill(child_, SIGKILL);
  ::waitpid(child_, nullptr, WNOHANG);
}

std::optional<Result<UniqueFd>> ViewBuild::Take() {
  Result<ring::Message> message = ring::Receive(socket_.get(), 0);
  if (!message.has_value()) {
    if (message.error().code() == Code::kDeadlineExceeded) return std::nullopt;
    return Fail(Code::kInternal, "the process that mounts a view died");
  }
  if (message->bytes == kBuilt && message->descriptors.size() == 1) {
    // A user may unmount it at once, which would be refused while the child, too, has it open.
    pollfd ended{.fd = socket_.get(), .events = 0, .revents = 0};
    ::poll(&ended, 1, kEndMillis);
    return std::move(message->descriptors.front());
  }
  return Fail(Code::kUnimplemented, message->bytes);
}

Result<UniqueFd> FuseRoot(const std::string& mountpoint, const std::string& device) {
  UniqueFd root(::open(mountpoint.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!root.valid()) return FailErrno(errno, mountpoint);
  MLCACHE_ASSIGN_OR_RETURN(const struct statx info, Look(root.get()));
  if (std::to_string(info.stx_dev_major) + ":" + std::to_string(info.stx_dev_minor) == device) return root;
  return Fail(Code::kFailedPrecondition, "something else is mounted over " + mountpoint);
}

Result<std::unique_ptr<SealedView>> SealedView::Show(uint64_t id, UniqueFd mount, UniqueFd fuse,
                                                     const std::string& mountpoint) {
  MLCACHE_ASSIGN_OR_RETURN(const struct statx info, Look(mount.get()));
  UniqueFd clone(::open_tree(fuse.get(), "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
  if (!clone.valid()) return FailErrno(errno, "clone the FUSE mount");
  MLCACHE_RETURN_IF_ERROR(MoveBeneath(mount.get(), mountpoint));
  // Should it fail then because a user was quicker to unmount it; the view is what is visible either way.
  static_cast<void>(Detach(fuse.get()));
  return std::unique_ptr<SealedView>(new SealedView(id, mountpoint, info.stx_mnt_id, std::move(clone)));
}

bool SealedView::IsShown() const {
  std::ifstream table("/proc/self/mountinfo");
  const std::string wanted = std::to_string(mount_id_) + " ";
  for (std::string line; std::getline(table, line);) {
    if (line.starts_with(wanted)) return true;
  }
  return false;
}

Result<UniqueFd> SealedView::Root() const {
  UniqueFd root(::open(mountpoint_.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!root.valid()) return FailErrno(errno, mountpoint_);
  MLCACHE_ASSIGN_OR_RETURN(const struct statx info, Look(root.get()));
  if (info.stx_mnt_id == mount_id_) return root;
  return Fail(Code::kFailedPrecondition, "something is mounted over " + mountpoint_ + "; unmount that first");
}

Status SealedView::Withdraw() {
  MLCACHE_ASSIGN_OR_RETURN(const UniqueFd root, Root());
  MLCACHE_RETURN_IF_ERROR(MoveBeneath(fuse_.get(), mountpoint_));
  fuse_.Reset();  // attached now, and a descriptor would keep it busy
  static_cast<void>(Detach(root.get()));
  return {};
}

void SealedView::Unmount() {
  const Result<UniqueFd> root = Root();
  if (root.has_value()) static_cast<void>(Detach(root->get()));
}

}  // namespace mlcache::shim
