// The files that a mount adds to the store's: `.mlcache/stats` in the root, not listed there. Their nodeids lie where
// the daemon gives out none. Each LOOKUP of stats makes a node of its own with the text of that moment, so that a
// reader sees one text and its true size, in every mode of opening files. Thread-safe.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace mlcache::shim {

inline constexpr uint64_t kFirstControlNode = 0xffff'ffff'0000'0000;
inline constexpr uint64_t kControlDirectoryNode = kFirstControlNode;
inline constexpr uint64_t kStatsNode = kFirstControlNode + 1;  // as an inode number; nodes are behind it
inline constexpr uint64_t kFirstStatsNode = kFirstControlNode + 0x1000;
inline constexpr std::string_view kControlDirectoryName = ".mlcache";
inline constexpr std::string_view kStatsName = "stats";
inline constexpr double kControlTimeoutSeconds = 3600;

inline bool IsControlNode(uint64_t node) { return node >= kFirstControlNode; }

class ControlFiles {
 public:
  // They belong to this user; times are those of the construction.
  ControlFiles(uint32_t uid, uint32_t gid);

  enum class Name : uint8_t { kNone, kDirectory, kStats };
  // What `name` in `parent` is of ours.
  static Name Lookup(uint64_t parent, std::string_view name);

  // Keeps the text of a LOOKUP; its new node.
  uint64_t Add(std::string text);
  // The same under a node that a predecessor gave out.
  void Restore(uint64_t node, std::string text);

  static bool IsStats(uint64_t node) { return node >= kFirstStatsNode; }

  // Nothing for a node of stats whose text is no longer kept; to be restored then.
  std::optional<struct stat> Attributes(uint64_t node) const;
  // The text from `position` on, at most `room` bytes; nullopt likewise.
  std::optional<std::string> Read(uint64_t node, uint64_t position, uint64_t room) const;

 private:
  static constexpr size_t kMostKept = 64;

  const uint32_t uid_;
  const uint32_t gid_;
  const timespec made_;
  mutable std::mutex mutex_;
  uint64_t next_node_;                                 // guarded by mutex_
  std::deque<std::pair<uint64_t, std::string>> kept_;  // guarded by mutex_; oldest first
};

}  // namespace mlcache::shim
