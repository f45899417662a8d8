#include "ctl/client.h"

#include <grpcpp/grpcpp.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "common/unique_fd.h"
#include "proto/control_address.h"

namespace mlcache::ctl {
namespace {

constexpr auto kShortCall = std::chrono::seconds(10);

Error Unreachable(const std::string& socket_path, const std::string& socket_dir, int error_number) {
  std::string fix = "start it with 'systemctl start mlcached', or 'mlcached --socket_dir=" + socket_dir +
                    " --tier=DIR:SIZE', or name another directory with --socket_dir";
  if (error_number == EACCES)
    fix = "run mlcachectl as the daemon's user, as root, or as a member of the socket's group";
  return Error(Code::kUnavailable,
               "no mlcached answers on " + socket_path + ": " + std::strerror(error_number) + "; " + fix);
}

// gRPC retries for seconds and hides the reason, so the socket is tried first.
int TryConnect(const std::string& socket_path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (socket_path.size() >= sizeof(address.sun_path)) return ENAMETOOLONG;
  std::memcpy(address.sun_path, socket_path.c_str(), socket_path.size() + 1);
  const UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return errno;
  return connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0 ? 0 : errno;
}

}  // namespace

Result<Client> Client::Connect(const std::string& socket_dir) {
  std::string socket_path = ControlSocketPath(socket_dir);
  if (const int error = TryConnect(socket_path); error != 0)
    return std::unexpected(Unreachable(socket_path, socket_dir, error));
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetMaxReceiveMessageSize(-1);
  auto channel = grpc::CreateCustomChannel(GrpcUnixAddress(socket_path), grpc::InsecureChannelCredentials(), arguments);
  return Client(std::move(socket_path), control::Control::NewStub(channel));
}

std::unique_ptr<grpc::ClientContext> Client::ShortCall() {
  auto context = std::make_unique<grpc::ClientContext>();
  context->set_deadline(std::chrono::system_clock::now() + kShortCall);
  return context;
}

Status Client::Check(const grpc::Status& status) const {
  if (status.ok()) return {};
  switch (status.error_code()) {
    case grpc::StatusCode::UNAVAILABLE:
      return Fail(Code::kUnavailable,
                  "mlcached on " + socket_path_ + " went away during the call: " + status.error_message());
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return Fail(Code::kUnavailable, "mlcached on " + socket_path_ +
                                          " does not answer; look at its log (journalctl -u mlcached) and restart it");
    default:
      return Fail(static_cast<Code>(status.error_code()), status.error_message());
  }
}

}  // namespace mlcache::ctl
