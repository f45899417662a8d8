// What a session has open: files with their source and readahead, directories with the listing they began with.
// Handles are hints. One that is not known (from before a restart, or above the bound) reads by its node alone, from a
// short list of files kept by node. Thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "cached/fetch/fetcher.h"
#include "cached/prefetch/readahead.h"
#include "cached/session/volume.h"

namespace mlcache::session {

class OpenFile {
 public:
  // Borrows the metrics.
  OpenFile(uint64_t node, fetch::Source source, std::shared_ptr<prefetch::Pacer> pacer, Metrics& metrics,
           const std::string& job);

  uint64_t node() const { return node_; }
  uint64_t size() const { return source_.ref.size; }
  const fetch::Source& source() const { return source_; }

  // Tells the readahead of a read that is about to be served; the source to read from, labelled with the pattern, valid
  // as long as this file.
  const fetch::Source& OnRead(uint64_t offset, uint64_t length);

 private:
  static constexpr size_t kPatterns = 5;  // of detect::Pattern

  const uint64_t node_;
  const fetch::Source source_;
  std::mutex mutex_;
  prefetch::Readahead readahead_;                                   // guarded by mutex_
  std::array<std::unique_ptr<fetch::Source>, kPatterns> labelled_;  // guarded by mutex_; once made, constant
};

struct OpenDirectory {
  uint64_t node = 0;
  std::shared_ptr<const Listing> listing;
};

class OpenFiles {
 public:
  static constexpr size_t kMaxHandles = 65'536;
  static constexpr size_t kMaxByNode = 512;
  static constexpr size_t kMaxShown = 65'536;

  // Handles of this session begin with `generation`, so that those of another are not taken for its own.
  explicit OpenFiles(uint64_t generation) : next_((generation << 40) | 1) {}

  // 0 when there are too many: reads then go by the node.
  uint64_t Add(std::shared_ptr<OpenFile> file);

  struct AddedDirectory {
    uint64_t handle = 0;
    bool unchanged = false;  // the listing is the one last added for the node, and no handle shows another
  };
  AddedDirectory Add(OpenDirectory directory);

  // The file of a handle of that node, else the one kept for the node; null when there is neither.
  std::shared_ptr<OpenFile> File(uint64_t handle, uint64_t node);
  // Null listing when the handle is not one of that directory.
  OpenDirectory Directory(uint64_t handle, uint64_t node);

  // Keeps a file for reads without a handle; the one already kept wins.
  std::shared_ptr<OpenFile> KeepByNode(std::shared_ptr<OpenFile> file);

  void Release(uint64_t handle, uint64_t node);
  void ReleaseDirectory(uint64_t handle, uint64_t node);

  // Drops everything.
  void Clear();

 private:
  // The listing of a directory that the kernel was shown last, by the moment it was fetched.
  struct Shown {
    Nanos fetched_at{-1};
    uint32_t open_handles = 0;
    bool mixed = false;  // a handle on an older listing was open when this one came: the kernel may hold parts of both
  };

  std::mutex mutex_;
  // All guarded by mutex_.
  uint64_t next_;
  std::unordered_map<uint64_t, std::shared_ptr<OpenFile>> files_;
  std::unordered_map<uint64_t, OpenDirectory> directories_;
  std::unordered_map<uint64_t, Shown> shown_;          // by node
  std::list<std::shared_ptr<OpenFile>> by_node_used_;  // the front was used last
  std::unordered_map<uint64_t, std::list<std::shared_ptr<OpenFile>>::iterator> by_node_;
};

}  // namespace mlcache::session
