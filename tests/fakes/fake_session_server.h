// A SessionServer without sessions: mounts are what the test says. Thread-safe.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "cached/session/session_server.h"

namespace mlcache::testing {

class FakeSessionServer final : public session::SessionServer {
 public:
  void AddMount(session::MountReport report, std::shared_ptr<session::Volume> volume) {
    const std::lock_guard lock(mutex_);
    by_url_[report.store_url] = volume;
    by_mountpoint_[report.mountpoint] = std::move(volume);
    mounts_.push_back(std::move(report));
  }

  std::vector<std::string> notified() const {
    const std::lock_guard lock(mutex_);
    return notified_;
  }

  std::vector<session::MountReport> Mounts() const override {
    const std::lock_guard lock(mutex_);
    return mounts_;
  }

  Result<std::shared_ptr<session::Volume>> VolumeOfMount(const std::string& mountpoint) override {
    return Find(by_mountpoint_, mountpoint);
  }
  Result<std::shared_ptr<session::Volume>> VolumeOfUrl(const std::string& url) override { return Find(by_url_, url); }

  // The plans of every mount; null: there are none.
  std::shared_ptr<prefetch::PlanPrefetcher> plan;
  Result<std::shared_ptr<prefetch::PlanPrefetcher>> PlanOfMount(const std::string& mountpoint) override {
    const auto found = Find(by_mountpoint_, mountpoint);
    if (!found.has_value()) return std::unexpected(found.error());
    if (plan == nullptr) return Fail(Code::kFailedPrecondition, mountpoint + ": without plans");
    return plan;
  }

  void NotifyInvalidated(const session::Volume& /*volume*/, const std::string& path) override {
    const std::lock_guard lock(mutex_);
    notified_.push_back(path);
  }

  std::vector<session::SealSubject> SealSubjects() const override { return {}; }
  Status Send(uint64_t /*mount_id*/, const session::FromDaemon& /*message*/,
              const std::vector<int>& /*descriptors*/) override {
    return Fail(Code::kUnavailable, "no mount of this fake has a session");
  }

 private:
  using Volumes = std::map<std::string, std::shared_ptr<session::Volume>>;

  Result<std::shared_ptr<session::Volume>> Find(const Volumes& volumes, const std::string& name) {
    const std::lock_guard lock(mutex_);
    const auto found = volumes.find(name);
    if (found == volumes.end()) return Fail(Code::kNotFound, name + ": no such mount");
    return found->second;
  }

  mutable std::mutex mutex_;
  std::vector<session::MountReport> mounts_;
  Volumes by_mountpoint_;
  Volumes by_url_;
  std::vector<std::string> notified_;
};

}  // namespace mlcache::testing
