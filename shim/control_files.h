// The files that a mount adds to the store's: `.mlcache/stats` in the root, not listed there. Their nodeids lie where
// the daemon gives out none. A reader sees one text for as long as it keeps the file open. Thread-safe.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>

namespace mlcache::shim {

inline constexpr uint64_t kFirstControlNode = 0xffff'ffff'ffff'ff00;
inline constexpr uint64_t kControlDirectoryNode = kFirstControlNode;
inline constexpr uint64_t kStatsNode = kFirstControlNode + 1;
inline constexpr std::string_view kControlDirectoryName = ".mlcache";
inline constexpr std::string_view kStatsName = "stats";
inline constexpr double kControlTimeoutSeconds = 3600;

inline bool IsControlNode(uint64_t node) { return node >= kFirstControlNode; }

class ControlFiles {
 public:
  // They belong to this user; times are those of the construction.
  ControlFiles(uint32_t uid, uint32_t gid);

  // The nodeid of `name` in `parent`, if that is one of ours.
  static std::optional<uint64_t> Lookup(uint64_t parent, std::string_view name);

  // `node` must be one of ours that exists, else nullopt.
  std::optional<struct stat> Attributes(uint64_t node) const;

  // A number for one open of stats; never 0.
  uint64_t Open();
  void Keep(uint64_t open_file, std::string text);
  // The kept text from `position` on, at most `room` bytes; nullopt when nothing is kept for that open.
  std::optional<std::string> Read(uint64_t open_file, uint64_t position, uint64_t room) const;
  void Close(uint64_t open_file);

 private:
  static constexpr size_t kMostKept = 64;

  const uint32_t uid_;
  const uint32_t gid_;
  const timespec made_;
  mutable std::mutex mutex_;
  uint64_t next_open_;                              // guarded by mutex_
  std::unordered_map<uint64_t, std::string> kept_;  // guarded by mutex_
};

}  // namespace mlcache::shim
