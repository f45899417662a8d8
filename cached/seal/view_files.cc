#include "cached/seal/view_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <glog/logging.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <set>
#include <string_view>
#include <system_error>
#include <utility>

#include "common/hash.h"
#include "common/units.h"
#include "common/view_layout.h"

namespace mlcache::seal {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kDirectoryEntryBytes = 64;  // of a link, in the directory's blocks

std::string NameOf(uint64_t id) {
  std::array<char, 17> text{};
  static_cast<void>(std::snprintf(text.data(), text.size(), "%016llx", static_cast<unsigned long long>(id)));
  return text.data();
}

std::optional<uint64_t> ParseName(const std::string& name) {
  uint64_t id = 0;
  const char* const end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data(), end, id, 16);
  if (error != std::errc() || stop != end || name.size() != 16 || id == 0) return std::nullopt;
  return id;
}

std::optional<cache::ObjectId> ParseObject(std::string_view name) {
  cache::ObjectId id{};
  if (name.size() != 2 * id.size()) return std::nullopt;
  for (size_t i = 0; i < id.size(); ++i) {
    unsigned byte = 0;
    const char* const begin = name.data() + 2 * i;
    const auto [stop, error] = std::from_chars(begin, begin + 2, byte, 16);
    if (error != std::errc() || stop != begin + 2) return std::nullopt;
    id[i] = static_cast<std::byte>(byte);
  }
  return id;
}

Status MakePrivate(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) == 0 || errno == EEXIST) return {};
  return FailErrno(errno, "make " + path);
}

Result<UniqueFd> OpenDirectory(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd.valid()) return FailErrno(errno, path);
  return fd;
}

}  // namespace

ViewFiles::~ViewFiles() = default;

Result<std::unique_ptr<ViewFiles>> ViewFiles::Create(cache::ObjectLinks& links, const std::vector<std::string>& tiers,
                                                     uint64_t id) {
  std::unique_ptr<ViewFiles> view(new ViewFiles(links, id));
  for (const std::string& tier : tiers) {
    Place place{.directory = tier + "/views/" + NameOf(id), .objects = {}};
    const std::string data = place.directory + "/data";
    for (const std::string& path : {tier + "/views", place.directory, data, data + "/" + kViewObjects}) {
      MLCACHE_RETURN_IF_ERROR(MakePrivate(path));
    }
    MLCACHE_ASSIGN_OR_RETURN(place.objects, OpenDirectory(data + "/" + kViewObjects));
    view->places_.push_back(std::move(place));
  }
  return view;
}

std::vector<std::unique_ptr<ViewFiles>> ViewFiles::Load(cache::ObjectLinks& links,
                                                        const std::vector<std::string>& tiers) {
  std::set<uint64_t> ids;
  for (const std::string& tier : tiers) {
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(tier + "/views", error)) {
      if (const auto id = ParseName(entry.path().filename()); id.has_value()) ids.insert(*id);
    }
  }
  std::vector<std::unique_ptr<ViewFiles>> views;
  for (const uint64_t id : ids) {
    auto view = Create(links, tiers, id);
    if (!view.has_value()) {
      LOG(WARNING) << "a view of an earlier run stays behind: " << view.error();
      continue;
    }
    for (size_t tier = 0; tier < tiers.size(); ++tier) (*view)->AdoptLinks(tier);
    struct stat image{};
    if (::stat((*view)->ImagePath().c_str(), &image) == 0) {
      auto held = links.Hold(0, static_cast<uint64_t>(image.st_size) + kDirectoryEntryBytes * (*view)->links_.size());
      if (held.has_value()) (*view)->held_ = *std::move(held);
    }
    views.push_back(*std::move(view));
  }
  return views;
}

void ViewFiles::AdoptLinks(size_t tier) {
  Place& place = places_[tier];
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(place.directory + "/data/" + kViewObjects, error)) {
    const auto id = ParseObject(entry.path().filename().string());
    if (!id.has_value()) continue;
    auto link = links_api_.Adopt(*id, tier, place.objects.get());
    if (link.has_value()) {
      links_.push_back(*std::move(link));
      place.used = true;
    } else {
      LOG(WARNING) << link.error();
    }
  }
}

Result<std::string> ViewFiles::Add(const cache::ObjectKey& key) {
  std::vector<int> directories;
  directories.reserve(places_.size());
  for (const Place& place : places_) directories.push_back(place.objects.get());
  MLCACHE_ASSIGN_OR_RETURN(cache::ObjectLink link, links_api_.Link(key, directories));
  places_[link.tier].used = true;
  std::string redirect = std::string("/") + kViewObjects + "/" + ToHex(link.id);
  links_.push_back(std::move(link));
  return redirect;
}

Status ViewFiles::Finish(ErofsImage& image) {
  const UniqueFd file(::open(ImagePath().c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file.valid()) return FailErrno(errno, "make " + ImagePath());
  MLCACHE_ASSIGN_OR_RETURN(const uint64_t bytes, image.Write(file.get()));
  if (::fsync(file.get()) != 0) return FailErrno(errno, "sync " + ImagePath());
  // Charged once its size is known; what does not fit is taken away again by the caller.
  MLCACHE_ASSIGN_OR_RETURN(held_, links_api_.Hold(0, bytes + kDirectoryEntryBytes * links_.size()));
  return {};
}

Result<UniqueFd> ViewFiles::OpenImage() const {
  UniqueFd file(::open(ImagePath().c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  if (!file.valid()) return FailErrno(errno, ImagePath());
  return file;
}

Result<std::vector<DataLayer>> ViewFiles::Layers() const {
  std::vector<DataLayer> layers;
  for (const Place& place : places_) {
    // A view of empty files alone still needs a layer.
    if (!place.used && !(links_.empty() && layers.empty())) continue;
    DataLayer layer{.path = place.directory + "/data", .directory = {}};
    MLCACHE_ASSIGN_OR_RETURN(layer.directory, OpenDirectory(layer.path));
    layers.push_back(std::move(layer));
  }
  return layers;
}

// The kernel grants a lease for writing only to the one who has the file open alone (fcntl(2)).
bool ViewFiles::InUse() const {
  const Result<UniqueFd> image = OpenImage();
  if (!image.has_value()) {
    // Too many open files or a failing disk say nothing about who else has it open.
    if (image.error().code() == Code::kNotFound) return false;
    LOG_EVERY_N(WARNING, 100) << "a view is kept: " << image.error();
    return true;
  }
  if (::fcntl(image->get(), F_SETLEASE, F_WRLCK) == 0) {
    ::fcntl(image->get(), F_SETLEASE, F_UNLCK);
    return false;
  }
  if (errno == EAGAIN) return true;
  PLOG_EVERY_N(WARNING, 100) << ImagePath() << ": no lease can be had, so the view is kept";
  return true;
}

void ViewFiles::Remove() {
  for (cache::ObjectLink& link : links_) {
    const int directory = places_[link.tier].objects.get();
    links_api_.Unlink(std::move(link), directory);
  }
  links_.clear();
  for (const Place& place : places_) {
    std::error_code error;
    fs::remove_all(place.directory, error);
    if (error) LOG(WARNING) << place.directory << " stays behind: " << error.message();
    ::rmdir(fs::path(place.directory).parent_path().c_str());  // the last view takes the directory along
  }
  held_.reset();
}

}  // namespace mlcache::seal
