#include "shim/control_files.h"

#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <utility>

namespace mlcache::shim {
namespace {

timespec WallTime() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return now;
}

}  // namespace

// Numbers start at a random-enough place, so that a node which a dead predecessor gave out is not taken for ours.
ControlFiles::ControlFiles(uint32_t uid, uint32_t gid)
    : uid_(uid),
      gid_(gid),
      made_(WallTime()),
      next_node_(kFirstStatsNode + (static_cast<uint64_t>(::getpid()) << 12)) {}

ControlFiles::Name ControlFiles::Lookup(uint64_t parent, std::string_view name) {
  if (parent == 1 && name == kControlDirectoryName) return Name::kDirectory;
  if (parent == kControlDirectoryNode && name == kStatsName) return Name::kStats;
  return Name::kNone;
}

std::optional<struct stat> ControlFiles::Attributes(uint64_t node) const {
  struct stat attributes{};
  if (node == kControlDirectoryNode) {
    attributes.st_mode = S_IFDIR | 0555;
    attributes.st_nlink = 2;
    attributes.st_ino = kControlDirectoryNode;
  } else {
    const std::optional<std::string> text = Read(node, 0, UINT64_MAX);
    if (!text.has_value()) return std::nullopt;
    attributes.st_mode = S_IFREG | 0444;
    attributes.st_nlink = 1;
    attributes.st_ino = kStatsNode;
    attributes.st_size = static_cast<off_t>(text->size());
  }
  attributes.st_uid = uid_;
  attributes.st_gid = gid_;
  attributes.st_atim = attributes.st_mtim = attributes.st_ctim = made_;
  return attributes;
}

uint64_t ControlFiles::Add(std::string text) {
  uint64_t node = 0;
  {
    const std::lock_guard lock(mutex_);
    node = next_node_++;
    if (next_node_ == UINT64_MAX) next_node_ = kFirstStatsNode;
  }
  Restore(node, std::move(text));
  return node;
}

void ControlFiles::Restore(uint64_t node, std::string text) {
  const std::lock_guard lock(mutex_);
  if (kept_.size() >= kMostKept) kept_.pop_front();
  kept_.emplace_back(node, std::move(text));
}

std::optional<std::string> ControlFiles::Read(uint64_t node, uint64_t position, uint64_t room) const {
  const std::lock_guard lock(mutex_);
  const auto found = std::ranges::find(kept_, node, &std::pair<uint64_t, std::string>::first);
  if (found == kept_.end()) return std::nullopt;
  if (position >= found->second.size()) return std::string();
  return found->second.substr(position, room);
}

}  // namespace mlcache::shim
