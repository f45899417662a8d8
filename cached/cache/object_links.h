// Hard links to object files, outside of the tier's own directory of them: what a sealed view shows. An object with a
// link stands outside the eviction policy; should it be evicted all the same (by order, or found damaged), its bytes
// stay charged to the budget until the link is gone. A seam of the object cache; thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>

#include "cached/cache/budget.h"
#include "cached/cache/object_cache.h"

namespace mlcache::cache {

// Of one object file with links: takes over its charge when the object is evicted, until the last holder lets go.
class FilePin {
 public:
  explicit FilePin(Budget& budget) : budget_(budget) {}
  FilePin(const FilePin&) = delete;
  FilePin& operator=(const FilePin&) = delete;
  ~FilePin() {
    if (bytes_ > 0) budget_.Release(bytes_);
  }

  // The file has lost its object; `bytes` that are charged for it are the pin's from now on.
  void Keep(uint64_t bytes) {
    const std::scoped_lock lock(mutex_);
    bytes_ += bytes;
  }

 private:
  Budget& budget_;
  std::mutex mutex_;
  uint64_t bytes_ = 0;
};

// A link that exists. Dropping this leaves the link where it is.
struct ObjectLink {
  ObjectId id{};    // in hexadecimal the name of the link
  size_t tier = 0;  // as in ObjectCache::Tiers()
  std::shared_ptr<FilePin> pin;
};

class ObjectLinks {
 public:
  virtual ~ObjectLinks() = default;

  // Links a complete object into the one of `directories` (one a tier) that lies in its tier. Blocks that this boot has
  // not seen verified are read and checked first. kNotFound: it is not complete (any more).
  virtual Result<ObjectLink> Link(const ObjectKey& key, std::span<const int> directories) = 0;

  // A link that an earlier run left in `directory`.
  virtual Result<ObjectLink> Adopt(const ObjectId& id, size_t tier, int directory) = 0;

  // Removes the link from `directory`. The object is the eviction policy's again when this was the last.
  virtual void Unlink(ObjectLink link, int directory) = 0;

  // Charges what the links' directory and what lies beside it take; kResourceExhausted when that does not fit.
  virtual Result<std::unique_ptr<Reservation>> Hold(size_t tier, uint64_t bytes) = 0;

  // `called` whenever room is wanted and only linked objects are left, and whenever a quarter of a tier has been
  // evicted beside them. On the thread that wants the room: cheap, and without calling back. Set before the first link
  // is made.
  virtual void OnContention(std::function<void()> called) = 0;
};

}  // namespace mlcache::cache
