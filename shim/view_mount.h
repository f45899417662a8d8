// The file system of a sealed view, mounted but not yet shown: an overlay whose uppermost layer is the daemon's
// metadata image and whose bytes come from directories of hard links to object files (docs/sealed.md). Needs
// CAP_SYS_ADMIN. May wait for disks, and for this mount's own FUSE server where that is a layer: never call it on the
// keeper's one thread (see view.h).
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "common/status.h"
#include "common/unique_fd.h"

namespace mlcache::shim {

struct ViewLayer {
  UniqueFd directory;  // as the daemon sent it
  std::string path;    // where it lies; opened anew, for the daemon may live in another mount namespace
};

// What the daemon offers. Nothing of it is trusted but for belonging to the daemon's user.
struct ViewParts {
  uint64_t id = 0;
  UniqueFd metadata;  // an EROFS image, a regular file
  std::vector<ViewLayer> layers;
  bool over_mount = false;  // what the image lacks falls through to the FUSE mount
};

// How the image is mounted: the first of these that the kernel can.
enum class MetadataWay : uint8_t { kFile, kLoop, kTmpfs };

struct ViewOptions {
  std::string mountpoint;
  std::string source;  // as in /proc/mounts
  bool no_exec = false;
  uid_t daemon_uid = 0;
  // For tests: the ways to try, in order, and whether layers need a place in the tree (Linux before 6.15).
  std::vector<MetadataWay> ways = {MetadataWay::kFile, MetadataWay::kLoop, MetadataWay::kTmpfs};
  bool stage = false;
};

// A detached mount: read-only, nosuid, nodev. `fuse`: the root of the attached FUSE mount, for a
// view in part. Errors name the step and the
// kernel's own words.
Result<UniqueFd> MountView(const ViewParts& parts, const ViewOptions& options, int fuse);

}  // namespace mlcache::shim
