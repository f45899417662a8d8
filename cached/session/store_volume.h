// The Volume of the programs, with what only sessions need beside the seam: answers from memory alone, and the age of
// an answer. Thread-safe.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "cached/session/metadata_cache.h"
#include "cached/session/volume.h"

namespace mlcache::session {

class StoreVolume final : public Volume {
 public:
  // Borrows `cache`, `persistent` and `clock`.
  StoreVolume(const store::StoreUrl& url, std::shared_ptr<store::ObjectStore> store, cache::ObjectCache& cache,
              cache::KeyValue& persistent, const VolumeOptions& options, const Clock& clock);

  const store::StoreUrl& url() const override { return url_; }
  Result<store::ObjectInfo> Stat(const std::string& path, Nanos max_age, const store::CallContext& context) override;
  Result<std::shared_ptr<const Listing>> List(const std::string& path, Nanos max_age,
                                              const store::CallContext& context) override;
  uint64_t Invalidate(const std::string& path) override;
  Result<fetch::Source> Open(const std::string& path, const store::ObjectInfo& info) override;
  store::ObjectStore& store() override { return *store_; }

  // StoreUrl::Identity of url().
  const std::string& identity() const { return identity_; }

  // As the members of MetadataCache of the same names, for a valid path. Look is its Stat: absence is an answer.
  std::optional<Known> Peek(std::string_view path, Nanos max_age) { return metadata_.Peek(path, max_age); }
  std::shared_ptr<const Listing> PeekListing(std::string_view path, Nanos max_age, ListDetail detail) {
    return metadata_.PeekListing(path, max_age, detail);
  }
  Result<std::shared_ptr<const Listing>> List(const std::string& path, Nanos max_age, ListDetail detail,
                                              const store::CallContext& context) {
    return metadata_.List(path, max_age, detail, context);
  }
  Result<Known> Look(const std::string& path, Nanos max_age, const store::CallContext& context) {
    return metadata_.Stat(path, max_age, context);
  }

  // What the object cache holds of that version; null when nothing.
  std::shared_ptr<cache::CachedObject> FindCached(const std::string& path, const store::ObjectInfo& info);

 private:
  const store::StoreUrl url_;
  const std::string identity_;
  const std::shared_ptr<store::ObjectStore> store_;
  cache::ObjectCache& cache_;
  MetadataCache metadata_;
};

}  // namespace mlcache::session
