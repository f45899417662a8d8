// From a URL to a store ready for use: the implementation under its decorators.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "cached/store/object_store.h"
#include "cached/store/store_url.h"
#include "common/clock.h"
#include "common/status.h"

namespace mlcache {
class Metrics;
}

namespace mlcache::store {

struct StoreOptions {
  int retry_attempts = 5;
  Nanos retry_initial_backoff = std::chrono::milliseconds(50);
  Nanos connect_timeout = std::chrono::seconds(5);
  Nanos stall_timeout = std::chrono::seconds(20);  // no byte for so long ends an attempt
  uint64_t max_bytes_per_second = 0;               // 0: no throttle
  uint64_t max_requests_per_second = 0;
  std::string aws_profile;  // section of the S3 credentials file, instead of the daemon's own keys
  std::string fault_spec;   // for tests: the fault decorator's script; empty: no faults
};

// Retry(Metered(Throttle(Fault(store)))), rooted at url.path. Looks at the root once: kNotFound, kPermissionDenied or
// kUnauthenticated say what to mend (a missing bucket, a directory the daemon's user cannot read, wrong credentials).
Result<std::shared_ptr<ObjectStore>> OpenStore(const StoreUrl& url, const StoreOptions& options, const Clock& clock,
                                               Metrics& metrics, const CallContext& context);

}  // namespace mlcache::store
