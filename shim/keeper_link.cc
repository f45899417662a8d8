#include "shim/keeper_link.h"

#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <utility>

#include "common/ring/socket.h"

namespace mlcache::shim {
namespace {

constexpr int kCallTimeoutMs = 10'000;

Result<KeeperAnswer> Parse(ring::Message message) {
  KeeperAnswer answer;
  if (!answer.reply.ParseFromString(message.bytes)) return Fail(Code::kInternal, "the keeper's answer is no Reply");
  answer.descriptors = std::move(message.descriptors);
  return answer;
}

}  // namespace

Result<uint64_t> KeeperLink::Send(keeper::Request request, const std::vector<int>& descriptors) {
  request.set_number(next_number_);
  MLCACHE_RETURN_IF_ERROR(ring::Send(socket_.get(), request.SerializeAsString(), descriptors));
  return next_number_++;
}

Result<std::optional<KeeperAnswer>> KeeperLink::Receive() {
  Result<ring::Message> message = ring::Receive(socket_.get(), 0);
  if (!message) {
    if (message.error().code() == Code::kDeadlineExceeded) return std::nullopt;
    return std::unexpected(message.error().WithContext("the keeper"));
  }
  MLCACHE_ASSIGN_OR_RETURN(KeeperAnswer answer, Parse(*std::move(message)));
  return answer;
}

Result<KeeperAnswer> KeeperLink::Call(keeper::Request request, const std::vector<int>& descriptors) {
  MLCACHE_ASSIGN_OR_RETURN(const uint64_t number, Send(std::move(request), descriptors));
  while (true) {
    Result<ring::Message> message = ring::Receive(socket_.get(), kCallTimeoutMs);
    if (!message) return std::unexpected(message.error().WithContext("the keeper does not answer"));
    MLCACHE_ASSIGN_OR_RETURN(KeeperAnswer answer, Parse(*std::move(message)));
    if (answer.reply.number() != number) continue;  // of a call given up
    if (answer.reply.error() != 0) return FailErrno(answer.reply.error(), answer.reply.message());
    return answer;
  }
}

Result<std::pair<UniqueFd, UniqueFd>> MakeKeeperLink() {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0) {
    return FailErrno(errno, "socketpair between server and keeper");
  }
  return std::pair(UniqueFd(ends[0]), UniqueFd(ends[1]));
}

}  // namespace mlcache::shim
