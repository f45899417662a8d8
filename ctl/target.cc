#include "ctl/target.h"

#include <filesystem>
#include <optional>
#include <string_view>
#include <system_error>

namespace mlcache::ctl {
namespace {

std::string WithoutTrailingSlash(std::string path) {
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  return path;
}

// The part of `path` below `mountpoint`, if it lies there.
std::optional<std::string> Below(const std::string& path, const std::string& mountpoint) {
  if (path == mountpoint) return "";
  const std::string directory = mountpoint == "/" ? mountpoint : mountpoint + "/";
  if (!path.starts_with(directory)) return std::nullopt;
  return path.substr(directory.size());
}

std::optional<control::Target> Match(const std::string& path, const std::vector<std::string>& mountpoints) {
  std::optional<control::Target> best;
  for (const std::string& mountpoint : mountpoints) {
    const auto below = Below(path, mountpoint);
    if (!below || (best && best->mountpoint().size() >= mountpoint.size())) continue;
    best.emplace();
    best->set_mountpoint(mountpoint);
    best->set_path(*below);
  }
  return best;
}

}  // namespace

Result<control::Target> ResolveTarget(const std::string& argument, const std::vector<std::string>& mountpoints) {
  namespace fs = std::filesystem;
  if (argument.empty()) return Fail(Code::kInvalidArgument, "a path is empty");
  if (argument.find("://") != std::string::npos) {
    control::Target target;
    target.set_store_url(argument);
    return target;
  }
  std::error_code error;
  const fs::path absolute = fs::absolute(argument, error);
  const std::string plain = WithoutTrailingSlash(absolute.lexically_normal().string());
  if (auto target = Match(plain, mountpoints)) return *target;
  // A symbolic link on the way: that of a parent, or the path itself.
  if (const fs::path parent = fs::canonical(fs::path(plain).parent_path(), error); !error) {
    if (auto target = Match((parent / fs::path(plain).filename()).string(), mountpoints)) return *target;
  }
  if (const fs::path real = fs::canonical(plain, error); !error) {
    if (auto target = Match(real.string(), mountpoints)) return *target;
  }
  return Fail(Code::kNotFound, "not below a live mount of this daemon ('mlcachectl mounts' lists them)");
}

}  // namespace mlcache::ctl
