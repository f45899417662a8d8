// One thread of the server: takes kernel requests, sends them to the daemon over its own queue pair, answers what comes
// back. It never waits for one thing alone: /dev/fuse, completions, interrupts and a new session all wake it, and what
// cannot go to the daemon now waits in a queue. Everything but Post* is the worker's own thread's.
//
// INVARIANT: each request in `pending_` is either submitted to `session_` or named in `backlog_`.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "common/clock.h"
#include "common/ring/wire.h"
#include "common/unique_fd.h"
#include "shim/daemon_session.h"
#include "shim/directory_locks.h"
#include "shim/file_system.h"
#include "shim/kernel_channel.h"
#include "shim/request.h"
#include "shim/shared_state.h"

namespace mlcache::shim {

struct WorkerOptions {
  uint32_t index = 0;    // also its queue pair
  Nanos io_timeout{};    // 0: none
  FaultHook fault_hook;  // may be empty
};

class Worker : public RequestSink {
 public:
  // All references are borrowed. kInternal when the system has no descriptors left.
  static Result<std::unique_ptr<Worker>> Make(const WorkerOptions& options, KernelChannel& kernel, FileSystem& files,
                                              DirectoryLocks& locks, SharedState& state, const Clock& clock);

  // Serves until the connection to the kernel ends.
  void Run();

  // The session to use from now on; null: the daemon is away, keep what is unanswered. Any thread.
  void PostSession(std::shared_ptr<DaemonSession> session);

  // The kernel no longer wants the request with this submission id. Any thread; `id` may be long gone.
  void PostInterrupt(uint64_t id);

  // Of a submission's id, made by Start: the worker it belongs to.
  static uint32_t IndexOf(uint64_t id) { return static_cast<uint32_t>(id >> kIndexShift); }

  void Start(const Request& request) override;
  void Hint(const ring::Submission& submission) override;

 private:
  static constexpr int kIndexShift = 56;

  Worker(const WorkerOptions& options, KernelChannel& kernel, FileSystem& files, DirectoryLocks& locks,
         SharedState& state, const Clock& clock);

  bool AnswerAlone(const Request& asked) const;
  bool TakeRequests();
  bool TakeCompletions();
  bool TakePosts();
  void TakeCompletion(const ring::Completion& completion);
  void ChangeSession(std::shared_ptr<DaemonSession> session);
  void LeaveSession();
  void Interrupt(uint64_t id);
  void Expire();
  void GiveUp(std::unordered_map<uint64_t, Request>::iterator found, int error);
  void Forget(std::unordered_map<uint64_t, Request>::iterator found);
  bool SendOwed();
  void SendBacklog();
  void Owe(ring::Op op, uint64_t offset);
  void Sleep();

  const WorkerOptions options_;
  KernelChannel& kernel_;
  FileSystem& files_;
  DirectoryLocks& locks_;
  SharedState& state_;
  WorkerBeat& beat_;
  const Clock& clock_;
  UniqueFd epoll_;
  UniqueFd wake_;
  RequestBuffer buffer_;

  bool gone_ = false;
  uint64_t next_id_ = 1;
  std::unordered_map<uint64_t, Request> pending_;
  std::deque<uint64_t> backlog_;       // not submitted yet, oldest first; ids that are gone are skipped
  std::deque<ring::Submission> owed_;  // slots to give back and the like: before anything else
  std::vector<uint64_t> interrupted_;  // in the order of Request::interrupted_at
  uint32_t outstanding_ = 0;           // submissions of this session that have no completion yet
  std::shared_ptr<DaemonSession> session_;
  Nanos next_sweep_{};

  std::mutex mutex_;
  std::vector<uint64_t> posted_interrupts_;                       // guarded by mutex_
  std::optional<std::shared_ptr<DaemonSession>> posted_session_;  // guarded by mutex_
  std::atomic<bool> has_posts_ = false;                           // written with mutex_ held
};

}  // namespace mlcache::shim
