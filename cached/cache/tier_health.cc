// The part of Tier that decides what an error means for it, and when to try again.
#include <fcntl.h>
#include <glog/logging.h>

#include <array>
#include <cerrno>

#include "cached/cache/tier.h"

namespace mlcache::cache {
namespace {

constexpr Nanos kProbeInterval = std::chrono::seconds(30);

bool MeansFull(int error_number) { return error_number == ENOSPC || error_number == EDQUOT || error_number == EFBIG; }

// Of the process, which the tier cannot help.
bool IsOurs(int error_number) { return error_number == EMFILE || error_number == ENFILE || error_number == ENOMEM; }

}  // namespace

Error Tier::Failed(int error_number, const std::string& what) {
  const Error cause = ErrnoError(error_number, what);
  if (IsOurs(error_number)) return {Code::kResourceExhausted, cause.message()};
  return Isolate(MeansFull(error_number) ? TierHealth::kFull : TierHealth::kFailed, cause.message());
}

Error Tier::Failed(const Error& error) {
  return Isolate(error.code() == Code::kResourceExhausted ? TierHealth::kFull : TierHealth::kFailed, error.message());
}

Error Tier::Isolate(TierHealth health, const std::string& why) {
  {
    const std::scoped_lock lock(mutex_);
    const TierHealth before = health_.load(std::memory_order_relaxed);
    if (before == TierHealth::kOk) {
      probe_at_ = clock_.Now() + kProbeInterval;
      why_ = why;
    }
    if (health > before) health_.store(health, std::memory_order_release);
    if (before == TierHealth::kOk) {
      LOG(ERROR) << "tier " << options_.directory << ": bypassed, tried again every 30 s: " << why;
    }
  }
  return {health == TierHealth::kFull ? Code::kResourceExhausted : Code::kUnavailable, why};
}

std::string Tier::StateText() const {
  const std::scoped_lock lock(mutex_);
  return health_.load(std::memory_order_relaxed) == TierHealth::kOk ? "ok" : why_;
}

bool Tier::ProbeIfDue() {
  {
    const std::scoped_lock lock(mutex_);
    if (health_.load(std::memory_order_relaxed) == TierHealth::kOk || clock_.Now() < probe_at_) return false;
    probe_at_ = clock_.Now() + kProbeInterval;
  }
  if (!Probe()) return false;
  {
    const std::scoped_lock lock(mutex_);
    health_.store(TierHealth::kOk, std::memory_order_release);
    why_.clear();
  }
  LOG(WARNING) << "tier " << options_.directory << ": works again";
  return true;
}

bool Tier::Probe() {
  constexpr size_t kProbeBytes = 64 * kKiB;
  const std::array<std::byte, kProbeBytes> bytes{};
  if (!budget_.TryCharge(kProbeBytes)) return false;
  bool works = false;
  {
    const UniqueFd file(::openat(root_.get(), "probe", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
    works = file.valid() && ops().Write(file.get(), bytes, 0) == static_cast<ssize_t>(kProbeBytes) &&
            ops().Sync(file.get(), false) == 0;
    static_cast<void>(::unlinkat(root_.get(), "probe", 0));
  }
  budget_.Release(kProbeBytes);
  return works && index_->Resume().has_value();
}

}  // namespace mlcache::cache
