#include "shim/server.h"

#include <glog/logging.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/ring/socket.h"
#include "shim/connection.h"
#include "shim/directory_locks.h"
#include "shim/file_system.h"
#include "shim/keeper_link.h"
#include "shim/kernel_channel.h"
#include "shim/notifier.h"
#include "shim/open_table.h"
#include "shim/privileges.h"
#include "shim/serving.h"
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
      : options_(options),
        state_(state),
        opens_(state),
        serving_(options.hello.options().open_mode(), state, opens_),
        files_({::getuid(), ::getgid()}, opens_, serving_),
        keeper_(std::move(link)) {}

  Status Start(UniqueFd device, std::vector<UniqueFd> links) {
    MLCACHE_ASSIGN_OR_RETURN(
        kernel_, KernelChannel::Open(std::move(device), FileSystem::Operations(), state_, options_.may_register));
    for (uint32_t i = 0; i < kWorkers; ++i) {
      MLCACHE_ASSIGN_OR_RETURN(
          auto worker, Worker::Make({i, options_.io_timeout, options_.fault_hook}, std::move(links.at(i)), *kernel_,
                                    files_, locks_, state_, SystemClock()));
      worker->set_on_registered([this](const std::vector<OpenTable::Waiter>& waiters) {
        for (const OpenTable::Waiter& waiter : waiters) workers_.at(waiter.worker)->PostRetries({waiter.request});
      });
      workers_.push_back(std::move(worker));
    }
    kernel_->set_on_interrupt([this](uint64_t id) {
      if (Worker::IndexOf(id) < workers_.size()) workers_[Worker::IndexOf(id)]->PostInterrupt(id);
    });
    MLCACHE_ASSIGN_OR_RETURN(
        connection_, Connection::Make(
                         options_.socket_dir, options_.hello, kWorkers,
                         [this](const std::shared_ptr<DaemonSession>& session) { Publish(session); },
                         [this](const DaemonSession&, const session::FromDaemon& message,
                                const std::vector<UniqueFd>& descriptors) { views_.Heard(message, descriptors); }));
    connection_->set_tick([this](const DaemonSession& session) { return views_.Tick(session); });
    MLCACHE_ASSIGN_OR_RETURN(
        notifier_, Notifier::Start(*kernel_, locks_, [this](uint64_t base) { workers_.front()->PostRevoked(base); }));
    serving_.set_on_change([this] { Report(); });
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
    {
      const std::lock_guard lock(reported_mutex_);
      reported_to_ = session;
    }
    if (session != nullptr) BeginLending(*session);
    for (const std::unique_ptr<Worker>& worker : workers_) worker->PostSession(session);
    notifier_->PostSession(session);
    views_.Begin();
    if (session != nullptr) state_.ready = 1;
  }

  // Has the daemon lend its complete files to this mount, if the kernel and the keeper can make use of them.
  void BeginLending(DaemonSession& session) {
    std::string why = options_.why_not;
    bool lends = options_.may_register;
    if (lends && state_.passthrough == 0) {
      lends = false;
      why = "this kernel has no FUSE passthrough (Linux 6.9 or later, CONFIG_FUSE_PASSTHROUGH)";
    }
    if (lends && session.objects_directories.empty()) {
      lends = false;
      why = "mlcached keeps no files";
    }
    if (lends) {
      if (const Status begun = SendRoots(session); !begun.has_value()) {
        lends = false;
        why = begun.error().message();
      }
    }
    serving_.SetLending(lends, std::move(why));
  }

  Status SendRoots(DaemonSession& session) {
    std::array<int, 2> ends{};
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0) {
      return FailErrno(errno, "socketpair for lent files");
    }
    UniqueFd ours(ends[0]);
    std::vector<UniqueFd> sent;
    sent.emplace_back(ends[1]);
    for (const session::ObjectsDirectory& directory : session.objects_directories) {
      keeper::Request request;
      keeper::CloneReadOnly& clone = *request.mutable_clone_read_only();
      clone.set_path(directory.path());
      clone.set_device(directory.device());
      clone.set_inode(directory.inode());
      MLCACHE_ASSIGN_OR_RETURN(KeeperAnswer answer, keeper_.Call(std::move(request), {}));
      if (answer.descriptors.size() != 1) return Fail(Code::kInternal, "the keeper sent no clone");
      sent.push_back(std::move(answer.descriptors.front()));
    }
    std::vector<int> descriptors;
    for (const UniqueFd& descriptor : sent) descriptors.push_back(descriptor.get());
    session::FromShim message;
    message.mutable_lending();
    MLCACHE_RETURN_IF_ERROR(ring::Send(session.socket.get(), message.SerializeAsString(), descriptors));
    session.leases.Begin(std::move(ours));
    return {};
  }

  // How files are served now: to the log, and to the daemon for those who ask it.
  void Report() {
    const ServingReport report = serving_.Report();
    const std::lock_guard lock(reported_mutex_);
    if (report.mode != reported_.mode || report.reason != reported_.reason) {
      LOG(INFO) << options_.hello.mountpoint() << ": files are served in mode " << report.mode
                << (report.reason.empty() ? "" : ", because " + report.reason);
      reported_ = report;
    }
    if (reported_to_ == nullptr) return;
    session::FromShim message;
    message.mutable_serving_mode()->set_mode(report.mode);
    message.mutable_serving_mode()->set_reason(report.reason);
    if (const Status sent = ring::Send(reported_to_->socket.get(), message.SerializeAsString(), {}, 0); !sent) {
      VLOG(1) << sent.error();
    }
  }

  const ServerOptions& options_;
  SharedState& state_;
  OpenTable opens_;
  Serving serving_;
  FileSystem files_;
  DirectoryLocks locks_;
  KeeperLink keeper_;  // the main thread's
  ViewRelay views_{keeper_, state_};
  std::unique_ptr<KernelChannel> kernel_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::unique_ptr<Connection> connection_;
  std::unique_ptr<Notifier> notifier_;  // its thread uses the kernel channel
  std::mutex reported_mutex_;
  std::shared_ptr<DaemonSession> reported_to_;  // guarded by reported_mutex_
  ServingReport reported_;                      // guarded by reported_mutex_
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
  UniqueFd last = std::move(links.back());
  Server server(options, std::move(last), state);
  if (const Status started = server.Start(std::move(device), std::move(links)); !started) {
    LOG(ERROR) << started.error();
    return started.error().code() == Code::kUnavailable ? kExitOk : kExitFailure;
  }
  server.Run();
  return kExitOk;
}

}  // namespace mlcache::shim
