// The way from one thread of a server to the keeper, for what takes privileges (proto/keeper.proto): one end of a
// SOCK_SEQPACKET pair. Owned by one thread.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "common/status.h"
#include "common/unique_fd.h"
#include "proto/keeper.pb.h"

namespace mlcache::shim {

struct KeeperAnswer {
  keeper::Reply reply;
  std::vector<UniqueFd> descriptors;
};

class KeeperLink {
 public:
  explicit KeeperLink(UniqueFd socket) : socket_(std::move(socket)) {}

  // To poll; readable when Receive has something.
  int fd() const { return socket_.get(); }

  // Numbers the request and sends it; the number. The descriptors stay the caller's.
  Result<uint64_t> Send(keeper::Request request, const std::vector<int>& descriptors);

  // The next answer; nothing when there is none yet. kUnavailable when the keeper is gone.
  Result<std::optional<KeeperAnswer>> Receive();

  // Sends and waits for the answer, whose error becomes the result's. For a thread that has nothing else under way.
  Result<KeeperAnswer> Call(keeper::Request request, const std::vector<int>& descriptors);

 private:
  UniqueFd socket_;
  uint64_t next_number_ = 1;
};

// A connected pair; first the server's end, then the keeper's.
Result<std::pair<UniqueFd, UniqueFd>> MakeKeeperLink();

}  // namespace mlcache::shim
