#include "shim/server.h"

#include <glog/logging.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <csignal>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "shim/connection.h"
#include "shim/directory_locks.h"
#include "shim/file_system.h"
#include "shim/keeper_link.h"
#include "shim/kernel_channel.h"
#include "shim/notifier.h"
#include "shim/privileges.h"
#include "shim/view_relay.h"
#include "shim/worker.h"

namespace mlcache::shim {
namespace {

// The terminal's and systemd's signals go to the whole group; the keeper alone acts on them, by unmounting.
void IgnoreSignals() {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) std::signal(signal, SIG_IGN);
  std::signal(SIGCHLD, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  ::pthread_sigmask(SIG_SETMASK, &none, nullptr);
}

class Server {
 public:
  Server(const ServerOptions& options, UniqueFd link, SharedState& state)
      : options_(options), state_(state), files_({::getuid(), ::getgid()}), keeper_(std::move(link)) {}

  Status Start(UniqueFd device) {
    MLCACHE_ASSIGN_OR_RETURN(kernel_, KernelChannel::Open(std::move(device), FileSystem::Operations(), state_));
    for (uint32_t i = 0; i < kWorkers; ++i) {
      MLCACHE_ASSIGN_OR_RETURN(auto worker, Worker::Make({i, options_.io_timeout, options_.fault_hook}, *kernel_,
                                                         files_, locks_, state_, SystemClock()));
      workers_.push_back(std::move(worker));
    }
    kernel_->set_on_interrupt([this](uint64_t id) {
      if (Worker::IndexOf(id) < workers_.size()) workers_[Worker::IndexOf(id)]->PostInterrupt(id);
    });
    MLCACHE_ASSIGN_OR_RETURN(connection_,
                             Connection::Make(
                                 options_.socket_dir, options_.hello, kWorkers,
                                 [this](const std::shared_ptr<DaemonSession>& session) { Publish(session); },
                                 [this](const DaemonSession&, const session::FromDaemon& message,
                                        std::vector<UniqueFd> descriptors) { views_.Heard(message, descriptors); }));
    connection_->set_tick([this](const DaemonSession& session) { return views_.Tick(session); });
    MLCACHE_ASSIGN_OR_RETURN(notifier_, Notifier::Start(*kernel_, locks_));
    return kernel_->Start();
  }

  void Run() {
    state_.workers = kWorkers;
    std::vector<std::jthread> threads;
    for (const std::unique_ptr<Worker>& worker : workers_) {
      threads.emplace_back([this, &worker] {
        worker->Run();
        connection_->Stop();
      });
      ::pthread_setname_np(threads.back().native_handle(), "worker");
    }
    connection_->Run();
  }

 private:
  void Publish(const std::shared_ptr<DaemonSession>& session) {
    for (const std::unique_ptr<Worker>& worker : workers_) worker->PostSession(session);
    notifier_->PostSession(session);
    views_.Begin();
    if (session != nullptr) state_.ready = 1;
  }

  const ServerOptions& options_;
  SharedState& state_;
  FileSystem files_;
  DirectoryLocks locks_;
  KeeperLink keeper_;  // the main thread's
  ViewRelay views_{keeper_, state_};
  std::unique_ptr<KernelChannel> kernel_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::unique_ptr<Connection> connection_;
  std::unique_ptr<Notifier> notifier_;  // its thread uses the kernel channel
};

}  // namespace

int RunServer(const ServerOptions& options, UniqueFd device, std::vector<UniqueFd> links, SharedState& state) {
  IgnoreSignals();
  ::prctl(PR_SET_NAME, "mlcache-server", 0, 0, 0);
  if (options.oom_score.has_value()) {
    if (const Status undone = SetOomScore(*options.oom_score); !undone) LOG(WARNING) << undone.error();
  }
  if (const Status status = BecomeServer(options.keeper); !status) {
    LOG(ERROR) << status.error();
    return kExitFailure;
  }
  Server server(options, std::move(links.back()), state);
  if (const Status started = server.Start(std::move(device)); !started) {
    LOG(ERROR) << started.error();
    return started.error().code() == Code::kUnavailable ? kExitOk : kExitFailure;
  }
  server.Run();
  return kExitOk;
}

}  // namespace mlcache::shim
