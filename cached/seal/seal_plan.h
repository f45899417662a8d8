// What of a mount can be sealed now: every directory whose whole subtree is in the cache, and how that becomes the
// view's image. Pure but for the functions it is given.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "cached/seal/erofs_image.h"
#include "cached/session/attributes.h"
#include "cached/session/volume.h"
#include "common/status.h"

namespace mlcache::seal {

struct PlannedDirectory {
  std::string path;  // below the mount
  std::string name;
  uint32_t parent = 0;
  store::ObjectInfo info;
  std::shared_ptr<const session::Listing> listing;  // null: not known
  bool complete = false;                            // with everything below it
  bool shown = false;                               // it, or something below it, is complete
};

struct SealPlan {
  std::vector<PlannedDirectory> directories;  // the root first, parents before children
  uint64_t files = 0;                         // that were met
  uint64_t cached_files = 0;
  uint64_t sealed_files = 0;  // in complete directories
  uint64_t sealed_bytes = 0;

  bool whole() const { return !directories.empty() && directories.front().complete; }
  bool empty() const { return directories.empty() || !directories.front().shown; }
};

// The listing of a directory, or null when it is not at hand.
using ListDirectory = std::function<std::shared_ptr<const session::Listing>(const std::string& path)>;
// Whether every byte of a file is cached.
using IsCached = std::function<bool(const std::string& path, const store::ObjectInfo& info)>;

SealPlan MakePlan(const store::ObjectInfo& root, const ListDirectory& list, const IsCached& is_cached,
                  const std::stop_token& stop);

// The place of a file's bytes in the data layer (ViewFiles::Add).
using PlaceFile = std::function<Result<std::string>(const std::string& path, const store::ObjectInfo& info)>;

// kCancelled after `stop`; otherwise the first error of `place`.
Result<ErofsImage> BuildImage(const SealPlan& plan, const session::View& view, const PlaceFile& place,
                              const std::stop_token& stop);

}  // namespace mlcache::seal
