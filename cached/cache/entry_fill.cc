// The filling half of Entry: plan under the state lock, write with only the shared I/O lock held, then make it known.
#include <cerrno>

#include "cached/cache/block_sum.h"
#include "cached/cache/entry.h"
#include "cached/cache/reservation.h"

namespace mlcache::cache {

struct Entry::FillPlan {
  Tier* tier = nullptr;
  std::shared_ptr<ObjectFile> file;
  std::vector<uint64_t> blocks;  // to be written, in order
  uint64_t cost = 0;             // charged for them
};

Status Entry::CheckFill(uint64_t offset, std::span<const std::byte> bytes) const {
  if (offset % kBlockBytes != 0 || offset > size_ || bytes.size() > size_ - offset ||
      (bytes.size() % kBlockBytes != 0 && offset + bytes.size() != size_)) {
    return Fail(Code::kInvalidArgument, key_.path + ": a fill must be whole blocks within the object");
  }
  return {};
}

Status Entry::Fill(Reservation& reservation, uint64_t offset, std::span<const std::byte> bytes) {
  MLCACHE_RETURN_IF_ERROR(CheckFill(offset, bytes));
  if (bytes.empty()) return {};
  auto& room = static_cast<Room&>(reservation);
  const uint64_t first = offset / kBlockBytes;
  const uint64_t last = (offset + bytes.size() - 1) / kBlockBytes;
  std::vector<uint64_t> sums;
  for (uint64_t block = first; block <= last; ++block) {
    const auto part = bytes.subspan(block * kBlockBytes - offset, BlockLength(size_, block));
    sums.push_back(BlockSum(fingerprint_, block * kBlockBytes, part));
  }
  FillPlan plan;
  {
    const std::shared_lock io(io_mutex_);
    MLCACHE_ASSIGN_OR_RETURN(plan, PlanFill(room, first, last));
    if (plan.blocks.empty()) return {};
    const Status written = WriteBlocks(plan, offset, bytes);
    plan.tier->ops().Reach("fill.after_write");
    if (written.has_value()) {
      std::vector<uint64_t> chosen;
      chosen.reserve(plan.blocks.size());
      for (const uint64_t block : plan.blocks) chosen.push_back(sums[block - first]);
      FinishFill(plan, chosen, room.hints());
      return {};
    }
    AbandonFill(plan);
    if (written.error().code() != Code::kResourceExhausted && written.error().code() != Code::kUnavailable) {
      return written;
    }
  }
  Scrap(plan);
  const Code code = plan.tier->health() == TierHealth::kFailed ? Code::kUnavailable : Code::kResourceExhausted;
  return Fail(code, key_.path + ": cannot be kept: " + plan.tier->StateText());
}

Result<Entry::FillPlan> Entry::PlanFill(Room& room, uint64_t first, uint64_t last) {
  std::unique_lock lock(state_mutex_);
  FillPlan plan;
  plan.tier = tier_ != nullptr ? tier_ : &room.tier();
  if (plan.tier->health() != TierHealth::kOk) {
    const bool failed = plan.tier->health() == TierHealth::kFailed;
    return Fail(failed ? Code::kUnavailable : Code::kResourceExhausted, key_.path + ": its tier is isolated");
  }
  if (state_.complete) return plan;
  MLCACHE_RETURN_IF_ERROR(Load());
  // Nobody writes a block that another is writing: it might become part of a complete file meanwhile.
  filled_.wait(lock, [&] {
    for (uint64_t block = first; block <= last; ++block) {
      if (blocks_.Has(block, &ChunkBlocks::filling)) return false;
    }
    return true;
  });
  for (uint64_t block = first; block <= last; ++block) {
    if (blocks_.Has(block, &ChunkBlocks::present)) continue;
    plan.blocks.push_back(block);
    plan.cost += RoundToFileBlocks(BlockLength(size_, block));
  }
  if (plan.blocks.empty()) return plan;
  plan.tier = tier_ != nullptr ? tier_ : &room.tier();
  const uint64_t extents = tier_ == nullptr ? SpaceOfExtents(size_) : 0;
  if (!room.Take(*plan.tier, plan.cost + extents)) {
    return Fail(Code::kResourceExhausted, key_.path + ": more than was reserved");
  }
  auto file = tier_ == nullptr ? plan.tier->CreateObject(id_, size_) : File();
  if (!file.has_value()) {
    plan.tier->budget().Release(plan.cost + extents);
    return std::unexpected(file.error().WithContext(key_.path + ": cannot be kept"));
  }
  plan.file = std::move(*file);
  if (tier_ == nullptr) {
    tier_ = plan.tier;
    state_.boot = host_.Boot();
    state_.charged_bytes = extents;
    checked_ = true;
  }
  ++filling_;
  for (const uint64_t block : plan.blocks) blocks_.Chunk(ChunkOf(block)).filling |= BitOf(block);
  return plan;
}

Status Entry::WriteBlocks(const FillPlan& plan, uint64_t offset, std::span<const std::byte> bytes) {
  // The kernel lets one writer into a file at a time, and the others burn their CPU spinning for it: sleep instead.
  const std::scoped_lock turn(write_mutex_);
  for (size_t i = 0; i < plan.blocks.size();) {
    size_t end = i + 1;
    while (end < plan.blocks.size() && plan.blocks[end] == plan.blocks[end - 1] + 1) ++end;
    uint64_t at = plan.blocks[i] * kBlockBytes;
    const uint64_t last = plan.blocks[end - 1];
    const uint64_t stop = last * kBlockBytes + BlockLength(size_, last);
    while (at < stop) {
      const ssize_t done = plan.tier->ops().Write(plan.file->fd(), bytes.subspan(at - offset, stop - at), at);
      if (done <= 0) {
        const int error = done == 0 ? ENOSPC : static_cast<int>(-done);
        return std::unexpected(plan.tier->Failed(error, key_.path + ": write to its object file"));
      }
      at += static_cast<uint64_t>(done);
    }
    i = end;
  }
  return {};
}

void Entry::FinishFill(const FillPlan& plan, std::span<const uint64_t> sums, const AccessHints& hints) {
  {
    const std::scoped_lock lock(state_mutex_);
    uint64_t bytes = 0;
    for (size_t i = 0; i < plan.blocks.size(); ++i) {
      const uint64_t block = plan.blocks[i];
      ChunkBlocks& chunk = blocks_.Chunk(ChunkOf(block));
      chunk.filling &= ~BitOf(block);
      chunk.present |= BitOf(block);
      chunk.verified |= BitOf(block);
      chunk.sums[block % kBlocksPerChunk] = sums[i];
      chunk.dirty = true;
      bytes += BlockLength(size_, block);
    }
    --filling_;
    state_.cached_bytes += bytes;
    state_.charged_bytes += plan.cost;
    state_.complete = state_.cached_bytes == size_;
    state_.all_verified = state_.complete && blocks_.Everything(&ChunkBlocks::verified);
    if (hints.object_class != ObjectClass::kUnknown) state_.object_class = hints.object_class;
    std::vector<ChunkSpace> changed;
    for (uint32_t chunk = ChunkOf(plan.blocks.front()); chunk <= ChunkOf(plan.blocks.back()); ++chunk) {
      changed.push_back({chunk, SpaceOfBlocks(size_, chunk, blocks_.Chunk(chunk).present)});
    }
    host_.Changed(id_, state_, tier_, changed, hints);
    MarkDirty(bytes);
  }
  filled_.notify_all();
}

void Entry::AbandonFill(const FillPlan& plan) {
  {
    const std::scoped_lock lock(state_mutex_);
    for (const uint64_t block : plan.blocks) blocks_.Chunk(ChunkOf(block)).filling &= ~BitOf(block);
    --filling_;
  }
  filled_.notify_all();
}

// Takes what a failed fill may have left in the file out again, and gives its room back.
void Entry::Scrap(const FillPlan& plan) {
  const std::unique_lock io(io_mutex_);
  bool empty = false;
  {
    const std::scoped_lock lock(state_mutex_);
    empty = tier_ == plan.tier && state_.cached_bytes == 0;
    if (tier_ == plan.tier && !empty) {
      for (const uint64_t block : plan.blocks) {
        if (blocks_.Has(block, &ChunkBlocks::present)) continue;
        const uint64_t length = RoundToFileBlocks(BlockLength(size_, block));
        static_cast<void>(plan.tier->ops().Punch(plan.file->fd(), block * kBlockBytes, length));
      }
      MarkDirty(0);
    }
  }
  if (empty) TakeAll();
  plan.tier->budget().Release(plan.cost);
}

}  // namespace mlcache::cache
