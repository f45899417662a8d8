// A directory tree as a store: file:///DIR, be it a local disk, NFS, Lustre or any other mounted file system.
//
// A version is (inode, size, mtime, ctime); one younger than two seconds is `settled = false`, since a second write
// within the clock's step would not change it. ReadRange compares the version before and after it reads, so bytes of a
// file that changed meanwhile are never reported as sound.
//
// Nothing outside the root can be reached: paths are resolved by openat2 with RESOLVE_BENEATH, and no symbolic link is
// followed (links are reported; the kernel resolves them at the mount). Sockets, pipes and devices do not exist here.
// A read that the kernel itself holds up (a dead NFS server) cannot be called off; every other wait can.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "cached/store/object_store.h"
#include "common/clock.h"
#include "common/status.h"
#include "common/unique_fd.h"

namespace mlcache::store {

class FileStore : public ObjectStore {  // thread-safe
 public:
  // `root` is absolute and may not pass through symbolic links, which would let who owns one point the daemon
  // elsewhere. kNotFound, kPermissionDenied and kInvalidArgument name the directory and the remedy.
  // `page_entries` is the most that a page of List has.
  static Result<std::shared_ptr<FileStore>> Open(const std::string& root, const Clock& clock,
                                                 size_t page_entries = 4096);

  Result<ObjectInfo> Stat(const std::string& path, const CallContext& context) override;
  Result<ListPage> List(const std::string& path, const std::string& token, const CallContext& context) override;
  Status ReadRange(const ObjectRef& ref, uint64_t offset, uint64_t length, const ByteSink& sink,
                   const CallContext& context) override;
  Result<StoreCapacity> Capacity(const CallContext& context) override;
  Status Watch(const std::string& path, const ChangeSink& sink, const CallContext& context) override;

 private:
  struct Name {
    std::string name;
    std::optional<FileType> type;  // where readdir tells
  };
  using Names = std::shared_ptr<const std::vector<Name>>;
  // The sorted names of one directory as one readdir saw them, kept for the next page. A token whose snapshot was
  // thrown out reads the directory again and goes on behind the last name.
  struct Snapshot {
    uint64_t id;
    std::string path;
    Names names;
  };

  FileStore(std::string root, UniqueFd root_fd, const Clock& clock, size_t page_entries);

  Result<UniqueFd> OpenBelow(const std::string& path, uint64_t flags) const;
  std::string Shown(const std::string& path) const;
  Result<Names> ReadNames(const std::string& path, int directory) const;
  Result<std::optional<ObjectInfo>> Describe(const std::string& path, int directory, const std::string& name,
                                             Nanos wall_now) const;
  Names FindSnapshot(uint64_t id, const std::string& path);
  uint64_t KeepSnapshot(const std::string& path, Names names);

  const std::string root_;
  const UniqueFd root_fd_;
  const Clock& clock_;
  const size_t page_entries_;

  std::mutex mutex_;               // guards all below; a leaf, never held across a system call
  std::list<Snapshot> snapshots_;  // the youngest first; at most kSnapshots
  uint64_t last_id_ = 0;
};

}  // namespace mlcache::store
