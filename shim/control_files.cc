#include "shim/control_files.h"

#include <unistd.h>

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

// Numbers start at a random-enough place, so that an open which a dead predecessor numbered is not taken for ours.
ControlFiles::ControlFiles(uint32_t uid, uint32_t gid)
    : uid_(uid), gid_(gid), made_(WallTime()), next_open_(static_cast<uint64_t>(::getpid()) << 32 | 1) {}

std::optional<uint64_t> ControlFiles::Lookup(uint64_t parent, std::string_view name) {
  if (parent == 1 && name == kControlDirectoryName) return kControlDirectoryNode;
  if (parent == kControlDirectoryNode && name == kStatsName) return kStatsNode;
  return std::nullopt;
}

std::optional<struct stat> ControlFiles::Attributes(uint64_t node) const {
  struct stat attributes{};
  if (node == kControlDirectoryNode) {
    attributes.st_mode = S_IFDIR | 0555;
    attributes.st_nlink = 2;
  } else if (node == kStatsNode) {
    attributes.st_mode = S_IFREG | 0444;
    attributes.st_nlink = 1;
  } else {
    return std::nullopt;
  }
  attributes.st_ino = node;
  attributes.st_uid = uid_;
  attributes.st_gid = gid_;
  attributes.st_atim = attributes.st_mtim = attributes.st_ctim = made_;
  return attributes;
}

uint64_t ControlFiles::Open() {
  const std::lock_guard lock(mutex_);
  return next_open_++;
}

void ControlFiles::Keep(uint64_t open_file, std::string text) {
  const std::lock_guard lock(mutex_);
  if (kept_.size() >= kMostKept && !kept_.contains(open_file)) kept_.erase(kept_.begin());
  kept_[open_file] = std::move(text);
}

std::optional<std::string> ControlFiles::Read(uint64_t open_file, uint64_t position, uint64_t room) const {
  const std::lock_guard lock(mutex_);
  const auto found = kept_.find(open_file);
  if (found == kept_.end()) return std::nullopt;
  if (position >= found->second.size()) return std::string();
  return found->second.substr(position, room);
}

void ControlFiles::Close(uint64_t open_file) {
  const std::lock_guard lock(mutex_);
  kept_.erase(open_file);
}

}  // namespace mlcache::shim
