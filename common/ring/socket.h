// The session socket: SOCK_SEQPACKET over a Unix path, messages with descriptors (SCM_RIGHTS), the peer's identity
// (SO_PEERCRED). Blocking calls; thread-compatible.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "common/unique_fd.h"

namespace mlcache::ring {

inline constexpr size_t kMaxMessageBytes = size_t{64} << 10;
inline constexpr size_t kMaxMessageDescriptors = 128;  // the kernel's bound is 253
inline constexpr size_t kMaxSocketPathBytes = 107;     // of sockaddr_un, without its final NUL

struct Message {
  std::string bytes;
  std::vector<UniqueFd> descriptors;
};

struct PeerIdentity {
  pid_t pid = 0;
  uid_t uid = 0;
  gid_t gid = 0;
};

// Listens on `path`, replacing a socket that nobody serves. kAlreadyExists when another process serves it (which sees a
// connection that closes at once) or when it is no socket. `mode` are the permission bits of the socket. The file stays
// when the descriptor is closed: unlink it at the end, or leave it to the next Listen.
Result<UniqueFd> Listen(const std::string& path, mode_t mode);

// The next peer that connects; kDeadlineExceeded after `timeout_ms` (negative: none).
Result<UniqueFd> Accept(int listener, int timeout_ms);

// kUnavailable with the path when nobody listens, or listens but does not accept for 10 s.
Result<UniqueFd> Connect(const std::string& path);

// One message of 1 to kMaxMessageBytes bytes; the descriptors stay the caller's. kUnavailable when the peer is gone,
// kDeadlineExceeded when there is no room for it for `timeout_ms`, kInvalidArgument above the limits.
inline constexpr int kSendTimeoutMs = 10'000;
Status Send(int socket, std::string_view bytes, const std::vector<int>& descriptors, int timeout_ms = kSendTimeoutMs);

// One message. kUnavailable at end of file; kDeadlineExceeded after `timeout_ms` (negative: none); kDataLoss or
// kResourceExhausted when bytes or descriptors did not fit, in which case what did arrive is closed.
Result<Message> Receive(int socket, int timeout_ms);

// Who connected, as the kernel knew it at that moment.
Result<PeerIdentity> Peer(int socket);

}  // namespace mlcache::ring
