#include "cached/store/open_store.h"

#include "cached/store/file_store.h"

namespace mlcache::store {

Result<std::shared_ptr<ObjectStore>> OpenStore(const StoreUrl& url, const StoreOptions& /*options*/, const Clock& clock,
                                               Metrics& /*metrics*/, const CallContext& /*context*/) {
  if (url.scheme == "file") return FileStore::Open("/" + url.path, clock);
  return Fail(Code::kUnimplemented,
              url.Canonical() + ": this release cannot read " + url.scheme + ":// stores yet; use file:///DIR");
}

}  // namespace mlcache::store
