// Tries again what may succeed on a second attempt: kUnavailable, and replies that broke off (kDataLoss).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <string>

#include "cached/metrics/metrics.h"
#include "cached/store/forwarding_store.h"
#include "cached/store/object_store.h"

namespace mlcache::store {

struct RetryOptions {
  int attempts = 5;  // the first one included
  Nanos initial_backoff = std::chrono::milliseconds(50);
  Nanos max_backoff = std::chrono::seconds(5);
  // A retry takes a whole token, a success at the first attempt gives back a tenth. While the bucket is empty nothing
  // is retried, so a store that fails everything is asked little more than once for each call.
  double budget_tokens = 100;
};

// Before the n-th retry it waits a random time up to initial_backoff * 2^(n-1) ("full jitter", AWS Architecture Blog
// 2015). A read goes on with the bytes not yet delivered, so the sink sees every byte once, in order, and all of them
// from ref.version. What is waited for stops at the context's stop and deadline. Counts `store_retries`, and as
// `store_wasted_bytes` what reads that failed in the end had delivered. Thread-safe.
class RetryStore : public ForwardingStore {
 public:
  RetryStore(std::shared_ptr<ObjectStore> inner, const RetryOptions& options, const std::string& label,
             Metrics& metrics, PauseFunction pause, uint64_t seed);

  Result<ObjectInfo> Stat(const std::string& path, const CallContext& context) override;
  Result<ListPage> List(const std::string& path, const std::string& token, const CallContext& context) override;
  Status ReadRange(const ObjectRef& ref, uint64_t offset, uint64_t length, const ByteSink& sink,
                   const CallContext& context) override;
  Result<StoreCapacity> Capacity(const CallContext& context) override;

 private:
  template <typename T>
  Result<T> Retried(const std::string& op, const CallContext& context, const std::function<Result<T>()>& attempt);
  // Whether attempt number `attempt` (from 1) may be followed by another after `error`; pauses if so. False also where
  // the pause was cut short by stop or deadline: the error of the attempt tells more.
  bool MayRetry(const Error& error, int attempt, const std::string& op, const CallContext& context);
  void Succeeded(int attempt);

  const RetryOptions options_;
  const std::string label_;
  Metrics& metrics_;
  const PauseFunction pause_;

  std::mutex mutex_;  // guards all below; a leaf
  std::mt19937_64 random_;
  double tokens_;
};

}  // namespace mlcache::store
