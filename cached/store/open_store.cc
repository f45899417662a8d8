#include "cached/store/open_store.h"

#include <algorithm>
#include <random>
#include <utility>
#include <vector>

#include "cached/store/breaker_store.h"
#include "cached/store/call.h"
#include "cached/store/fault_store.h"
#include "cached/store/file_store.h"
#include "cached/store/hedge_store.h"
#include "cached/store/metered_store.h"
#include "cached/store/retry_store.h"
#include "cached/store/s3_store.h"
#include "cached/store/seaweed_security.h"
#include "cached/store/seaweed_store.h"
#include "cached/store/throttle_store.h"
#include "cached/store/window_store.h"
#include "common/units.h"

namespace mlcache::store {
namespace {

HttpOptions Http(const StoreOptions& options) {
  HttpOptions http;
  http.connect_timeout = options.connect_timeout;
  http.first_byte_timeout = options.first_byte_timeout;
  http.stall_timeout = options.stall_timeout;
  http.attempt_timeout = options.attempt_timeout;
  http.gate = options.resources->gate();
  return http;
}

// The daemon's rates, lowered by the URL's own.
ThrottleOptions Rates(const StoreUrl& url, const StoreOptions& options) {
  const auto lower = [&](const char* name, uint64_t limit) {
    const auto found = url.options.find(name);
    if (found == url.options.end()) return limit;
    const uint64_t asked = ParseSize(found->second).value_or(0);  // ParseStoreUrl has checked it
    return limit == 0 ? asked : std::min(limit, asked);
  };
  return {.bytes_per_second = lower("max_bytes_per_second", options.max_bytes_per_second),
          .requests_per_second = lower("max_requests_per_second", options.max_requests_per_second)};
}

// A decorator holds its part and with it the whole, so that the next view of the store finds it.
template <typename T>
std::shared_ptr<T> Part(const std::shared_ptr<StoreResources::PerStore>& whole, T& part) {
  return {whole, &part};
}

// `options.resources` is set.
Result<std::shared_ptr<ObjectStore>> OpenBare(const StoreUrl& url, const StoreOptions& options, const Clock& clock) {
  if (url.scheme == "file") return FileStore::Open("/" + url.path, clock);
  if (url.scheme == "s3") {
    StoreUrl keyed = url;
    if (!options.aws_profile.empty()) keyed.options["profile"] = options.aws_profile;
    const S3Options s3{.http = Http(options),
                       .credentials = options.s3_credentials,
                       .instance_metadata = options.s3_instance_metadata};
    return std::make_shared<S3Store>(keyed, s3, clock);
  }
  MLCACHE_ASSIGN_OR_RETURN(const SeaweedSecurity security, LoadSeaweedSecurity(options.seaweedfs_security));
  const SeaweedFilerOptions filer{.connect_timeout = options.connect_timeout, .answer_timeout = options.stall_timeout};
  return SeaweedStore::Open(url, security, {.http = Http(options), .filer = filer}, clock);
}

}  // namespace

Result<std::shared_ptr<ObjectStore>> OpenStore(const StoreUrl& url, const StoreOptions& given, const Clock& clock,
                                               Metrics& metrics, const CallContext& context) {
  MLCACHE_ASSIGN_OR_RETURN(std::vector<FaultRule> faults, ParseFaultScript(given.fault_spec));
  StoreOptions options = given;
  if (options.resources == nullptr) {
    options.resources = std::make_shared<StoreResources>(options.shared, metrics, clock);
  }
  const std::string label = url.Identity();
  const ThrottleOptions rates = Rates(url, options);
  const std::shared_ptr<StoreResources::PerStore> shared = options.resources->For(label, rates);

  MLCACHE_ASSIGN_OR_RETURN(std::shared_ptr<ObjectStore> store, OpenBare(url, options, clock));
  if (!faults.empty()) store = std::make_shared<FaultStore>(std::move(store), std::move(faults), &Pause);
  if (rates.bytes_per_second > 0 || rates.requests_per_second > 0) {
    store = std::make_shared<ThrottleStore>(std::move(store), Part(shared, shared->rates), &Pause);
  }
  store = std::make_shared<MeteredStore>(std::move(store), label, metrics, clock);
  if (url.scheme != "file") {
    if (options.hedge_share > 0) {
      store = std::make_shared<HedgeStore>(std::move(store), HedgeOptions{.most_share = options.hedge_share}, label,
                                           metrics, clock, options.resources->hedge_executor());
    }
    store = std::make_shared<BreakerStore>(std::move(store), Part(shared, shared->breaker));
    store = std::make_shared<WindowStore>(std::move(store), Part(shared, shared->window), clock);
  }
  const RetryOptions retries{.attempts = options.retry_attempts, .initial_backoff = options.retry_initial_backoff};
  store = std::make_shared<RetryStore>(std::move(store), retries, label, metrics, &Pause, std::random_device()());
  MLCACHE_ASSIGN_OR_RETURN(const ObjectInfo root, store->Stat("", context));
  if (root.type != FileType::kDirectory) {
    return Fail(Code::kInvalidArgument, url.Canonical() + ": is not a directory");
  }
  return store;
}

}  // namespace mlcache::store
