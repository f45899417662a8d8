// Passes the daemon's notifications on to the kernel, on a thread of its own: the kernel makes the writer wait for the
// directory's lock or for pages being read, which only the workers can end. An entry whose directory is busy is put
// off and tried again. Notifications are hints; past a bound they are dropped, and the timeouts see to the rest.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "common/ring/wire.h"
#include "common/unique_fd.h"
#include "shim/daemon_session.h"
#include "shim/directory_locks.h"
#include "shim/kernel_channel.h"

namespace mlcache::shim {

class Notifier {
 public:
  // References are borrowed. Starts its thread.
  static Result<std::unique_ptr<Notifier>> Start(KernelChannel& kernel, DirectoryLocks& locks);
  ~Notifier();  // may wait for a notification the kernel holds; the end of the connection frees it

  // As Worker::PostSession. Any thread.
  void PostSession(std::shared_ptr<DaemonSession> session);

 private:
  static constexpr size_t kMostDeferred = 4096;

  Notifier(KernelChannel& kernel, DirectoryLocks& locks) : kernel_(kernel), locks_(locks) {}
  void Run();
  void TakeNotifications(DaemonSession& session);
  void RetryDeferred();
  bool Deliver(const ring::Notification& notification);
  void Wait(const DaemonSession* session);

  KernelChannel& kernel_;
  DirectoryLocks& locks_;
  UniqueFd wake_;
  std::atomic<bool> stop_ = false;
  std::deque<ring::Notification> deferred_;  // this thread's
  std::mutex mutex_;
  std::optional<std::shared_ptr<DaemonSession>> posted_;  // guarded by mutex_
  std::jthread thread_;
};

}  // namespace mlcache::shim
