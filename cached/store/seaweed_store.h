// A SeaweedFS cluster, or what lies below a directory of its filer, as a store.
//
// Names and attributes come from the filer by gRPC, bytes straight from the volume servers by HTTP
// (seaweed_volumes.h). A file's version is a hash of its list of chunks; chunks never change, so a reader of an old
// version gets its bytes or kFailedPrecondition, never those of a newer one. A remote-mounted file that the cluster has
// not fetched yet is fetched into it by its first read, and is then another version, of the same bytes. Files that
// the S3 gateway encrypted (SSE) can be listed but not read: kUnimplemented.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cached/store/http_client.h"
#include "cached/store/object_store.h"
#include "cached/store/seaweed_entry.h"
#include "cached/store/seaweed_feed.h"
#include "cached/store/seaweed_filer.h"
#include "cached/store/seaweed_map_cache.h"
#include "cached/store/seaweed_security.h"
#include "cached/store/seaweed_volumes.h"
#include "cached/store/store_url.h"
#include "common/clock.h"
#include "common/status.h"

namespace mlcache::store {

struct SeaweedOptions {
  HttpOptions http;
  SeaweedFilerOptions filer;
  SeaweedFeedOptions feed;
  uint32_t page_entries = 4096;
};

class SeaweedStore : public ObjectStore {  // thread-safe
 public:
  // Asks the cluster nothing yet. Borrows `clock`.
  static Result<std::shared_ptr<SeaweedStore>> Open(const StoreUrl& url, const SeaweedSecurity& security,
                                                    const SeaweedOptions& options, const Clock& clock);

  Result<ObjectInfo> Stat(const std::string& path, const CallContext& context) override;
  Result<ListPage> List(const std::string& path, const std::string& token, const CallContext& context) override;
  Status ReadRange(const ObjectRef& ref, uint64_t offset, uint64_t length, const ByteSink& sink,
                   const CallContext& context) override;
  Result<StoreCapacity> Capacity(const CallContext& context) override;
  Status Watch(const std::string& path, const ChangeSink& sink, const CallContext& context) override;
  bool PinsVersion() const override { return true; }  // chunks never change

 private:
  using MapPtr = SeaweedMapCache::MapPtr;

  SeaweedStore(const StoreUrl& url, std::unique_ptr<SeaweedFiler> filer, SeaweedAccess access,
               const SeaweedSecurity& security, const SeaweedOptions& options, const Clock& clock);

  std::string Absolute(const std::string& path) const;
  std::string Shown(const std::string& path) const;
  Result<SeaweedEntry> Lookup(const std::string& path, const CallContext& context);
  Result<MapPtr> MapOf(const ObjectRef& ref, const CallContext& context);
  Result<MapPtr> MakeMap(const ObjectRef& ref, std::shared_ptr<const SeaweedLayout> layout, const CallContext& context);
  Status ResolveManifests(std::vector<SeaweedChunk>& chunks, const CallContext& context);
  Status ReadMapped(const SeaweedMap& map, uint64_t offset, uint64_t length, const ByteSink& sink,
                    const CallContext& context);
  Error Explain(const ObjectRef& ref, Error error, const CallContext& context);

  const StoreUrl url_;
  const std::string root_;  // "" or "/a/b"
  const SeaweedOptions options_;
  const Clock& clock_;
  const std::unique_ptr<SeaweedFiler> filer_;
  SeaweedVolumes volumes_;
  SeaweedMapCache maps_;  // by version and path
};

}  // namespace mlcache::store
