// One session with the daemon: the socket, which tells that the other side is gone, and the channel over which all
// requests go. Shared by the threads of the server; see channel.h for who may do what.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/ring/channel.h"
#include "common/ring/socket.h"
#include "common/status.h"
#include "common/unique_fd.h"
#include "proto/session.pb.h"
#include "shim/command_line.h"

namespace mlcache::shim {

// The descriptors of lent files, as they come over a socket of their own; by the number of their message. Thread-safe.
class LeaseInbox {
 public:
  // Our end of the socket; the daemon has the other.
  void Begin(UniqueFd socket);

  // The descriptor of that message, which has been sent already; invalid when it did not come through.
  UniqueFd Take(uint64_t number);

 private:
  std::mutex mutex_;
  UniqueFd socket_;                              // guarded by mutex_
  std::unordered_map<uint64_t, UniqueFd> come_;  // guarded by mutex_; taken off the socket, wanted by another worker
};

struct DaemonSession {
  UniqueFd socket;
  std::vector<session::ObjectsDirectory> objects_directories;
  LeaseInbox leases;
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
