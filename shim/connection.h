// Keeps one session with the daemon: connects, tells the workers, watches the socket, and connects again when the
// daemon is gone, for as long as the mount lives. One thread runs it; Stop() is any thread's.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/unique_fd.h"
#include "proto/session.pb.h"
#include "shim/daemon_session.h"

namespace mlcache::shim {

class Connection {
 public:
  // `publish` is called on the running thread with each new session, and with null when one ended.
  using Publish = std::function<void(const std::shared_ptr<DaemonSession>&)>;
  // `heard` with each message of the daemon's after Welcome, on the same thread.
  using Heard = std::function<void(const DaemonSession&, const session::FromDaemon&, std::vector<UniqueFd>)>;
  static Result<std::unique_ptr<Connection>> Make(std::string socket_dir, session::Hello hello, uint32_t workers,
                                                  Publish publish, Heard heard);

  // Called on the running thread with each new session, then again and again: it returns within how many milliseconds
  // the next time. Before Run.
  using Tick = std::function<int(const DaemonSession&)>;
  void set_tick(Tick tick) { tick_ = std::move(tick); }

  void Run();  // until Stop()
  void Stop();

 private:
  Connection(std::string socket_dir, session::Hello hello, uint32_t workers, Publish publish, Heard heard);
  Result<std::shared_ptr<DaemonSession>> Open();
  void Watch(const DaemonSession& session);
  bool Hear(const DaemonSession& session);
  bool Wait(int timeout_ms);

  const std::string socket_dir_;
  const session::Hello hello_;
  const uint32_t workers_;
  const Publish publish_;
  const Heard heard_;
  Tick tick_;
  UniqueFd stop_;
};

}  // namespace mlcache::shim
