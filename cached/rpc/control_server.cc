#include "cached/rpc/control_server.h"

#include <grpcpp/grpcpp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <utility>

#include "cached/rpc/control_service.h"
#include "proto/control_address.h"

namespace mlcache::rpc {
namespace {

constexpr mode_t kSocketMode = 0660;
constexpr int kMaxRequestBytes = 256 << 20;  // a warm-up list of a million paths
constexpr auto kShutdownGrace = std::chrono::milliseconds(100);

class GrpcControlServer final : public ControlServer {
 public:
  GrpcControlServer(std::string socket_path, const ControlOptions& options, const ControlDependencies& dependencies)
      : socket_path_(std::move(socket_path)), service_(options, dependencies) {}

  ~GrpcControlServer() override {
    if (server_ == nullptr) return;
    server_->Shutdown(std::chrono::system_clock::now() + kShutdownGrace);
    server_->Wait();
    unlink(socket_path_.c_str());
  }

  Status Listen() {
    if (unlink(socket_path_.c_str()) != 0 && errno != ENOENT) return FailErrno(errno, "remove stale " + socket_path_);
    int bound = 0;
    grpc::ServerBuilder builder;
    builder.AddListeningPort(GrpcUnixAddress(socket_path_), grpc::InsecureServerCredentials(), &bound);
    builder.SetMaxReceiveMessageSize(kMaxRequestBytes);
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || bound == 0) {
      return Fail(Code::kUnavailable, "cannot listen on " + socket_path_ +
                                          ": the daemon's user must be able to create sockets in --socket_dir");
    }
    if (chmod(socket_path_.c_str(), kSocketMode) != 0) return FailErrno(errno, "chmod " + socket_path_);
    return {};
  }

 private:
  const std::string socket_path_;
  ControlService service_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace

Result<std::unique_ptr<ControlServer>> ControlServer::Start(const ControlOptions& options,
                                                            const ControlDependencies& dependencies) {
  auto server = std::make_unique<GrpcControlServer>(ControlSocketPath(options.socket_dir), options, dependencies);
  MLCACHE_RETURN_IF_ERROR(server->Listen());
  return server;
}

}  // namespace mlcache::rpc
