// The part of Entry that turns what is in memory into rows.
#include <fcntl.h>
#include <glog/logging.h>
#include <sys/stat.h>

#include <utility>

#include "cached/cache/entry.h"

namespace mlcache::cache {

Entry::Snapshot Entry::BeginCommit() {
  const std::scoped_lock lock(state_mutex_);
  dirty_ = false;
  Snapshot snapshot{.generation = generation_, .chunks = {}};
  for (auto& [number, chunk] : blocks_.chunks()) {
    if (!chunk.dirty || chunk.present == 0) continue;
    chunk.dirty = false;
    snapshot.chunks.emplace_back(number, chunk.present);
  }
  return snapshot;
}

void Entry::FinishCommit(const Snapshot& snapshot, Tier& tier, IndexBatch& batch) {
  const std::scoped_lock lock(state_mutex_);
  if (snapshot.generation != generation_ || tier_ != &tier || state_.cached_bytes == 0) return;
  const auto file = tier.OpenObject(id_, false);
  if (!file.has_value()) {
    LOG(WARNING) << file.error();  // found again, and dropped, by the next read
    return;
  }
  if (state_.complete && !read_only_) read_only_ = ::fchmod((*file)->fd(), 0400) == 0;
  const auto facts = (*file)->Look();
  if (!facts.has_value()) return;
  state_.identity = facts->identity;
  if (state_.complete && facts->space_bytes > state_.charged_bytes) {
    tier.budget().ForceCharge(facts->space_bytes - state_.charged_bytes);
    state_.charged_bytes = facts->space_bytes;
  }
  if (state_.complete && std::exchange(let_pages_go_, false)) ::posix_fadvise((*file)->fd(), 0, 0, POSIX_FADV_DONTNEED);
  // A row says only what was there before the data was synced and still is.
  uint64_t later_bytes = 0;
  for (auto& [number, chunk] : blocks_.chunks()) {
    if (chunk.dirty) later_bytes += BytesOfBlocks(size_, number, chunk.present);
  }
  for (const auto& [number, present] : snapshot.chunks) {
    const auto found = blocks_.chunks().find(number);
    if (found == blocks_.chunks().end()) continue;
    batch.PutChunk(id_, number, found->second, present & found->second.present, state_.epoch);
  }
  ObjectState row = state_;
  if (later_bytes > 0) row.complete = row.all_verified = false;
  if (!key_row_ && has_key_) batch.PutKey(id_, key_);
  key_row_ = true;
  batch.PutState(id_, row);
  host_.Changed(id_, state_, tier_, {}, {});
}

void Entry::LetPagesGo() {
  std::shared_ptr<ObjectFile> file;
  {
    const std::scoped_lock lock(state_mutex_);
    if (tier_ != nullptr && tier_->in_memory()) return;
    // What is not on the disk yet cannot go; readers may have had it before it was even written.
    let_pages_go_ = tier_ == nullptr || dirty_ || filling_ > 0 || !state_.complete;
    if (!let_pages_go_) file = tier_->descriptors().Find(id_);
  }
  if (file != nullptr) ::posix_fadvise(file->fd(), 0, 0, POSIX_FADV_DONTNEED);
}

void Entry::AbandonCommit(const Snapshot& snapshot) {
  const std::scoped_lock lock(state_mutex_);
  if (snapshot.generation != generation_ || tier_ == nullptr) return;
  for (const auto& [number, present] : snapshot.chunks) {
    if (const auto found = blocks_.chunks().find(number); found != blocks_.chunks().end()) found->second.dirty = true;
  }
  key_row_ = false;
  MarkDirty(0);
}

}  // namespace mlcache::cache
