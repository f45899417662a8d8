// Passes the daemon's notifications on to the kernel, on a thread of its own: the kernel makes the writer wait for the
// directory's lock or for pages being read, which only the workers can end. An entry whose directory is busy is put
// off and tried again. Notifications are hints; past a bound they are dropped, and the timeouts see to the rest.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "common/ring/wire.h"
#include "common/unique_fd.h"
#include "shim/daemon_session.h"
#include "shim/directory_locks.h"
#include "shim/kernel_channel.h"

namespace mlcache::shim {

class Notifier {
 public:
  // References are borrowed. Starts its thread, on which `revoked` is told of files whose space the daemon wants back.
  using Revoked = std::function<void(uint64_t base)>;
  static Result<std::unique_ptr<Notifier>> Start(KernelChannel& kernel, DirectoryLocks& locks, Revoked revoked);
  ~Notifier();  // may wait for a notification the kernel holds; the end of the connection frees it

  // As Worker::PostSession. Any thread.
  void PostSession(std::shared_ptr<DaemonSession> session);

 private:
  static constexpr size_t kMostDeferred = 4096;

  Notifier(KernelChannel& kernel, DirectoryLocks& locks, Revoked revoked)
      : kernel_(kernel), locks_(locks), revoked_(std::move(revoked)) {}
  void Run();
  void TakeNotifications(DaemonSession& session);
  void RetryDeferred();
  bool Deliver(const ring::Notification& notification);
  void Wait(const DaemonSession* session);

  KernelChannel& kernel_;
  DirectoryLocks& locks_;
  const Revoked revoked_;
  UniqueFd wake_;
  std::atomic<bool> stop_ = false;
  std::deque<ring::Notification> deferred_;  // this thread's
  std::mutex mutex_;
  std::optional<std::shared_ptr<DaemonSession>> posted_;  // guarded by mutex_
  std::jthread thread_;
};

}  // namespace mlcache::shim
