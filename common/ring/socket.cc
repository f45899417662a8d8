#include "common/ring/socket.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstring>
#include <utility>

namespace mlcache::ring {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr int kBacklog = 128;

Result<sockaddr_un> AddressOf(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty()) return Fail(Code::kInvalidArgument, "socket path is empty");
  if (path.size() > kMaxSocketPathBytes || path.contains('\0')) {
    return Fail(Code::kInvalidArgument, "socket path " + path + " has " + std::to_string(path.size()) +
                                            " bytes, at most " + std::to_string(kMaxSocketPathBytes) +
                                            " are possible; choose a shorter directory");
  }
  std::copy(path.begin(), path.end(), std::begin(address.sun_path));
  return address;
}

Result<UniqueFd> NewSocket(int extra_flags) {
  UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | extra_flags, 0));
  if (!fd.valid()) return FailErrno(errno, "create a Unix socket");
  return fd;
}

int ConnectTo(int fd, const sockaddr_un& address) {
  const int result = ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  return result == 0 ? 0 : errno;
}

// Held while a socket file is looked at and replaced, so that two daemons starting at once do not both replace it.
// Locks the directory, since a lock file would stay behind.
Result<UniqueFd> LockDirectoryOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string directory = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  UniqueFd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return FailErrno(errno, "open socket directory " + directory);
  while (::flock(fd.get(), LOCK_EX) != 0) {
    if (errno != EINTR) return FailErrno(errno, "lock socket directory " + directory);
  }
  return fd;
}

// Removes the socket file of a server that is gone. Anything else at `path` is left alone and an error.
Status RemoveDeadSocket(const std::string& path, const sockaddr_un& address) {
  struct stat attributes{};
  if (::lstat(path.c_str(), &attributes) != 0) {
    if (errno == ENOENT) return {};
    return FailErrno(errno, "stat " + path);
  }
  if (!S_ISSOCK(attributes.st_mode)) {
    return Fail(Code::kAlreadyExists, path + " exists and is no socket; remove it or choose another directory");
  }
  MLCACHE_ASSIGN_OR_RETURN(const UniqueFd probe, NewSocket(SOCK_NONBLOCK));
  const int error = ConnectTo(probe.get(), address);
  if (error == ENOENT) return {};
  if (error != ECONNREFUSED) {  // accepted, or a full backlog, or a server of another kind, or not ours to know
    return Fail(Code::kAlreadyExists, path + " is served by another process; stop it or choose another directory");
  }
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return FailErrno(errno, "remove dead socket " + path);
  return {};
}

// Waits for `events`; `timeout_ms` negative: for ever.
Status WaitFor(int fd, int16_t events, int timeout_ms, const char* what) {
  const auto deadline = SteadyClock::now() + std::chrono::milliseconds(timeout_ms);
  pollfd poll_entry{.fd = fd, .events = events, .revents = 0};
  int left_ms = timeout_ms;
  while (true) {
    const int ready = ::poll(&poll_entry, 1, left_ms);
    if (ready > 0) return {};
    if (ready < 0 && errno != EINTR) return FailErrno(errno, what);
    if (timeout_ms < 0) continue;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - SteadyClock::now()).count();
    if (ready == 0 || left <= 0) {
      return Fail(Code::kDeadlineExceeded,
                  std::string(what) + ": nothing within " + std::to_string(timeout_ms) + " ms");
    }
    left_ms = static_cast<int>(std::min<int64_t>(left, INT_MAX));
  }
}

// Takes every descriptor that arrived, before anything may go wrong.
void TakeDescriptors(msghdr* header, std::vector<UniqueFd>* descriptors) {
  for (cmsghdr* part = CMSG_FIRSTHDR(header); part != nullptr; part = CMSG_NXTHDR(header, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t index = 0; index < count; ++index) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + (index * sizeof(int)), sizeof(int));
      descriptors->emplace_back(fd);
    }
  }
}

}  // namespace

Result<UniqueFd> Listen(const std::string& path, mode_t mode) {
  MLCACHE_ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(path));
  MLCACHE_ASSIGN_OR_RETURN(const UniqueFd lock, LockDirectoryOf(path));
  MLCACHE_RETURN_IF_ERROR(RemoveDeadSocket(path, address));
  MLCACHE_ASSIGN_OR_RETURN(UniqueFd fd, NewSocket(0));
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return FailErrno(errno, "bind socket " + path);
  }
  // Until listen() every connect is refused, so the permissions are in force before anybody gets in.
  if (::chmod(path.c_str(), mode) != 0 || ::listen(fd.get(), kBacklog) != 0) {
    const int error = errno;
    ::unlink(path.c_str());
    return FailErrno(error, "listen on " + path);
  }
  return fd;
}

Result<UniqueFd> Accept(int listener, int timeout_ms) {
  MLCACHE_RETURN_IF_ERROR(WaitFor(listener, POLLIN, timeout_ms, "accept a session"));
  while (true) {
    UniqueFd fd(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
    if (fd.valid()) return fd;
    if (errno != EINTR && errno != ECONNABORTED) return FailErrno(errno, "accept a session");
  }
}

Result<UniqueFd> Connect(const std::string& path) {
  MLCACHE_ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(path));
  MLCACHE_ASSIGN_OR_RETURN(UniqueFd fd, NewSocket(0));
  // A full backlog makes connect() wait; the option bounds that, and nothing else here.
  const timeval bound = {.tv_sec = kSendTimeoutMs / 1000, .tv_usec = 0};
  if (::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &bound, sizeof(bound)) != 0) {
    return FailErrno(errno, "connect to " + path);
  }
  int error = EINTR;
  while (error == EINTR) error = ConnectTo(fd.get(), address);
  switch (error) {
    case 0:
      return fd;
    case ENOENT:
    case ECONNREFUSED:
      return Fail(Code::kUnavailable, "connect to " + path + ": " + std::strerror(error) +
                                          "; nobody serves it, start mlcached or correct the socket directory");
    case EAGAIN:
      return Fail(Code::kUnavailable, "connect to " + path + ": the daemon does not accept sessions");
    default:
      return FailErrno(error, "connect to " + path);
  }
}

Status Send(int socket, std::string_view bytes, const std::vector<int>& descriptors, int timeout_ms) {
  if (bytes.empty() || bytes.size() > kMaxMessageBytes || descriptors.size() > kMaxMessageDescriptors) {
    return Fail(Code::kInvalidArgument, "a session message carries 1 to " + std::to_string(kMaxMessageBytes) +
                                            " bytes and at most " + std::to_string(kMaxMessageDescriptors) +
                                            " descriptors, not " + std::to_string(bytes.size()) + " and " +
                                            std::to_string(descriptors.size()));
  }
  iovec part = {.iov_base = const_cast<char*>(bytes.data()), .iov_len = bytes.size()};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxMessageDescriptors * sizeof(int))> control{};
  if (!descriptors.empty()) {
    const size_t payload = descriptors.size() * sizeof(int);
    header.msg_control = control.data();
    header.msg_controllen = CMSG_SPACE(payload);
    cmsghdr* const rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(payload);
    std::memcpy(CMSG_DATA(rights), descriptors.data(), payload);
  }
  while (true) {
    const ssize_t sent = ::sendmsg(socket, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) return {};  // whole, as messages go
    switch (errno) {
      case EINTR:
        break;
      case EAGAIN:
        MLCACHE_RETURN_IF_ERROR(WaitFor(socket, POLLOUT, timeout_ms, "send on the session socket"));
        break;
      case EPIPE:
      case ECONNRESET:
      case ENOTCONN:
        return Fail(Code::kUnavailable, "send on the session socket: the peer is gone");
      default:
        return FailErrno(errno, "send on the session socket");
    }
  }
}

Result<Message> Receive(int socket, int timeout_ms) {
  MLCACHE_RETURN_IF_ERROR(WaitFor(socket, POLLIN, timeout_ms, "receive on the session socket"));
  Message message;
  std::array<char, kMaxMessageBytes> bytes;  // NOLINT(cppcoreguidelines-pro-type-member-init): filled by recvmsg
  iovec part = {.iov_base = bytes.data(), .iov_len = bytes.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxMessageDescriptors * sizeof(int))> control{};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  ssize_t received = -1;
  do {
    received = ::recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
  } while (received < 0 && errno == EINTR);
  if (received < 0) {
    if (errno == ECONNRESET) return Fail(Code::kUnavailable, "receive on the session socket: the peer is gone");
    return FailErrno(errno, "receive on the session socket");
  }
  TakeDescriptors(&header, &message.descriptors);
  if (received == 0) return Fail(Code::kUnavailable, "receive on the session socket: the peer closed it");
  if ((header.msg_flags & MSG_TRUNC) != 0) {
    return Fail(Code::kDataLoss,
                "receive on the session socket: a message of more than " + std::to_string(kMaxMessageBytes) + " bytes");
  }
  if ((header.msg_flags & MSG_CTRUNC) != 0) {
    return Fail(Code::kResourceExhausted, "receive on the session socket: descriptors were lost, they are more than " +
                                              std::to_string(kMaxMessageDescriptors) +
                                              " or this process may open no more (ulimit -n)");
  }
  message.bytes.assign(bytes.data(), static_cast<size_t>(received));
  return message;
}

Result<PeerIdentity> Peer(int socket) {
  ucred credentials{};
  socklen_t size = sizeof(credentials);
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
    return FailErrno(errno, "read the identity of the session's peer");
  }
  return PeerIdentity{.pid = credentials.pid, .uid = credentials.uid, .gid = credentials.gid};
}

}  // namespace mlcache::ring
