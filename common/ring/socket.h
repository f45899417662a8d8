// The session socket: SOCK_SEQPACKET over a Unix path, messages with descriptors (SCM_RIGHTS), the peer's identity
// (SO_PEERCRED). Blocking calls; thread-compatible.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <string>
#include <vector>

#include "common/status.h"
#include "common/unique_fd.h"

namespace mlcache::ring {

inline constexpr size_t kMaxMessageBytes = 64 * 1024;
inline constexpr size_t kMaxMessageDescriptors = 128;  // the kernel's bound is 253

struct Message {
  std::string bytes;
  std::vector<UniqueFd> descriptors;
};

struct PeerIdentity {
  pid_t pid = 0;
  uid_t uid = 0;
  gid_t gid = 0;
};

// Listens on `path`, replacing a socket that nobody serves. kAlreadyExists when another process serves it.
// `mode` are the permission bits of the socket.
Result<UniqueFd> Listen(const std::string& path, mode_t mode);

// kUnavailable with the path when nobody listens.
Result<UniqueFd> Connect(const std::string& path);

// kUnavailable when the peer is gone.
Status Send(int socket, std::string_view bytes, const std::vector<int>& descriptors);

// kUnavailable at end of file; kDeadlineExceeded after `timeout_ms` (negative: none).
Result<Message> Receive(int socket, int timeout_ms);

Result<PeerIdentity> Peer(int socket);

}  // namespace mlcache::ring
