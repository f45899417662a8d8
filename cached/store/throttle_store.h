// Keeps a store's use below a rate of bytes and a rate of requests, for all callers together.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

#include "cached/store/forwarding_store.h"
#include "cached/store/object_store.h"

namespace mlcache::store {

// A token bucket that lends: a charge is always granted, and answers how long the caller must wait until it is paid.
// So callers queue in the order of their charges, and one larger than the bucket passes. Thread-safe.
class TokenBucket {
 public:
  // `per_second` tokens come in each second, at most a second's worth is kept. 0: no limit.
  TokenBucket(uint64_t per_second, const Clock& clock);

  Nanos Charge(uint64_t tokens);

 private:
  const double per_second_;
  const Clock& clock_;
  std::mutex mutex_;  // a leaf
  double tokens_;     // guarded by mutex_; negative while in debt
  Nanos updated_;     // guarded by mutex_
};

struct ThrottleOptions {
  uint64_t bytes_per_second = 0;  // 0: no limit
  uint64_t requests_per_second = 0;
};

// The two buckets of one store, shared by all views of it. Thread-safe.
struct RateLimits {
  RateLimits(const ThrottleOptions& options, const Clock& clock)
      : bytes(options.bytes_per_second, clock), requests(options.requests_per_second, clock) {}

  TokenBucket bytes;
  TokenBucket requests;
};

// Bytes are charged as they arrive: the wait is between pieces, and the sender feels it as back-pressure. Waits end
// with kCancelled or kDeadlineExceeded as the context says. Thread-safe.
class ThrottleStore : public ForwardingStore {
 public:
  ThrottleStore(std::shared_ptr<ObjectStore> inner, std::shared_ptr<RateLimits> rates, PauseFunction pause);

  Result<ObjectInfo> Stat(const std::string& path, const CallContext& context) override;
  Result<ListPage> List(const std::string& path, const std::string& token, const CallContext& context) override;
  Status ReadRange(const ObjectRef& ref, uint64_t offset, uint64_t length, const ByteSink& sink,
                   const CallContext& context) override;

 private:
  Status Pay(TokenBucket& bucket, uint64_t tokens, const CallContext& context);

  const PauseFunction pause_;
  const std::shared_ptr<RateLimits> rates_;
};

}  // namespace mlcache::store
