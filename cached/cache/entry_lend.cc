// The lending half of Entry: a complete, verified file is opened for somebody else.
#include <fcntl.h>
#include <sys/stat.h>

#include "cached/cache/entry.h"
#include "cached/cache/graveyard.h"

namespace mlcache::cache {

Result<UniqueFd> Entry::Lend(const LendingRoots& roots, Wait wait) {
  std::vector<uint64_t> damaged;
  Result<UniqueFd> lent = Fail(Code::kNotFound, key_.path + ": not complete");
  {
    std::shared_lock io(io_mutex_, std::defer_lock);
    if (wait == Wait::kMayBlock) {
      io.lock();
    } else if (!io.try_lock()) {
      return Fail(Code::kUnavailable, key_.path + ": busy");
    }
    lent = LendVerified(roots, wait, damaged);
  }
  if (!damaged.empty()) return std::unexpected(Damaged(damaged, false).error());
  return lent;
}

// io_mutex_ held: nothing of the file is taken away meanwhile.
Result<UniqueFd> Entry::LendVerified(const LendingRoots& roots, Wait wait, std::vector<uint64_t>& damaged) {
  {
    const std::scoped_lock lock(state_mutex_);
    if (!state_.complete || size_ == 0) return Fail(Code::kNotFound, key_.path + ": not complete");
  }
  MLCACHE_ASSIGN_OR_RETURN(const auto plan, PlanLending(wait));
  MLCACHE_RETURN_IF_ERROR(Verify(plan, damaged));
  if (!damaged.empty()) return Fail(Code::kDataLoss, key_.path + ": damaged");
  const std::scoped_lock lock(state_mutex_);
  if (tier_ == nullptr || !state_.complete || !state_.all_verified) {
    return Fail(Code::kNotFound, key_.path + ": not complete any more");
  }
  MLCACHE_ASSIGN_OR_RETURN(const std::shared_ptr<ObjectFile> file, File());
  MLCACHE_ASSIGN_OR_RETURN(UniqueFd fd, tier_->OpenForLending(id_, roots));
  struct stat ours{};
  struct stat theirs{};
  const bool same = ::fstat(file->fd(), &ours) == 0 && ::fstat(fd.get(), &theirs) == 0 &&
                    ours.st_ino == theirs.st_ino && ours.st_dev == theirs.st_dev;
  if (!same || static_cast<uint64_t>(theirs.st_size) != size_) {
    return Fail(Code::kInternal, key_.path + ": its object file is another one by name than by descriptor");
  }
  return fd;
}

Result<Entry::ReadPlan> Entry::PlanLending(Wait wait) {
  Result<ReadPlan> plan = PlanRead(0, size_, wait);
  if (plan.has_value() || plan.error().code() != Code::kInternal) return plan;
  return Fail(Code::kUnavailable, plan.error().message());
}

// Whether bytes of the file must not be changed in place. state_mutex_ held.
bool Entry::MayBeLent() {
  if (!state_.complete) return false;
  const auto file = File();
  struct stat info{};
  return !file.has_value() || ::fstat((*file)->fd(), &info) != 0 || info.st_nlink != 1 ||
         !IsUsedByNobodyElse((*file)->fd());
}

}  // namespace mlcache::cache
