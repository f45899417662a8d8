#include "cached/prefetch/path_table.h"

#include "common/hash.h"

namespace mlcache::prefetch {
namespace {

constexpr size_t kFirstSlots = 64;

}  // namespace

PathTable::Parts PathTable::Split(std::string_view path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string_view::npos) return {.directory = {}, .name = path};
  return {.directory = path.substr(0, slash), .name = path.substr(slash + 1)};
}

std::string_view PathTable::Name(const File& file) const {
  const auto length = static_cast<unsigned char>(names_[file.name_at]);
  return std::string_view(names_).substr(file.name_at + 1, length);
}

size_t PathTable::SlotOf(uint32_t directory, std::string_view name) const {
  const size_t mask = slots_.size() - 1;
  size_t slot = Hash64(name, directory) & mask;
  while (slots_[slot] != 0) {
    const File& file = files_[slots_[slot] - 1];
    if (file.directory == directory && Name(file) == name) break;
    slot = (slot + 1) & mask;
  }
  return slot;
}

void PathTable::Grow() {
  slots_.assign(slots_.empty() ? kFirstSlots : slots_.size() * 2, 0);
  for (size_t id = 0; id < files_.size(); ++id) {
    slots_[SlotOf(files_[id].directory, Name(files_[id]))] = static_cast<uint32_t>(id) + 1;
  }
}

std::optional<PathTable::Id> PathTable::Intern(std::string_view path) {
  const Parts parts = Split(path);
  if (parts.name.empty() || parts.name.size() > 255) return std::nullopt;
  if (files_.size() >= kMaxFiles || names_.size() + parts.name.size() + 1 > kMaxNameBytes) return std::nullopt;
  if ((files_.size() + 1) * 2 > slots_.size()) Grow();
  const auto [found, fresh] =
      directory_ids_.try_emplace(std::string(parts.directory), static_cast<uint32_t>(directory_names_.size()));
  if (fresh) directory_names_.emplace_back(parts.directory);
  const size_t slot = SlotOf(found->second, parts.name);
  if (slots_[slot] != 0) return slots_[slot] - 1;
  files_.push_back({.directory = found->second, .name_at = static_cast<uint32_t>(names_.size())});
  names_ += static_cast<char>(parts.name.size());
  names_ += parts.name;
  slots_[slot] = static_cast<uint32_t>(files_.size());
  return slots_[slot] - 1;
}

std::optional<PathTable::Id> PathTable::Find(std::string_view path) const {
  if (slots_.empty()) return std::nullopt;
  const Parts parts = Split(path);
  const auto directory = directory_ids_.find(std::string(parts.directory));
  if (directory == directory_ids_.end()) return std::nullopt;
  const uint32_t found = slots_[SlotOf(directory->second, parts.name)];
  if (found == 0) return std::nullopt;
  return found - 1;
}

std::string PathTable::Path(Id id) const {
  const File& file = files_[id];
  std::string path = directory_names_[file.directory];
  if (!path.empty()) path += '/';
  path += Name(file);
  return path;
}

}  // namespace mlcache::prefetch
