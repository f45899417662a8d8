#include "cached/session/attributes.h"

#include <sys/stat.h>

#include <algorithm>

namespace mlcache::session {
namespace {

constexpr uint64_t kForever = uint64_t{10} * 366 * 24 * 3600 * 1'000'000'000;

uint64_t Left(Nanos ttl, Nanos fetched_at, Nanos now) {
  // An answer of unknown age is stored with the oldest time there is.
  if (fetched_at < now - ttl) return 0;
  return static_cast<uint64_t>(std::clamp(ttl - (now - fetched_at), Nanos::zero(), ttl).count());
}

}  // namespace

uint64_t TimeoutOf(const View& view, bool settled, Nanos fetched_at, Nanos now) {
  if (!settled) return 0;
  if (view.immutable) return kForever;
  return Left(view.attr_ttl, fetched_at, now);
}

uint64_t NegativeTimeoutOf(const View& view, Nanos fetched_at, Nanos now) {
  if (view.immutable) return kForever;
  return Left(std::min(view.negative_ttl, view.attr_ttl), fetched_at, now);
}

ring::NodeAttributes AttributesOf(const View& view, const store::ObjectInfo& info, uint64_t node, uint64_t inode,
                                  uint64_t timeout_ns) {
  ring::NodeAttributes attributes;
  attributes.node = node;
  attributes.inode = inode;
  attributes.size = info.size;
  attributes.mtime_ns = info.mtime_ns;
  attributes.ctime_ns = info.ctime_ns;
  attributes.atime_ns = info.mtime_ns;
  attributes.entry_timeout_ns = timeout_ns;
  attributes.attr_timeout_ns = timeout_ns;
  constexpr uint32_t kPermissions = 0777;
  uint32_t mode = info.mode & kPermissions;
  // As mount(8) has it for file systems without owners: the mask says what is left of all permissions.
  if (view.umask && info.type != store::FileType::kSymlink) mode = kPermissions & ~*view.umask;
  if (view.umask && info.type == store::FileType::kRegular) mode &= ~0111U | (info.mode & 0111U);
  switch (info.type) {
    case store::FileType::kRegular:
      attributes.mode = S_IFREG | mode;
      break;
    case store::FileType::kDirectory:
      attributes.mode = S_IFDIR | mode;
      break;
    case store::FileType::kSymlink:
      attributes.mode = S_IFLNK | 0777;
      break;
  }
  attributes.nlink = info.nlink;
  attributes.uid = view.uid.value_or(info.uid);
  attributes.gid = view.gid.value_or(info.gid);
  return attributes;
}

}  // namespace mlcache::session
