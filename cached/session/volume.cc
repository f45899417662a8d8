#include "cached/session/volume.h"

#include <utility>

#include "cached/session/path.h"
#include "cached/session/store_volume.h"

namespace mlcache::session {
namespace {

// Of a directory tree a listing costs a stat of each entry; elsewhere one request brings a page of them.
constexpr uint64_t kEntriesPerLocalStat = 4;
constexpr uint64_t kEntriesPerRequest = 1000;

MetadataOptions MetadataOptionsOf(const store::StoreUrl& url, const VolumeOptions& options) {
  return {.max_entries = options.max_cached_entries,
          .negative_ttl = options.negative_ttl,
          .entries_per_request = url.scheme == "file" ? kEntriesPerLocalStat : kEntriesPerRequest,
          .persistent_prefix = "l" + url.Identity(),
          .persistent_root = url.path};
}

Status CheckPath(const std::string& path) {
  if (IsValidPath(path)) return {};
  return Fail(Code::kInvalidArgument,
              "'" + path + "' is not a path below a store: names of 1 to 255 bytes, single slashes, no . or ..");
}

}  // namespace

cache::ObjectKey KeyOf(const store::StoreUrl& url, const std::string& path, const store::ObjectInfo& info) {
  return {.store = url.Identity(), .path = JoinPath(url.path, path), .version = info.version, .size = info.size};
}

StoreVolume::StoreVolume(const store::StoreUrl& url, std::shared_ptr<store::ObjectStore> store,
                         cache::ObjectCache& cache, cache::KeyValue& persistent, const VolumeOptions& options,
                         const Clock& clock)
    : url_(url),
      identity_(url.Identity()),
      store_(std::move(store)),
      cache_(cache),
      metadata_(MetadataOptionsOf(url, options), *store_, persistent, clock) {}

Result<store::ObjectInfo> StoreVolume::Stat(const std::string& path, Nanos max_age, const store::CallContext& context) {
  MLCACHE_RETURN_IF_ERROR(CheckPath(path));
  MLCACHE_ASSIGN_OR_RETURN(Known known, metadata_.Stat(path, max_age, context));
  if (!known.exists) return Fail(Code::kNotFound, url_.Canonical() + ": there is no '" + path + "'");
  return std::move(known.info);
}

Result<std::shared_ptr<const Listing>> StoreVolume::List(const std::string& path, Nanos max_age,
                                                         const store::CallContext& context) {
  MLCACHE_RETURN_IF_ERROR(CheckPath(path));
  return metadata_.List(path, max_age, ListDetail::kAttributes, context);
}

uint64_t StoreVolume::Invalidate(const std::string& path) {
  return CheckPath(path).has_value() ? metadata_.Invalidate(path) : 0;
}

Result<fetch::Source> StoreVolume::Open(const std::string& path, const store::ObjectInfo& info) {
  MLCACHE_RETURN_IF_ERROR(CheckPath(path));
  if (info.type != store::FileType::kRegular)
    return Fail(Code::kInvalidArgument, "'" + path + "' is not a regular file and has no bytes to read");
  if (info.version.empty()) return Fail(Code::kInternal, "'" + path + "' has no version");
  MLCACHE_ASSIGN_OR_RETURN(std::shared_ptr<cache::CachedObject> object, cache_.Acquire(KeyOf(url_, path, info)));
  fetch::Source source;
  source.store = store_;
  source.ref = {.path = path, .version = info.version, .size = info.size, .layout = info.layout};
  source.object = std::move(object);
  source.hints.keep = info.settled;
  return source;
}

std::shared_ptr<cache::CachedObject> StoreVolume::FindCached(const std::string& path, const store::ObjectInfo& info) {
  return cache_.Find(KeyOf(url_, path, info));
}

std::shared_ptr<Volume> MakeVolume(const store::StoreUrl& url, std::shared_ptr<store::ObjectStore> store,
                                   cache::ObjectCache& cache, cache::KeyValue& persistent, const VolumeOptions& options,
                                   const Clock& clock) {
  return std::make_shared<StoreVolume>(url, std::move(store), cache, persistent, options, clock);
}

}  // namespace mlcache::session
