#include "cached/session/path.h"

#include <algorithm>

namespace mlcache::session {
namespace {

constexpr size_t kMaxName = 255;

}  // namespace

bool IsValidName(std::string_view name) {
  if (name.empty() || name.size() > kMaxName || name == "." || name == "..") return false;
  return name.find('/') == std::string_view::npos && name.find('\0') == std::string_view::npos;
}

bool IsValidPath(std::string_view path) {
  if (path.empty()) return true;
  while (true) {
    const size_t slash = path.find('/');
    if (!IsValidName(path.substr(0, slash))) return false;
    if (slash == std::string_view::npos) return true;
    path.remove_prefix(slash + 1);
  }
}

Result<std::string> CleanPath(std::string_view path) {
  std::string clean;
  while (!path.empty()) {
    const size_t slash = std::min(path.find('/'), path.size());
    const std::string_view component = path.substr(0, slash);
    path.remove_prefix(std::min(slash + 1, path.size()));
    if (component.empty() || component == ".") continue;
    if (component == "..") return Fail(Code::kInvalidArgument, "a path must not contain '..'");
    if (!clean.empty()) clean += '/';
    clean += component;
  }
  return clean;
}

std::string JoinPath(std::string_view directory, std::string_view name) {
  std::string path;
  path.reserve(directory.size() + name.size() + 1);
  path += directory;
  if (!directory.empty() && !name.empty()) path += '/';
  path += name;
  return path;
}

std::string_view ParentOf(std::string_view path) {
  const size_t slash = path.rfind('/');
  return slash == std::string_view::npos ? std::string_view() : path.substr(0, slash);
}

std::string_view NameOf(std::string_view path) {
  const size_t slash = path.rfind('/');
  return slash == std::string_view::npos ? path : path.substr(slash + 1);
}

bool IsWithin(std::string_view path, std::string_view prefix) {
  if (prefix.empty()) return true;
  if (!path.starts_with(prefix)) return false;
  return path.size() == prefix.size() || path[prefix.size()] == '/';
}

std::string_view Below(std::string_view path, std::string_view prefix) {
  if (prefix.empty()) return path;
  return path.size() == prefix.size() ? std::string_view() : path.substr(prefix.size() + 1);
}

}  // namespace mlcache::session
