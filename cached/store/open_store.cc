#include "cached/store/open_store.h"

#include <random>
#include <utility>
#include <vector>

#include "cached/store/call.h"
#include "cached/store/fault_store.h"
#include "cached/store/file_store.h"
#include "cached/store/metered_store.h"
#include "cached/store/retry_store.h"
#include "cached/store/s3_store.h"
#include "cached/store/throttle_store.h"

namespace mlcache::store {
namespace {

Result<std::shared_ptr<ObjectStore>> OpenBare(const StoreUrl& url, const StoreOptions& options, const Clock& clock) {
  if (url.scheme == "file") return FileStore::Open("/" + url.path, clock);
  if (url.scheme == "s3") {
    const HttpOptions http{.connect_timeout = options.connect_timeout, .stall_timeout = options.stall_timeout};
    StoreUrl keyed = url;
    if (!options.aws_profile.empty()) keyed.options["profile"] = options.aws_profile;
    return std::make_shared<S3Store>(keyed, http, clock);
  }
  return Fail(Code::kUnimplemented, url.Canonical() + ": this release cannot read " + url.scheme +
                                        ":// stores yet; use file:///DIR, or s3:// through the cluster's S3 gateway");
}

}  // namespace

Result<std::shared_ptr<ObjectStore>> OpenStore(const StoreUrl& url, const StoreOptions& options, const Clock& clock,
                                               Metrics& metrics, const CallContext& context) {
  MLCACHE_ASSIGN_OR_RETURN(std::vector<FaultRule> faults, ParseFaultScript(options.fault_spec));
  MLCACHE_ASSIGN_OR_RETURN(std::shared_ptr<ObjectStore> store, OpenBare(url, options, clock));
  if (!faults.empty()) store = std::make_shared<FaultStore>(std::move(store), std::move(faults), &Pause);
  if (options.max_bytes_per_second > 0 || options.max_requests_per_second > 0) {
    const ThrottleOptions rates{.bytes_per_second = options.max_bytes_per_second,
                                .requests_per_second = options.max_requests_per_second};
    store = std::make_shared<ThrottleStore>(std::move(store), rates, clock, &Pause);
  }
  const std::string label = url.Canonical();
  store = std::make_shared<MeteredStore>(std::move(store), label, metrics, clock);
  const RetryOptions retries{.attempts = options.retry_attempts, .initial_backoff = options.retry_initial_backoff};
  store = std::make_shared<RetryStore>(std::move(store), retries, label, metrics, &Pause, std::random_device()());
  MLCACHE_ASSIGN_OR_RETURN(const ObjectInfo root, store->Stat("", context));
  if (root.type != FileType::kDirectory) return Fail(Code::kInvalidArgument, label + ": is not a directory");
  return store;
}

}  // namespace mlcache::store
