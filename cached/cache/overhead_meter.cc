#include "cached/cache/overhead_meter.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <array>
#include <cstdio>
#include <memory>
#include <numeric>

namespace mlcache::cache {
namespace {

constexpr uint64_t kStatBlockBytes = 512;
constexpr size_t kObjectDirectories = 256;

uint64_t SpaceOf(const struct stat& info) { return static_cast<uint64_t>(info.st_blocks) * kStatBlockBytes; }

// Of the directory and the files in it; files that vanish meanwhile count nothing.
uint64_t SpaceOfDirectory(const std::string& path) {
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(::opendir(path.c_str()), &::closedir);
  if (directory == nullptr) return 0;
  uint64_t bytes = 0;
  while (const dirent* entry = ::readdir(directory.get())) {
    struct stat info{};
    const std::string_view name = entry->d_name;
    if (name == ".." || ::fstatat(::dirfd(directory.get()), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0) continue;
    bytes += SpaceOf(info);
  }
  return bytes;
}

}  // namespace

OverheadMeter::OverheadMeter(Budget& budget, std::vector<std::string> databases, std::string object_directory,
                             uint64_t margin_bytes)
    : budget_(budget),
      databases_(std::move(databases)),
      object_directory_(std::move(object_directory)),
      margin_bytes_(margin_bytes),
      directory_bytes_(kObjectDirectories, kFileBlockBytes) {
  for (size_t i = 0; i < kObjectDirectories; ++i) {
    std::array<char, 8> name{};
    static_cast<void>(std::snprintf(name.data(), name.size(), "/%02zx", i));
    struct stat info{};
    if (::stat((object_directory_ + name.data()).c_str(), &info) == 0) directory_bytes_[i] = SpaceOf(info);
  }
  Measure();
}

void OverheadMeter::Writing(uint64_t bytes) {
  const std::scoped_lock lock(mutex_);
  written_bytes_ += bytes;
  Publish();
}

void OverheadMeter::DirectoryNow(size_t directory, uint64_t bytes) {
  const std::scoped_lock lock(mutex_);
  if (directory_bytes_[directory] == bytes) return;
  directory_bytes_[directory] = bytes;
  Publish();
}

void OverheadMeter::Measure() {
  const std::scoped_lock measuring(measuring_);
  uint64_t seen_written = 0;
  {
    const std::scoped_lock lock(mutex_);
    seen_written = written_bytes_;
  }
  uint64_t bytes = 2 * kFileBlockBytes;  // the tier's directory and its LOCK
  for (const std::string& database : databases_) bytes += SpaceOfDirectory(database);
  const std::scoped_lock lock(mutex_);
  measured_bytes_ = bytes;
  written_bytes_ -= seen_written;
  Publish();
}

void OverheadMeter::Publish() {
  const uint64_t directories = std::accumulate(directory_bytes_.begin(), directory_bytes_.end(), uint64_t{0});
  budget_.SetOverhead(2 * measured_bytes_ + 2 * written_bytes_ + directories + margin_bytes_);
}

}  // namespace mlcache::cache
