#include "cached/session/volume_table.h"

#include <algorithm>
#include <utility>

namespace mlcache::session {
namespace {

// What tells that a volume cannot be mounted, apart from a store that is only out of reach.
bool IsRefusal(Code code) {
  return code == Code::kNotFound || code == Code::kPermissionDenied || code == Code::kUnauthenticated;
}

Status CheckRoot(StoreVolume& volume, const store::CallContext& context) {
  const std::string url = volume.url().Canonical();
  const Result<Known> root = volume.Look("", Nanos::zero(), context);
  if (!root.has_value()) {
    if (IsRefusal(root.error().code())) return std::unexpected(root.error().WithContext(url));
    return {};
  }
  if (!root->exists) return Fail(Code::kNotFound, url + ": there is nothing at this URL: check the path or make it");
  if (root->info.type != store::FileType::kDirectory)
    return Fail(Code::kInvalidArgument, url + " is a file: mount the directory that it lies in");
  return {};
}

}  // namespace

VolumeTable::VolumeTable(const SessionServerOptions& options, const SessionDependencies& dependencies)
    : options_(options), dependencies_(dependencies) {}

Result<std::shared_ptr<StoreVolume>> VolumeTable::Get(const std::string& url, const store::CallContext& context,
                                                      const CredentialProfile& credential) {
  MLCACHE_ASSIGN_OR_RETURN(store::StoreUrl parsed, store::ParseStoreUrl(url));
  parsed.credential = credential.name;
  const std::string key = parsed.Canonical() + "#" + credential.name + "#" + credential.aws_profile;
  std::shared_ptr<StoreVolume> volume = Find(key);
  if (volume == nullptr) {
    store::StoreOptions options = options_.store;
    options.aws_profile = credential.aws_profile;
    // Outside the lock, since it talks to the store; of two that open at once the first one's is kept.
    MLCACHE_ASSIGN_OR_RETURN(
        std::shared_ptr<store::ObjectStore> store,
        options_.open_store ? options_.open_store(parsed, context)
                            : store::OpenStore(parsed, options, dependencies_.clock, dependencies_.metrics, context));
    volume = std::make_shared<StoreVolume>(parsed, std::move(store), dependencies_.cache, dependencies_.metadata,
                                           options_.volume, dependencies_.clock);
  }
  MLCACHE_RETURN_IF_ERROR(CheckRoot(*volume, context));
  return Keep(key, std::move(volume));
}

std::shared_ptr<StoreVolume> VolumeTable::Find(const std::string& key) {
  std::lock_guard lock(mutex_);
  const auto found = std::ranges::find(entries_, key, &Entry::key);
  return found == entries_.end() ? nullptr : found->volume;
}

std::shared_ptr<StoreVolume> VolumeTable::Keep(const std::string& key, std::shared_ptr<StoreVolume> volume) {
  std::vector<Entry> dropped;  // stores are closed outside the lock
  std::lock_guard lock(mutex_);
  const auto found = std::ranges::find(entries_, key, &Entry::key);
  if (found != entries_.end()) {
    entries_.splice(entries_.begin(), entries_, found);
    return found->volume;
  }
  entries_.push_front({.key = key, .volume = volume});
  size_t idle = 0;
  for (auto it = std::next(entries_.begin()); it != entries_.end();) {
    const bool unused = it->volume.use_count() == 1;
    if (!unused || ++idle <= kMaxIdle) {
      ++it;
      continue;
    }
    dropped.push_back(std::move(*it));
    it = entries_.erase(it);
  }
  return volume;
}

std::vector<std::shared_ptr<StoreVolume>> VolumeTable::All() const {
  std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<StoreVolume>> volumes;
  volumes.reserve(entries_.size());
  for (const Entry& entry : entries_) volumes.push_back(entry.volume);
  return volumes;
}

}  // namespace mlcache::session
