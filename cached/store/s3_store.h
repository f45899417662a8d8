// A bucket, or what lies below a prefix of one, as a store: Amazon S3 and everything that speaks its protocol.
//
// A key "a/b/c" is file c in directory a/b; directories are implied by the keys below them or by a marker key "a/b/".
// Where both a key "x" and keys "x/…" exist, the file wins. Keys that no path can name (an empty, "." or ".."
// component, NUL, a component over 255 bytes) are left out of listings, with one log line a listing.
// S3 knows no owners or modes: files are 0644, directories 0755, both root's; the mount's uid=, gid= and umask= change
// that. A whole object of up to 16 MiB that comes with a checksum is held back until it has been checked. mtime and
// ctime are Last-Modified in whole seconds; directories have none. The version is the ETag, which every read demands by
// If-Match and then checks in the reply.
#pragma once

#include <memory>
#include <string>

#include "cached/store/http_client.h"
#include "cached/store/object_store.h"
#include "cached/store/s3_credentials.h"
#include "cached/store/s3_locator.h"
#include "cached/store/store_url.h"
#include "common/clock.h"
#include "common/status.h"

namespace mlcache::store {

struct S3Options {
  HttpOptions http;                                  // AWS_CA_BUNDLE fills in an empty ca_bundle
  std::shared_ptr<CredentialsProvider> credentials;  // null: MakeDefaultCredentials
  bool instance_metadata = false;                    // for MakeDefaultCredentials
};

class S3Store : public ObjectStore {  // thread-safe
 public:
  // Asks the server nothing yet. Reads from the environment AWS_REGION, AWS_DEFAULT_REGION, AWS_CA_BUNDLE and what
  // MakeDefaultCredentials reads.
  S3Store(const StoreUrl& url, const S3Options& options, const Clock& clock);

  Result<ObjectInfo> Stat(const std::string& path, const CallContext& context) override;
  Result<ListPage> List(const std::string& path, const std::string& token, const CallContext& context) override;
  Status ReadRange(const ObjectRef& ref, uint64_t offset, uint64_t length, const ByteSink& sink,
                   const CallContext& context) override;
  Result<StoreCapacity> Capacity(const CallContext& context) override;
  Status Watch(const std::string& path, const ChangeSink& sink, const CallContext& context) override;
  bool PinsVersion() const override { return true; }  // If-Match, and the head is checked before the first byte

 private:
  std::string Key(const std::string& path) const;
  std::string Shown(const std::string& path) const;
  // Sends `request` with its URL made of `suffix` (an encoded key, or a query); a second time where the reply told
  // where or by what clock the server wants to be asked.
  Result<HttpResponse> Send(const std::string& suffix, HttpRequest request, const CallContext& context);
  Status Sign(HttpRequest& request, const std::string& region, Nanos wall_now, const CallContext& context);
  Result<HttpResponse> ListObjects(const std::string& prefix, const std::string& token, bool delimited, int max_keys,
                                   const CallContext& context);
  Result<ObjectInfo> StatDirectory(const std::string& path, const CallContext& context);
  Error Explain(const HttpResponse& response, const std::string& path) const;

  const std::string bucket_;
  const std::string prefix_;  // "" or ends with '/'
  const bool anonymous_;
  const bool checksums_;
  const Clock& clock_;
  S3Locator locator_;
  const std::shared_ptr<CredentialsProvider> credentials_;  // null if anonymous
  HttpClient http_;
};

}  // namespace mlcache::store
