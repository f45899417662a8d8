#include "cached/rpc/walk.h"

#include <memory>
#include <ranges>
#include <utility>
#include <vector>

namespace mlcache::rpc {
namespace {

std::string Join(const std::string& directory, const std::string& name) {
  return directory.empty() ? name : directory + "/" + name;
}

}  // namespace

bool Walk(session::Volume& volume, const std::string& start, const WalkOptions& options, const Clock& clock,
          TreeVisitor& visitor) {
  const auto context = [&] {
    return store::CallContext{.priority = options.priority,
                              .job = "control",
                              .deadline = clock.Now() + options.request_timeout,
                              .stop = options.stop};
  };
  const auto info = volume.Stat(start, options.max_age, context());
  if (options.stop.stop_requested()) return false;
  if (!info) {
    visitor.VisitFailure(start, info.error());
    return true;
  }
  if (info->type == store::FileType::kRegular) return visitor.VisitFile(start, *info);
  if (info->type == store::FileType::kSymlink) {
    visitor.VisitFailure(start, Error(Code::kInvalidArgument, "is a symbolic link; name what it points to"));
    return true;
  }
  std::vector<std::string> pending = {start};
  while (!pending.empty()) {
    const std::string directory = std::move(pending.back());
    pending.pop_back();
    const auto listing = volume.List(directory, options.max_age, context());
    if (options.stop.stop_requested()) return false;
    if (!listing) {
      visitor.VisitFailure(directory, listing.error());
      continue;
    }
    visitor.VisitDirectory(directory);
    for (const store::ListEntry& entry : (*listing)->entries) {
      if (options.stop.stop_requested()) return false;
      if (entry.info.type != store::FileType::kRegular) continue;
      if (!visitor.VisitFile(Join(directory, entry.name), entry.info)) return false;
    }
    for (const store::ListEntry& entry : std::views::reverse((*listing)->entries)) {
      if (entry.info.type == store::FileType::kDirectory) pending.push_back(Join(directory, entry.name));
    }
  }
  return true;
}

}  // namespace mlcache::rpc
