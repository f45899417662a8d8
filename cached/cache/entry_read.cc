// The reading half of Entry: plan under the state lock, then verify and read with only the shared I/O lock held.
#include <prometheus/counter.h>

#include <cerrno>

#include "cached/cache/block_sum.h"
#include "cached/cache/entry.h"

namespace mlcache::cache {

Status Entry::Read(uint64_t offset, std::span<std::byte> out, Wait wait) {
  if (offset > size_ || out.size() > size_ - offset) {
    return Fail(Code::kOutOfRange, key_.path + ": a read beyond the object's end");
  }
  if (out.empty()) return {};
  std::vector<uint64_t> damaged;
  Status status;
  {
    std::shared_lock io(io_mutex_, std::defer_lock);
    if (wait == Wait::kMayBlock) {
      io.lock();
    } else if (!io.try_lock()) {
      return Fail(Code::kUnavailable, key_.path + ": busy");
    }
    auto plan = PlanRead(offset, out.size(), wait);
    if (plan.has_value()) {
      status = Verify(*plan, damaged);
      if (status.has_value() && damaged.empty()) status = ReadBytes(*plan, offset, out, wait);
    } else {
      status = std::unexpected(plan.error());
    }
  }
  if (!damaged.empty()) return Damaged(damaged, false);
  if (status.has_value()) return {};
  switch (status.error().code()) {
    case Code::kDataLoss: {  // the file ends too early
      for (uint64_t block = offset / kBlockBytes; block <= (offset + out.size() - 1) / kBlockBytes; ++block) {
        damaged.push_back(block);
      }
      return Damaged(damaged, true);
    }
    case Code::kInternal:
      return LostTier(status.error());
    default:
      return status;
  }
}

// Errors: kNotFound, kUnavailable as Read; kInternal when the tier failed.
Result<Entry::ReadPlan> Entry::PlanRead(uint64_t offset, uint64_t length, Wait wait) {
  const std::scoped_lock lock(state_mutex_);
  if (tier_ != nullptr && tier_->health() == TierHealth::kFailed) {
    return Fail(Code::kInternal, key_.path + ": its tier is isolated: " + tier_->StateText());
  }
  if (!Present(offset, length)) return Fail(Code::kNotFound, key_.path + ": not cached");
  const bool never = wait == Wait::kNever;
  if (never && tier_->descriptors().Find(id_) == nullptr) return Fail(Code::kUnavailable, key_.path + ": not open");
  auto file = File();
  if (!file.has_value()) {
    // Out of descriptors is a passing thing; anything else means that the file is not what the rows say.
    const bool passing = file.error().code() == Code::kResourceExhausted;
    return Fail(passing ? Code::kUnavailable : Code::kInternal, file.error().message());
  }
  ReadPlan plan{.tier = tier_, .file = std::move(*file), .unverified = {}};
  if (state_.complete && state_.all_verified) return plan;
  if (!Load().has_value()) return Fail(Code::kInternal, key_.path + ": its rows cannot be read");
  for (uint64_t block = offset / kBlockBytes; block <= (offset + length - 1) / kBlockBytes; ++block) {
    if (!blocks_.Has(block, &ChunkBlocks::verified)) plan.unverified.push_back(block);
  }
  if (never && !plan.unverified.empty()) return Fail(Code::kUnavailable, key_.path + ": to be verified first");
  return plan;
}

Status Entry::Verify(const ReadPlan& plan, std::vector<uint64_t>& damaged) {
  if (plan.unverified.empty()) return {};
  std::vector<std::byte> buffer(kBlockBytes);
  std::vector<uint64_t> good;
  for (const uint64_t block : plan.unverified) {
    const auto bytes = std::span(buffer).first(BlockLength(size_, block));
    const auto read = ReadBytes(plan, block * kBlockBytes, bytes, Wait::kMayBlock);
    if (!read.has_value() && read.error().code() != Code::kDataLoss) return read;
    const uint64_t sum = BlockSum(fingerprint_, block * kBlockBytes, bytes);
    const std::scoped_lock lock(state_mutex_);
    const bool matches = read.has_value() && blocks_.Matches(block, sum) && blocks_.Has(block, &ChunkBlocks::present);
    (matches ? good : damaged).push_back(block);
  }
  MarkVerified(good);
  return {};
}

void Entry::MarkVerified(std::span<const uint64_t> blocks) {
  uint64_t bytes = 0;
  const std::scoped_lock lock(state_mutex_);
  for (const uint64_t block : blocks) {
    ChunkBlocks& chunk = blocks_.Chunk(ChunkOf(block));
    if ((chunk.verified & BitOf(block)) != 0) continue;
    chunk.verified |= BitOf(block);
    chunk.dirty = true;
    bytes += BlockLength(size_, block);
  }
  if (bytes == 0) return;
  state_.all_verified = state_.complete && blocks_.Everything(&ChunkBlocks::verified);
  tier_->counters().verified_bytes.Increment(static_cast<double>(bytes));
  host_.Changed(id_, state_, tier_, {}, {});
  MarkDirty(0);
}

// kDataLoss when the file is too short, kInternal when the tier failed.
Status Entry::ReadBytes(const ReadPlan& plan, uint64_t offset, std::span<std::byte> out, Wait wait) {
  // tmpfs knows no RWF_NOWAIT, and does not wait.
  const bool nowait = wait == Wait::kNever && !plan.tier->in_memory();
  while (!out.empty()) {
    const ssize_t done = plan.tier->ops().Read(plan.file->fd(), out, offset, nowait);
    if (done == 0) return Fail(Code::kDataLoss, key_.path + ": its object file is too short");
    if (done < 0) {
      if (nowait && (done == -EAGAIN || done == -EOPNOTSUPP)) {
        return Fail(Code::kUnavailable, key_.path + ": not in memory");
      }
      const Error error = plan.tier->Failed(static_cast<int>(-done), key_.path + ": read of its object file");
      return Fail(Code::kInternal, error.message());
    }
    offset += static_cast<uint64_t>(done);
    out = out.subspan(static_cast<size_t>(done));
  }
  return {};
}

Status Entry::Damaged(std::span<const uint64_t> blocks, bool even_if_verified) {
  const std::unique_lock io(io_mutex_);
  for (const uint64_t block : blocks) {
    {
      const std::scoped_lock lock(state_mutex_);
      if (tier_ == nullptr || !Load().has_value() || !blocks_.Has(block, &ChunkBlocks::present)) continue;
      // Perhaps filled anew by somebody since.
      if (!even_if_verified && blocks_.Has(block, &ChunkBlocks::verified)) continue;
      tier_->counters().corrupt_blocks.Increment();
    }
    Take(ChunkOf(block), BitOf(block), Taken::kDamaged);
  }
  return Fail(Code::kDataLoss, key_.path + ": a cached block does not match its checksum and was dropped");
}

Status Entry::LostTier(const Error& error) {
  EvictAll();
  return Fail(Code::kUnavailable, error.message());
}

}  // namespace mlcache::cache
