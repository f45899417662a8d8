// The committing half of TieredCache: groups of what was filled become durable, then rows.
#include <pthread.h>

#include <algorithm>
#include <map>

#include "cached/cache/tiered_cache.h"

namespace mlcache::cache {
namespace {

constexpr size_t kCommitEntries = 1024;
constexpr uint64_t kBatchBytes = 512 * kKiB;  // small beside the margin of a database
constexpr Nanos kTouchedInterval = std::chrono::seconds(10);

}  // namespace

void TieredCache::Dirty(std::shared_ptr<Entry> entry, Tier* tier, uint64_t bytes) {
  bool due = false;
  {
    const std::scoped_lock lock(queue_mutex_);
    if (entry != nullptr) queue_.push_back({std::move(entry), tier});
    queue_bytes_ += bytes;
    due = queue_bytes_ >= options_.commit_bytes || queue_.size() >= kCommitEntries;
  }
  if (due) queue_changed_.notify_one();
}

void TieredCache::Run(const std::stop_token& stop) {
  pthread_setname_np(pthread_self(), "cache-commit");
  bool failed = false;
  while (!stop.stop_requested()) {
    {
      std::unique_lock lock(queue_mutex_);
      // After a failure the queue stays full: only time, not fullness, may start the next round.
      queue_changed_.wait_for(lock, stop, options_.commit_interval, [&] {
        return !failed && (queue_bytes_ >= options_.commit_bytes || queue_.size() >= kCommitEntries);
      });
    }
    if (!stop.stop_requested()) failed = !CommitRound(false).has_value();
  }
}

Status TieredCache::Flush() { return CommitRound(true); }

Status TieredCache::CommitRound(bool final) {
  const std::scoped_lock committing(commit_mutex_);
  std::vector<Pending> pending;
  {
    const std::scoped_lock lock(queue_mutex_);
    pending.swap(queue_);
    queue_bytes_ = 0;
  }
  std::map<Tier*, std::vector<std::shared_ptr<Entry>>> groups;
  for (Pending& one : pending) groups[one.tier].push_back(std::move(one.entry));
  Status result;
  for (const auto& [tier, entries] : groups) {
    if (auto committed = CommitGroup(*tier, entries); !committed.has_value()) result = committed;
  }
  const Nanos now = clock_.Now();
  if (final || now - touched_written_ >= kTouchedInterval) {
    touched_written_ = now;
    for (const Level& level : levels_) {
      if (auto written = CommitTouched(*level.tier); !written.has_value()) result = written;
    }
    const std::scoped_lock lock(mutex_);
    std::erase_if(touched_, [&](const ObjectId& id) {
      const auto found = records_.find(id);
      return found == records_.end() || !found->second.touched;
    });
  }
  Tend();
  return result;
}

Status TieredCache::CommitGroup(Tier& tier, const std::vector<std::shared_ptr<Entry>>& entries) {
  std::vector<Entry::Snapshot> snapshots;
  std::vector<ObjectId> files;
  for (const auto& entry : entries) {
    snapshots.push_back(entry->BeginCommit());
    if (!snapshots.back().chunks.empty()) files.push_back(entry->id());
  }
  tier.ops().Reach("commit.before_sync");
  if (auto synced = tier.SyncFiles(files); !synced.has_value()) {
    // After a failed sync nobody knows which bytes are on the disk.
    for (const auto& entry : entries) entry->EvictAll();
    return synced;
  }
  tier.ops().Reach("commit.after_sync");
  Status written;
  for (size_t i = 0; i < entries.size() && written.has_value();) {
    const size_t first = i;
    IndexBatch batch;
    const auto lock = tier.index().Lock();
    for (; i < entries.size() && batch.bytes() < kBatchBytes; ++i) {
      entries[i]->FinishCommit(snapshots[i], tier, batch);
    }
    written = tier.index().Write(batch);
    if (!written.has_value()) i = first;
    for (size_t left = i; left < entries.size() && !written.has_value(); ++left) {
      entries[left]->AbandonCommit(snapshots[left]);
    }
  }
  if (written.has_value() && !tier.in_memory()) written = tier.index().Sync();
  tier.ops().Reach("commit.after_rows");
  if (!written.has_value()) return std::unexpected(tier.Failed(written.error()));
  return {};
}

Status TieredCache::CommitTouched(Tier& tier) {
  constexpr size_t kAtOnce = 1024;
  std::vector<ObjectId> ids;
  {
    const std::scoped_lock lock(mutex_);
    ids = touched_;
  }
  for (size_t first = 0; first < ids.size(); first += kAtOnce) {
    IndexBatch batch;
    const auto index_lock = tier.index().Lock();
    {
      const std::scoped_lock lock(mutex_);
      for (size_t i = first; i < std::min(first + kAtOnce, ids.size()); ++i) {
        const auto found = records_.find(ids[i]);
        if (found == records_.end() || found->second.tier != &tier) continue;
        found->second.touched = false;
        batch.PutAccess(ids[i], found->second.last_access_ns);
      }
    }
    if (auto written = tier.index().Write(batch); !written.has_value()) {
      return std::unexpected(tier.Failed(written.error()));
    }
  }
  return {};
}

void TieredCache::Tend() {
  for (size_t i = 0; i < levels_.size(); ++i) {
    Tier& tier = *levels_[i].tier;
    tier.ProbeIfDue();
    tier.graveyard().Reap(Graveyard::Which::kAll);
    tier.meter().Measure();
    Relieve(i);
    uint64_t objects = 0;
    {
      const std::scoped_lock lock(mutex_);
      objects = objects_.at(&tier);
    }
    tier.PublishGauges(objects);
  }
}

}  // namespace mlcache::cache
