#include "cached/session/open_files.h"

#include <algorithm>
#include <utility>

namespace mlcache::session {

OpenFile::OpenFile(uint64_t node, fetch::Source source, std::shared_ptr<prefetch::Pacer> pacer, Metrics& metrics,
                   const std::string& job)
    : node_(node), source_(std::move(source)), readahead_(source_, std::move(pacer), metrics, job) {}

const fetch::Source& OpenFile::OnRead(uint64_t offset, uint64_t length) {
  std::lock_guard lock(mutex_);
  readahead_.OnRead(offset, length);
  auto& labelled = labelled_[std::min<size_t>(static_cast<size_t>(readahead_.pattern()), kPatterns - 1)];
  if (labelled == nullptr) {
    labelled = std::make_unique<fetch::Source>(source_);
    labelled->pattern = readahead_.pattern_name();
  }
  return *labelled;
}

uint64_t OpenFiles::Add(std::shared_ptr<OpenFile> file) {
  std::lock_guard lock(mutex_);
  if (files_.size() >= kMaxHandles) return 0;
  files_[next_] = std::move(file);
  return next_++;
}

OpenFiles::AddedDirectory OpenFiles::Add(OpenDirectory directory) {
  std::lock_guard lock(mutex_);
  if (directories_.size() >= kMaxHandles) return {};
  if (shown_.size() >= kMaxShown && !shown_.contains(directory.node)) {
    std::erase_if(shown_, [](const auto& row) { return row.second.open_handles == 0; });
  }
  Shown& shown = shown_[directory.node];
  const bool fresh = shown.fetched_at != directory.listing->fetched_at;
  const bool unchanged = !fresh && !shown.mixed;
  if (fresh) {
    shown.fetched_at = directory.listing->fetched_at;
    shown.mixed = shown.open_handles > 0;
  } else if (shown.open_handles == 0) {
    shown.mixed = false;
  }
  ++shown.open_handles;
  directories_[next_] = std::move(directory);
  return {.handle = next_++, .unchanged = unchanged};
}

std::shared_ptr<OpenFile> OpenFiles::File(uint64_t handle, uint64_t node) {
  std::lock_guard lock(mutex_);
  if (const auto found = files_.find(handle); found != files_.end() && found->second->node() == node)
    return found->second;
  const auto kept = by_node_.find(node);
  if (kept == by_node_.end()) return nullptr;
  by_node_used_.splice(by_node_used_.begin(), by_node_used_, kept->second);
  return *kept->second;
}

OpenDirectory OpenFiles::Directory(uint64_t handle, uint64_t node) {
  std::lock_guard lock(mutex_);
  const auto found = directories_.find(handle);
  if (found == directories_.end() || found->second.node != node) return {};
  return found->second;
}

std::shared_ptr<OpenFile> OpenFiles::KeepByNode(std::shared_ptr<OpenFile> file) {
  std::shared_ptr<OpenFile> dropped;  // its readahead is called off outside the lock
  std::lock_guard lock(mutex_);
  const auto [kept, fresh] = by_node_.try_emplace(file->node());
  if (!fresh) return *kept->second;
  kept->second = by_node_used_.insert(by_node_used_.begin(), file);
  if (by_node_used_.size() > kMaxByNode) {
    dropped = std::move(by_node_used_.back());
    by_node_.erase(dropped->node());
    by_node_used_.pop_back();
  }
  return file;
}

void OpenFiles::Release(uint64_t handle, uint64_t node) {
  std::shared_ptr<OpenFile> dropped;
  std::lock_guard lock(mutex_);
  const auto found = files_.find(handle);
  if (found == files_.end() || found->second->node() != node) return;
  dropped = std::move(found->second);
  files_.erase(found);
}

void OpenFiles::ReleaseDirectory(uint64_t handle, uint64_t node) {
  std::shared_ptr<const Listing> dropped;
  std::lock_guard lock(mutex_);
  const auto found = directories_.find(handle);
  if (found == directories_.end() || found->second.node != node) return;
  dropped = std::move(found->second.listing);
  directories_.erase(found);
  if (const auto shown = shown_.find(node); shown != shown_.end() && shown->second.open_handles > 0) {
    --shown->second.open_handles;
  }
}

void OpenFiles::Clear() {
  decltype(files_) files;
  decltype(directories_) directories;
  decltype(by_node_used_) by_node;
  std::lock_guard lock(mutex_);
  files.swap(files_);
  directories.swap(directories_);
  shown_.clear();
  by_node.swap(by_node_used_);
  by_node_.clear();
}

}  // namespace mlcache::session
