// Open object files, and a bounded cache of them.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "cached/cache/budget.h"
#include "cached/cache/eviction_policy.h"
#include "cached/cache/object_state.h"
#include "common/status.h"
#include "common/unique_fd.h"

namespace mlcache::cache {

// One open object file. The last one who holds it closes it, and only then is the space of an unlinked file free.
// Thread-safe.
class ObjectFile {
 public:
  ObjectFile(UniqueFd fd, bool writable, Budget& budget) : writable_(writable), budget_(budget), fd_(std::move(fd)) {}
  ObjectFile(const ObjectFile&) = delete;
  ObjectFile& operator=(const ObjectFile&) = delete;
  ~ObjectFile();

  int fd() const { return fd_.get(); }
  bool writable() const { return writable_; }

  struct Facts {
    FileIdentity identity;
    uint64_t size = 0;
    uint64_t space_bytes = 0;  // allocated
    uint64_t links = 1;        // names, ours and those of views
  };
  Result<Facts> Look() const;

  // The file was unlinked: gives `bytes` back to the budget once it is closed.
  void ReleaseOnClose(uint64_t bytes);

 private:
  const bool writable_;
  Budget& budget_;
  UniqueFd fd_;
  std::mutex mutex_;
  uint64_t release_bytes_ = 0;
};

// The most recently used open files of a tier. Thread-safe.
class DescriptorCache {
 public:
  explicit DescriptorCache(size_t limit) : limit_(limit) {}

  std::shared_ptr<ObjectFile> Find(const ObjectId& id);
  void Insert(const ObjectId& id, std::shared_ptr<ObjectFile> file);
  std::shared_ptr<ObjectFile> Remove(const ObjectId& id);
  // Closes the older half: the process ran out of descriptors.
  void Shrink();

 private:
  using Order = std::list<std::pair<ObjectId, std::shared_ptr<ObjectFile>>>;  // oldest first

  Order TakeOldest(size_t keep);  // mutex_ held; to be destroyed without it, since that closes files

  const size_t limit_;
  std::mutex mutex_;
  Order order_;
  std::unordered_map<ObjectId, Order::iterator, ObjectIdHash> where_;
};

}  // namespace mlcache::cache
