#include "cached/rpc/targets.h"

#include <algorithm>
#include <utility>

#include "cached/session/path.h"

namespace mlcache::rpc {
namespace {

std::string NameOf(const control::Target& target) {
  const std::string& base = target.store_url().empty() ? target.mountpoint() : target.store_url();
  return target.path().empty() ? base : base + "/" + target.path();
}

bool Covers(const ResolvedTarget& outer, const ResolvedTarget& inner) {
  if (outer.volume != inner.volume) return false;
  return outer.path.empty() || inner.path == outer.path || inner.path.starts_with(outer.path + "/");
}

}  // namespace

std::string ResolvedTarget::Display(const std::string& below) const {
  if (below.empty()) return base;
  return base.ends_with('/') ? base + below : base + "/" + below;
}

Result<ResolvedTarget> Resolve(const control::Target& target, session::SessionServer& sessions) {
  MLCACHE_ASSIGN_OR_RETURN(std::string path, session::CleanPath(target.path()));
  if (target.store_url().empty() == target.mountpoint().empty())
    return Fail(Code::kInvalidArgument, "a target is named by either its mountpoint or its store URL");
  const bool mounted = !target.mountpoint().empty();
  auto volume = mounted ? sessions.VolumeOfMount(target.mountpoint()) : sessions.VolumeOfUrl(target.store_url());
  if (!volume) return std::unexpected(std::move(volume.error()));
  return ResolvedTarget{.volume = *std::move(volume),
                        .path = std::move(path),
                        .base = mounted ? target.mountpoint() : target.store_url()};
}

ResolvedTargets ResolveAll(const control::TargetRequest& request, session::SessionServer& sessions) {
  ResolvedTargets resolved;
  std::vector<ResolvedTarget> all;
  for (const control::Target& target : request.targets()) {
    auto one = Resolve(target, sessions);
    if (one) {
      all.push_back(*std::move(one));
    } else {
      resolved.failures.push_back(MakeFailure(NameOf(target), one.error()));
    }
  }
  // Byte order does not put "a" next to "a/b" ("a!" lies between), so the separator sorts first here.
  const auto before = [](const ResolvedTarget& left, const ResolvedTarget& right) {
    if (left.volume != right.volume) return left.volume < right.volume;
    return std::ranges::lexicographical_compare(
        left.path, right.path, {}, [](char c) { return c == '/' ? '\0' : c; },
        [](char c) { return c == '/' ? '\0' : c; });
  };
  std::ranges::stable_sort(all, before);
  for (ResolvedTarget& target : all) {
    if (resolved.targets.empty() || !Covers(resolved.targets.back(), target))
      resolved.targets.push_back(std::move(target));
  }
  return resolved;
}

control::Failure MakeFailure(const std::string& path, const Error& error) {
  control::Failure failure;
  failure.set_path(path);
  failure.set_code(static_cast<int>(error.code()));
  failure.set_message(error.message());
  return failure;
}

}  // namespace mlcache::rpc
