// From a URL to a store ready for use: the implementation under its decorators.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "cached/store/object_store.h"
#include "cached/store/s3_credentials.h"
#include "cached/store/store_resources.h"
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
  // Each ends an attempt over HTTP; see HttpOptions.
  Nanos connect_timeout = std::chrono::seconds(5);
  Nanos first_byte_timeout = std::chrono::seconds(10);
  Nanos stall_timeout = std::chrono::seconds(20);
  Nanos attempt_timeout = std::chrono::seconds(30);
  double hedge_share = 0.02;          // of the reads, at most so many are asked for twice; 0: none
  uint64_t max_bytes_per_second = 0;  // 0: no throttle; the URL's options of the same names can only lower them
  uint64_t max_requests_per_second = 0;
  std::string aws_profile;            // section of the S3 profile files that a mount's credential= names; "": the URL's
  bool s3_instance_metadata = false;  // whether the link-local metadata service may be asked for S3 keys
  // In place of the environment's. Null: the URL's ?profile=, else the environment's.
  std::shared_ptr<CredentialsProvider> s3_credentials;
  ResourceOptions shared;                     // of the resources that are made where `resources` is null
  std::shared_ptr<StoreResources> resources;  // shared by all stores of a daemon; null: the store gets its own
  std::string seaweedfs_security;             // path of a security.toml; empty: the environment alone
  std::string fault_spec;                     // for tests: the fault decorator's script; empty: no faults
};

// Retry(Window(Breaker(Hedge(Metered(Throttle(Fault(store))))))), rooted at url.path; a directory (file://) goes
// without window, breaker and hedge, since its waits are the kernel's. Looks at the root once: kNotFound,
// kPermissionDenied or kUnauthenticated say what to mend (a missing bucket, a directory the daemon's user cannot read,
// wrong credentials).
Result<std::shared_ptr<ObjectStore>> OpenStore(const StoreUrl& url, const StoreOptions& options, const Clock& clock,
                                               Metrics& metrics, const CallContext& context);

}  // namespace mlcache::store
