#include "cached/seal/seal_plan.h"

#include <utility>

#include "cached/session/path.h"
#include "common/view_layout.h"

namespace mlcache::seal {
namespace {

using store::FileType;
using store::ListEntry;

constexpr size_t kLongestTarget = 4095;
constexpr std::string_view kControlDirectory = ".mlcache";  // the shim's, whatever a store has there

bool IsHidden(const PlannedDirectory& directory, const std::string& name) {
  return directory.path.empty() && (name == kControlDirectory || name == kViewObjects);
}

// True when the entry needs nothing that is not at hand; directories are judged by what is in them.
bool IsAtHand(const PlannedDirectory& directory, const ListEntry& entry, const IsCached& is_cached, SealPlan& plan) {
  if (entry.info.type == FileType::kDirectory) return true;
  if (!entry.info.settled || !entry.described) return false;
  if (entry.info.type == FileType::kSymlink)
    return !entry.info.symlink_target.empty() && entry.info.symlink_target.size() <= kLongestTarget;
  ++plan.files;
  const bool cached = entry.info.size == 0 || is_cached(session::JoinPath(directory.path, entry.name), entry.info);
  plan.cached_files += cached ? 1 : 0;
  return cached;
}

ImageAttributes Attributes(const session::View& view, const store::ObjectInfo& info) {
  const ring::NodeAttributes shown = session::AttributesOf(view, info, 0, 0, 0);
  return {.permissions = shown.mode & 07777,
          .uid = shown.uid,
          .gid = shown.gid,
          .nlink = shown.nlink,
          .size = shown.size,
          .mtime_ns = shown.mtime_ns};
}

}  // namespace

SealPlan MakePlan(const store::ObjectInfo& root, const ListDirectory& list, const IsCached& is_cached,
                  const std::stop_token& stop) {
  SealPlan plan;
  plan.directories.push_back({.path = "", .name = "", .parent = 0, .info = root, .listing = nullptr});
  for (uint32_t i = 0; i < plan.directories.size() && !stop.stop_requested(); ++i) {
    PlannedDirectory directory = std::move(plan.directories[i]);  // the vector grows
    directory.listing = list(directory.path);
    directory.complete = directory.listing != nullptr;
    if (directory.listing != nullptr) {
      for (const ListEntry& entry : directory.listing->entries) {
        if (IsHidden(directory, entry.name)) continue;
        directory.complete = IsAtHand(directory, entry, is_cached, plan) && directory.complete;
        if (entry.info.type != FileType::kDirectory) continue;
        plan.directories.push_back({.path = session::JoinPath(directory.path, entry.name),
                                    .name = entry.name,
                                    .parent = i,
                                    .info = entry.info,
                                    .listing = nullptr});
      }
    }
    plan.directories[i] = std::move(directory);
  }
  if (stop.stop_requested()) return {};
  for (size_t i = plan.directories.size(); i-- > 0;) {
    PlannedDirectory& directory = plan.directories[i];
    directory.shown = directory.shown || directory.complete;
    PlannedDirectory& parent = plan.directories[directory.parent];
    parent.complete = parent.complete && directory.complete;
    parent.shown = parent.shown || directory.shown;
  }
  for (const PlannedDirectory& directory : plan.directories) {
    if (!directory.complete) continue;
    for (const ListEntry& entry : directory.listing->entries) {
      if (entry.info.type != FileType::kRegular || IsHidden(directory, entry.name)) continue;
      ++plan.sealed_files;
      plan.sealed_bytes += entry.info.size;
    }
  }
  return plan;
}

Result<ErofsImage> BuildImage(const SealPlan& plan, const session::View& view, const PlaceFile& place,
                              const std::stop_token& stop) {
  ErofsImage image({.permissions = 0755}, false);
  const ErofsImage::Node fence = image.AddDirectory(ErofsImage::kRoot, kViewFence, {.permissions = 0755}, false);
  image.AddWhiteout(fence, kViewObjects);
  std::vector<ErofsImage::Node> nodes(plan.directories.size());
  for (size_t i = 0; i < plan.directories.size(); ++i) {
    if (stop.stop_requested()) return Fail(Code::kCancelled, "sealing was called off");
    const PlannedDirectory& directory = plan.directories[i];
    if (!directory.shown) continue;
    const ImageAttributes attributes = Attributes(view, directory.info);
    nodes[i] = i == 0 ? image.AddDirectory(ErofsImage::kRoot, kViewTree, attributes, directory.complete)
                      : image.AddDirectory(nodes[directory.parent], directory.name, attributes, directory.complete);
    if (!directory.complete) continue;  // its files fall through
    for (const ListEntry& entry : directory.listing->entries) {
      if (entry.info.type == FileType::kDirectory || IsHidden(directory, entry.name)) continue;
      const ImageAttributes of_entry = Attributes(view, entry.info);
      if (entry.info.type == FileType::kSymlink) {
        image.AddSymlink(nodes[i], entry.name, of_entry, entry.info.symlink_target);
        continue;
      }
      std::string redirect;
      if (entry.info.size > 0) {
        MLCACHE_ASSIGN_OR_RETURN(redirect, place(session::JoinPath(directory.path, entry.name), entry.info));
      }
      image.AddFile(nodes[i], entry.name, of_entry, redirect);
    }
  }
  return image;
}

}  // namespace mlcache::seal
