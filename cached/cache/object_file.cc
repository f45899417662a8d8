#include "cached/cache/object_file.h"

#include <sys/stat.h>

#include <cerrno>

namespace mlcache::cache {

ObjectFile::~ObjectFile() {
  fd_.Reset();
  if (release_bytes_ > 0) budget_.Release(release_bytes_);
}

Result<ObjectFile::Facts> ObjectFile::Look() const {
  struct stat info{};
  if (::fstat(fd_.get(), &info) != 0) return FailErrno(errno, "fstat of an object file");
  constexpr int64_t kNanosPerSecond = 1'000'000'000;
  constexpr uint64_t kStatBlockBytes = 512;
  return Facts{
      .identity = {.inode = info.st_ino, .ctime_ns = info.st_ctim.tv_sec * kNanosPerSecond + info.st_ctim.tv_nsec},
      .size = static_cast<uint64_t>(info.st_size),
      .space_bytes = static_cast<uint64_t>(info.st_blocks) * kStatBlockBytes,
      .links = info.st_nlink};
}

void ObjectFile::ReleaseOnClose(uint64_t bytes) {
  const std::scoped_lock lock(mutex_);
  release_bytes_ += bytes;
}

std::shared_ptr<ObjectFile> DescriptorCache::Find(const ObjectId& id) {
  const std::scoped_lock lock(mutex_);
  const auto found = where_.find(id);
  if (found == where_.end()) return nullptr;
  order_.splice(order_.end(), order_, found->second);
  return found->second->second;
}

void DescriptorCache::Insert(const ObjectId& id, std::shared_ptr<ObjectFile> file) {
  Order closing;
  const std::scoped_lock lock(mutex_);
  if (const auto found = where_.find(id); found != where_.end()) {
    closing.splice(closing.end(), order_, found->second);
    where_.erase(found);
  }
  order_.emplace_back(id, std::move(file));
  where_[id] = std::prev(order_.end());
  closing.splice(closing.end(), TakeOldest(limit_));
}

std::shared_ptr<ObjectFile> DescriptorCache::Remove(const ObjectId& id) {
  const std::scoped_lock lock(mutex_);
  const auto found = where_.find(id);
  if (found == where_.end()) return nullptr;
  std::shared_ptr<ObjectFile> file = std::move(found->second->second);
  order_.erase(found->second);
  where_.erase(found);
  return file;
}

void DescriptorCache::Shrink() {
  Order closing;
  const std::scoped_lock lock(mutex_);
  closing = TakeOldest(order_.size() / 2);
}

DescriptorCache::Order DescriptorCache::TakeOldest(size_t keep) {
  Order closing;
  while (order_.size() > keep) {
    where_.erase(order_.front().first);
    closing.splice(closing.end(), order_, order_.begin());
  }
  return closing;
}

}  // namespace mlcache::cache
