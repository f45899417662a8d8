#include "cached/store/throttle_store.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace mlcache::store {

TokenBucket::TokenBucket(uint64_t per_second, const Clock& clock)
    : per_second_(static_cast<double>(per_second)), clock_(clock), tokens_(per_second_), updated_(clock.Now()) {}

Nanos TokenBucket::Charge(uint64_t tokens) {
  if (per_second_ == 0) return Nanos(0);
  const std::lock_guard lock(mutex_);
  const Nanos now = clock_.Now();
  const double earned = std::chrono::duration<double>(now - updated_).count() * per_second_;
  tokens_ = std::min(per_second_, tokens_ + earned) - static_cast<double>(tokens);
  updated_ = now;
  if (tokens_ >= 0) return Nanos(0);
  return std::chrono::ceil<Nanos>(std::chrono::duration<double>(-tokens_ / per_second_));
}

ThrottleStore::ThrottleStore(std::shared_ptr<ObjectStore> inner, std::shared_ptr<RateLimits> rates, PauseFunction pause)
    : ForwardingStore(std::move(inner)), pause_(std::move(pause)), rates_(std::move(rates)) {}

Status ThrottleStore::Pay(TokenBucket& bucket, uint64_t tokens, const CallContext& context) {
  const Nanos wait = bucket.Charge(tokens);
  if (wait == Nanos(0)) return {};
  if (const Status status = pause_(wait, context); !status) {
    return std::unexpected(status.error().WithContext("waiting for the store's rate limit"));
  }
  return {};
}

Result<ObjectInfo> ThrottleStore::Stat(const std::string& path, const CallContext& context) {
  MLCACHE_RETURN_IF_ERROR(Pay(rates_->requests, 1, context));
  return inner_->Stat(path, context);
}

Result<ListPage> ThrottleStore::List(const std::string& path, const std::string& token, const CallContext& context) {
  MLCACHE_RETURN_IF_ERROR(Pay(rates_->requests, 1, context));
  return inner_->List(path, token, context);
}

Status ThrottleStore::ReadRange(const ObjectRef& ref, uint64_t offset, uint64_t length, const ByteSink& sink,
                                const CallContext& context) {
  MLCACHE_RETURN_IF_ERROR(Pay(rates_->requests, 1, context));
  const ByteSink paying = [&](std::span<const std::byte> bytes) -> Status {
    MLCACHE_RETURN_IF_ERROR(Pay(rates_->bytes, bytes.size(), context));
    return sink(bytes);
  };
  return inner_->ReadRange(ref, offset, length, paying, context);
}

}  // namespace mlcache::store
