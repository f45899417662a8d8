// One session with the daemon: the socket, which tells that the other side is gone, and the channel over which all
// requests go. Shared by the threads of the server; see channel.h for who may do what.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "common/ring/channel.h"
#include "common/ring/socket.h"
#include "common/status.h"
#include "common/unique_fd.h"
#include "proto/session.pb.h"
#include "shim/command_line.h"

namespace mlcache::shim {

struct DaemonSession {
  UniqueFd socket;
  ring::ChannelDescriptors descriptors;
  std::unique_ptr<ring::ShimChannel> channel;
};

struct Greeting {
  session::Welcome welcome;  // code 0: the mount is let in
  std::vector<UniqueFd> descriptors;
};

// What a server tells the daemon of its mount; the same at every reconnect.
session::Hello MakeHello(const CommandLine& command, const std::string& mountpoint, uint64_t mount_id, uint32_t workers,
                         int32_t keeper_pid);

// The session socket in `socket_dir`. Every failure means that the daemon cannot be reached, and says how to mend it.
Result<UniqueFd> Dial(const std::string& socket_dir);

// Hello and Welcome. A refusal is no error here but a Welcome with a code.
Result<Greeting> Greet(int socket, const session::Hello& hello);

// The refusal of `greeting` as an error, if it is one.
Status Admitted(const Greeting& greeting);

// Makes the session of an admitting greeting that has at least `workers` queue pairs.
Result<std::shared_ptr<DaemonSession>> Attach(UniqueFd socket, Greeting greeting, uint32_t workers);

}  // namespace mlcache::shim
