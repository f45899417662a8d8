// One thread of the server: takes kernel requests, sends them to the daemon over its own queue pair, answers what comes
// back. It never waits for one thing alone: /dev/fuse, completions, the keeper's answers, interrupts and a new session
// all wake it, and what cannot go to the daemon now waits in a queue. Everything but Post* is the worker's own
// thread's.
//
// INVARIANT: each request in `pending_` is submitted to `session_`, named in `backlog_`, or `answered` by the daemon.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
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
#include "shim/keeper_link.h"
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
  static Result<std::unique_ptr<Worker>> Make(const WorkerOptions& options, UniqueFd keeper, KernelChannel& kernel,
                                              FileSystem& files, DirectoryLocks& locks, SharedState& state,
                                              const Clock& clock);

  // Serves until the connection to the kernel ends.
  void Run();

  // The session to use from now on; null: the daemon is away, keep what is unanswered. Any thread.
  void PostSession(std::shared_ptr<DaemonSession> session);

  // The kernel no longer wants the request with this submission id. Any thread; `id` may be long gone.
  void PostInterrupt(uint64_t id);

  // The requests may be decided, whose files another worker has had registered. Any thread. Set before Run is who tells
  // the others.
  void PostRetries(const std::vector<uint64_t>& requests);
  void set_on_registered(std::function<void(const std::vector<OpenTable::Waiter>&)> on_registered) {
    on_registered_ = std::move(on_registered);
  }

  // The daemon wants the space of this version back. Any thread.
  void PostRevoked(uint64_t base);

  // Of a submission's id, made by Start: the worker it belongs to.
  static uint32_t IndexOf(uint64_t id) { return static_cast<uint32_t>(id >> kIndexShift); }

  void Start(const Request& request) override;
  void Hint(const ring::Submission& submission) override;
  void CloseBackings(const std::vector<uint32_t>& records) override;

 private:
  using Pending = std::unordered_map<uint64_t, Request>;
  static constexpr int kIndexShift = 56;

  Worker(const WorkerOptions& options, UniqueFd keeper, KernelChannel& kernel, FileSystem& files, DirectoryLocks& locks,
         SharedState& state, const Clock& clock);

  bool AnswerAlone(const Request& asked) const;
  bool Reopen(const Request& asked);
  bool TakeRequests();
  bool TakeCompletions();
  bool TakePosts();
  void TakeCompletion(const ring::Completion& completion);
  void TakeOpen(Pending::iterator found, const ring::Completion& completion);
  void Decide(Pending::iterator found, const OpenTable::Decision& decision, int lent);
  void Register(Pending::iterator found, uint32_t record, int lent);
  bool TakeKeeperAnswers();
  void SettleRegistration(uint64_t request, uint64_t node, uint32_t record, const Status& done);
  void Retry(uint64_t request);
  void Opened(const Request& request, const OpenTable::Decision& decision);
  OpenTable::Open OpenOf(const Request& request) const;
  void NoteAccess(uint64_t node);
  void SendAccesses();
  void ChangeSession(std::shared_ptr<DaemonSession> session);
  void LeaveSession();
  void Interrupt(uint64_t id);
  void Expire();
  void GiveUp(Pending::iterator found, int error);
  void Forget(Pending::iterator found);
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
  Pending pending_;
  std::deque<uint64_t> backlog_;       // not submitted yet, oldest first; ids that are gone are skipped
  std::deque<ring::Submission> owed_;  // slots to give back and the like: before anything else
  std::vector<uint64_t> interrupted_;  // in the order of Request::interrupted_at
  uint32_t outstanding_ = 0;           // submissions of this session that have no completion yet
  std::shared_ptr<DaemonSession> session_;
  Nanos next_sweep_{};

  KeeperLink keeper_;
  struct Registration {
    uint64_t request = 0;
    uint64_t node = 0;
    uint32_t record = 0;
  };
  std::unordered_map<uint64_t, Registration> registering_;  // by the number of the keeper's answer
  std::function<void(const std::vector<OpenTable::Waiter>&)> on_registered_;
  ring::Submission accesses_;  // of lent files, to be told

  std::mutex mutex_;
  std::vector<uint64_t> posted_interrupts_;                       // guarded by mutex_
  std::vector<uint64_t> posted_retries_;                          // guarded by mutex_
  std::vector<uint64_t> posted_revoked_;                          // guarded by mutex_
  std::optional<std::shared_ptr<DaemonSession>> posted_session_;  // guarded by mutex_
  std::atomic<bool> has_posts_ = false;                           // written with mutex_ held
};

}  // namespace mlcache::shim
