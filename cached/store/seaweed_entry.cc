#include "cached/store/seaweed_entry.h"

#include <algorithm>
#include <concepts>
#include <string>
#include <utility>

#include "common/hash.h"
#include "proto/filer.pb.h"

namespace mlcache::store {
namespace {

// The type bits of Go's os.FileMode.
constexpr uint32_t kGoSymlink = 1U << 27;
constexpr uint32_t kGoSpecial = 1U << 26 | 1U << 25 | 1U << 24 | 1U << 21 | 1U << 19;  // devices, pipes, sockets, other
constexpr uint32_t kGoSetuid = 1U << 23;
constexpr uint32_t kGoSetgid = 1U << 22;
constexpr uint32_t kGoSticky = 1U << 20;

uint32_t PermissionsOf(uint32_t go_mode) {
  uint32_t mode = go_mode & 0777U;
  if ((go_mode & kGoSetuid) != 0) mode |= 04000U;
  if ((go_mode & kGoSetgid) != 0) mode |= 02000U;
  if ((go_mode & kGoSticky) != 0) mode |= 01000U;
  return mode;
}

constexpr int64_t kNanosPerSecond = 1'000'000'000;

// Saturates: the filer's numbers are whatever somebody wrote.
int64_t TimeOf(int64_t seconds, int32_t nanos) {
  constexpr int64_t kMost = INT64_MAX / kNanosPerSecond - 1;
  return std::clamp(seconds, -kMost, kMost) * kNanosPerSecond +
         std::clamp<int32_t>(nanos, 0, static_cast<int32_t>(kNanosPerSecond - 1));
}

// Fixed-width numbers and length-prefixed texts, so that no two lists of fields give one text.
class Fingerprint {
 public:
  template <std::integral T>
  Fingerprint& Add(T number) {
    text_.append(reinterpret_cast<const char*>(&number), sizeof(number));
    return *this;
  }
  Fingerprint& Add(const std::string& text) {
    Add(text.size());
    text_ += text;
    return *this;
  }
  std::string Hex() const { return ToHex(Hash128(text_)); }

 private:
  std::string text_;
};

std::string VersionOf(const SeaweedLayout& layout, int64_t mtime_ns, const filer_pb::Entry& entry) {
  Fingerprint print;
  print.Add(layout.size).Add(mtime_ns).Add(layout.content).Add(layout.chunks.size());
  for (const SeaweedChunk& chunk : layout.chunks) {
    print.Add(chunk.volume_id).Add(chunk.file_key).Add(chunk.cookie);
    print.Add(chunk.offset).Add(chunk.size).Add(chunk.modified_ts_ns);
  }
  if (layout.remote_only) {
    const filer_pb::RemoteEntry& remote = entry.remote_entry();
    print.Add(remote.storage_name()).Add(remote.remote_e_tag()).Add(remote.remote_mtime()).Add(remote.remote_size());
  }
  return print.Hex();
}

uint64_t SizeOf(const SeaweedLayout& layout, const filer_pb::Entry& entry) {
  uint64_t size = std::max<uint64_t>(entry.attributes().file_size(), layout.content.size());
  for (const SeaweedChunk& chunk : layout.chunks) size = std::max(size, chunk.end());
  if (entry.has_remote_entry() && entry.remote_entry().remote_mtime() > entry.attributes().mtime()) {
    size = std::max(size, static_cast<uint64_t>(std::max<int64_t>(entry.remote_entry().remote_size(), 0)));
  }
  return std::min<uint64_t>(size, INT64_MAX);
}

Result<std::shared_ptr<const SeaweedLayout>> LayoutOf(const filer_pb::Entry& entry, int64_t mtime_ns) {
  auto layout = std::make_shared<SeaweedLayout>();
  layout->content = entry.content();
  layout->chunks.reserve(static_cast<size_t>(entry.chunks_size()));
  for (const filer_pb::FileChunk& chunk : entry.chunks()) {
    MLCACHE_ASSIGN_OR_RETURN(SeaweedChunk parsed, ParseSeaweedChunk(chunk));
    layout->chunks.push_back(std::move(parsed));
  }
  layout->remote_only = entry.has_remote_entry() && entry.remote_entry().remote_size() > 0 && layout->chunks.empty() &&
                        layout->content.empty();
  if (layout->remote_only) layout->remote_etag = entry.remote_entry().remote_e_tag();
  layout->size = SizeOf(*layout, entry);
  layout->version = VersionOf(*layout, mtime_ns, entry);
  return layout;
}

}  // namespace

Result<std::optional<SeaweedEntry>> ParseSeaweedEntry(const filer_pb::Entry& entry) {
  const filer_pb::FuseAttributes& attributes = entry.attributes();
  SeaweedEntry parsed;
  ObjectInfo& info = parsed.info;
  info.mode = PermissionsOf(attributes.file_mode());
  info.uid = attributes.uid();
  info.gid = attributes.gid();
  info.nlink = static_cast<uint32_t>(std::max(entry.hard_link_counter(), 1));
  info.mtime_ns = TimeOf(attributes.mtime(), attributes.mtime_ns());
  info.ctime_ns = attributes.ctime() <= 0 ? info.mtime_ns : TimeOf(attributes.ctime(), attributes.ctime_ns());
  if (entry.is_directory()) {
    info.type = FileType::kDirectory;
    // The filer makes directories without the right to enter them when it is asked by HTTP.
    info.mode |= (info.mode & 0444U) >> 2;
    return parsed;
  }
  if ((attributes.file_mode() & kGoSpecial) != 0) return std::nullopt;
  if ((attributes.file_mode() & kGoSymlink) != 0 || !attributes.symlink_target().empty()) {
    info.type = FileType::kSymlink;
    info.symlink_target = attributes.symlink_target();
    info.size = info.symlink_target.size();
    return parsed;
  }
  MLCACHE_ASSIGN_OR_RETURN(parsed.layout, LayoutOf(entry, info.mtime_ns));
  info.size = parsed.layout->size;
  info.version = parsed.layout->version;
  return parsed;
}

}  // namespace mlcache::store
