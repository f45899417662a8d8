#include "cached/session/lender.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

#include "common/ring/socket.h"

namespace mlcache::session {
namespace {

// The label of reads that the kernel does by itself: the whole file is counted when it is opened.
constexpr char kWhole[] = "whole";

prometheus::Counter& HitBytes(Metrics& metrics, const char* tier) {
  return metrics.cache_hit_bytes.Add({{"tier", tier}, {"pattern", kWhole}});
}

// Not fstat: a directory of a hostile FUSE mount would never answer.
Status CheckRoot(int fd, const cache::ObjectsDirectory& expected) {
  struct statx found{};
  if (::statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE | STATX_INO, &found) != 0) {
    return FailErrno(errno, "stat what a mount sent as " + expected.path);
  }
  if (makedev(found.stx_dev_major, found.stx_dev_minor) != expected.device || found.stx_ino != expected.inode) {
    return Fail(Code::kPermissionDenied, "a mount sent another directory as " + expected.path);
  }
  // Ours, so it answers.
  struct statvfs flags{};
  if (::fstatvfs(fd, &flags) != 0) return FailErrno(errno, "statvfs of " + expected.path);
  if ((flags.f_flag & ST_RDONLY) == 0) {
    return Fail(Code::kPermissionDenied, "a mount sent a writable view of " + expected.path);
  }
  return {};
}

}  // namespace

Lender::Lender(cache::ObjectCache& cache, Metrics& metrics)
    : cache_(cache),
      hits_(metrics.cache_hits.Add({{"pattern", kWhole}})),
      miss_bytes_(metrics.cache_miss_bytes.Add({{"pattern", kWhole}})),
      hit_bytes_{&HitBytes(metrics, "disk"), &HitBytes(metrics, "memory")} {}

Status Lender::Begin(std::vector<UniqueFd> descriptors) {
  if (ready()) return Fail(Code::kFailedPrecondition, "a mount sent its read-only directories twice");
  const std::vector<cache::ObjectsDirectory> expected = cache_.ObjectsDirectories();
  if (descriptors.size() != expected.size() + 1) {
    return Fail(Code::kInvalidArgument, "a mount sent " + std::to_string(descriptors.size()) +
                                            " descriptors to lend through, not " + std::to_string(expected.size() + 1));
  }
  for (size_t i = 0; i < expected.size(); ++i) {
    MLCACHE_RETURN_IF_ERROR(CheckRoot(descriptors[i + 1].get(), expected[i]));
  }
  socket_ = std::move(descriptors.front());
  for (size_t i = 1; i < descriptors.size(); ++i) roots_.directories.push_back(std::move(descriptors[i]));
  ready_.store(true, std::memory_order_release);
  return {};
}

Result<uint64_t> Lender::Lend(uint64_t node, cache::CachedObject& object, const cache::AccessHints& hints,
                              cache::Wait wait) {
  if (!ready()) return Fail(Code::kFailedPrecondition, "this mount cannot be lent files");
  if (sent_ - taken_ >= kMostUnderWay) return Fail(Code::kUnavailable, "too many files are on their way to this mount");
  // First, so that it cannot be evicted behind our back; to revoke what was not lent in the end harms nobody.
  Remember(node, object, hints);
  MLCACHE_ASSIGN_OR_RETURN(const UniqueFd file, object.Lend(roots_, wait));
  uint64_t number = 0;
  {
    const std::scoped_lock lock(send_mutex_);
    number = sent_ + 1;
    const std::string_view bytes(reinterpret_cast<const char*>(&number), sizeof(number));
    // Without waiting: a mount that takes nothing off its socket is lent nothing.
    MLCACHE_RETURN_IF_ERROR(ring::Send(socket_.get(), bytes, {file.get()}, 0));
    sent_ = number;
  }
  CountHit(object.TierKind() == "memory", object.key().size);
  object.Touch({.offset = 0, .length = object.key().size}, hints);
  return number;
}

void Lender::Taken(uint64_t count) {
  const std::scoped_lock lock(send_mutex_);
  // More than were sent is a lie that hurts the liar alone.
  taken_ += std::min(count, sent_ - taken_);
}

void Lender::CountHit(bool in_memory, uint64_t bytes) {
  hits_.Increment();
  hit_bytes_.at(in_memory ? 1 : 0)->Increment(static_cast<double>(bytes));
}

void Lender::Remember(uint64_t node, const cache::CachedObject& object, const cache::AccessHints& hints) {
  const cache::ObjectId id = cache::IdOf(object.key());
  const bool in_memory = object.TierKind() == "memory";
  const std::scoped_lock lock(mutex_);
  auto [found, fresh] = lent_.try_emplace(node);
  Lent& lent = found->second;
  if (fresh) {
    lent.used = used_.insert(used_.begin(), node);
  } else {
    nodes_.erase(lent.id);
    used_.splice(used_.begin(), used_, lent.used);
  }
  lent.id = id;
  lent.bytes = object.key().size;
  lent.in_memory = in_memory;
  lent.hints = hints;
  nodes_[id] = node;
  if (lent_.size() <= kMostRemembered) return;
  const auto oldest = lent_.find(used_.back());
  nodes_.erase(oldest->second.id);
  lent_.erase(oldest);
  used_.pop_back();
}

void Lender::Accessed(std::span<const uint64_t> nodes) {
  for (const uint64_t node : nodes) {
    cache::ObjectId id{};
    cache::AccessHints hints;
    uint64_t bytes = 0;
    bool in_memory = false;
    {
      const std::scoped_lock lock(mutex_);
      const auto found = lent_.find(node);
      if (found == lent_.end()) continue;
      used_.splice(used_.begin(), used_, found->second.used);
      id = found->second.id;
      hints = found->second.hints;
      bytes = found->second.bytes;
      in_memory = found->second.in_memory;
    }
    CountHit(in_memory, bytes);
    cache_.Touch(id, hints);
  }
}

std::optional<uint64_t> Lender::Leave(const cache::ObjectId& id) {
  const std::scoped_lock lock(mutex_);
  const auto found = nodes_.find(id);
  if (found == nodes_.end()) return std::nullopt;
  const uint64_t node = found->second;
  nodes_.erase(found);
  if (const auto lent = lent_.find(node); lent != lent_.end()) {
    used_.erase(lent->second.used);
    lent_.erase(lent);
  }
  return node;
}

}  // namespace mlcache::session
