#include "shim/notifier.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>

#include <array>
#include <cerrno>
#include <string>
#include <utility>

#include "shim/open_table.h"

namespace mlcache::shim {
namespace {

constexpr int kRetryMs = 20;

}  // namespace

Result<std::unique_ptr<Notifier>> Notifier::Start(KernelChannel& kernel, DirectoryLocks& locks, Revoked revoked) {
  std::unique_ptr<Notifier> notifier(new Notifier(kernel, locks, std::move(revoked)));
  notifier->wake_.Reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!notifier->wake_.valid()) return FailErrno(errno, "eventfd");
  notifier->thread_ = std::jthread([self = notifier.get()] { self->Run(); });
  ::pthread_setname_np(notifier->thread_.native_handle(), "notifier");
  return notifier;
}

Notifier::~Notifier() {
  stop_ = true;
  if (wake_.valid()) ::eventfd_write(wake_.get(), 1);
}

void Notifier::PostSession(std::shared_ptr<DaemonSession> session) {
  {
    const std::lock_guard lock(mutex_);
    posted_ = std::move(session);
  }
  ::eventfd_write(wake_.get(), 1);
}

void Notifier::Run() {
  std::shared_ptr<DaemonSession> session;
  while (!stop_) {
    {
      const std::lock_guard lock(mutex_);
      if (posted_.has_value()) session = *std::exchange(posted_, std::nullopt);
    }
    RetryDeferred();
    if (session != nullptr) TakeNotifications(*session);
    Wait(session.get());
  }
}

void Notifier::TakeNotifications(DaemonSession& session) {
  while (const std::optional<ring::Notification> notification = session.channel->PopNotification()) {
    if (!Deliver(*notification) && deferred_.size() < kMostDeferred) deferred_.push_back(*notification);
  }
}

void Notifier::RetryDeferred() {
  for (size_t left = deferred_.size(); left > 0; --left) {
    const ring::Notification notification = deferred_.front();
    deferred_.pop_front();
    if (!Deliver(notification)) deferred_.push_back(notification);
  }
}

// False: not now. Whatever the kernel says (ENOENT: it knew nothing of it) settles the matter.
bool Notifier::Deliver(const ring::Notification& notification) {
  switch (notification.notice) {
    case ring::Notice::kInvalidateEntry: {
      if (notification.name_length == 0 || notification.name_length > ring::kMaxNameBytes) return true;
      if (locks_.IsBusy(notification.node)) return false;
      const std::string name(notification.name.data(), notification.name_length);
      fuse_lowlevel_notify_inval_entry(kernel_.session(), notification.node, name.c_str(), name.size());
      return true;
    }
    case ring::Notice::kInvalidateInode:
      fuse_lowlevel_notify_inval_inode(kernel_.session(), notification.node, 0, 0);
      if (OpenTable::HasAlias(notification.node)) {
        fuse_lowlevel_notify_inval_inode(kernel_.session(), notification.node | 1, 0, 0);
      }
      return true;
    case ring::Notice::kRevoke:
      if (OpenTable::HasAlias(notification.node)) revoked_(OpenTable::BaseOf(notification.node));
      return true;
    case ring::Notice::kNone:
      break;
  }
  return true;
}

void Notifier::Wait(const DaemonSession* session) {
  if (session != nullptr && !session->channel->PrepareToSleepForNotification()) return;
  std::array<pollfd, 2> waiting{{{wake_.get(), POLLIN, 0}, {-1, POLLIN, 0}}};
  if (session != nullptr) waiting[1].fd = session->descriptors.notification_doorbell.get();
  ::poll(waiting.data(), waiting.size(), deferred_.empty() ? -1 : kRetryMs);
  eventfd_t ignored = 0;
  for (const pollfd& one : waiting) {
    if ((one.revents & POLLIN) != 0) ::eventfd_read(one.fd, &ignored);
  }
}

}  // namespace mlcache::shim
