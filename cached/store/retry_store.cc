#include "cached/store/retry_store.h"

#include <algorithm>
#include <utility>

namespace mlcache::store {
namespace {

constexpr double kRefund = 0.1;

}  // namespace

RetryStore::RetryStore(std::shared_ptr<ObjectStore> inner, const RetryOptions& options, const std::string& label,
                       Metrics& metrics, PauseFunction pause, uint64_t seed)
    : ForwardingStore(std::move(inner)),
      options_(options),
      label_(label),
      metrics_(metrics),
      pause_(std::move(pause)),
      random_(seed),
      tokens_(options.budget_tokens) {}

bool RetryStore::MayRetry(const Error& error, int attempt, const std::string& op, const CallContext& context) {
  if (error.code() != Code::kUnavailable && error.code() != Code::kDataLoss) return false;
  if (attempt >= options_.attempts || context.stop.stop_requested()) return false;
  Nanos backoff = options_.initial_backoff;
  for (int i = 1; i < attempt && backoff < options_.max_backoff; ++i) backoff *= 2;
  {
    const std::lock_guard lock(mutex_);
    if (tokens_ < 1) return false;
    tokens_ -= 1;
    backoff =
        Nanos(std::uniform_int_distribution<int64_t>(0, std::min(backoff, options_.max_backoff).count())(random_));
  }
  if (!pause_(backoff, context)) return false;
  metrics_.store_retries.Add({{"store", label_}, {"op", op}}).Increment();
  return true;
}

void RetryStore::Succeeded(int attempt) {
  if (attempt > 1) return;
  const std::lock_guard lock(mutex_);
  tokens_ = std::min(options_.budget_tokens, tokens_ + kRefund);
}

template <typename T>
Result<T> RetryStore::Retried(const std::string& op, const CallContext& context,
                              const std::function<Result<T>()>& attempt) {
  for (int number = 1;; ++number) {
    Result<T> result = attempt();
    if (result) Succeeded(number);
    if (result || !MayRetry(result.error(), number, op, context)) return result;
  }
}

Result<ObjectInfo> RetryStore::Stat(const std::string& path, const CallContext& context) {
  return Retried<ObjectInfo>("stat", context, [&] { return inner_->Stat(path, context); });
}

Result<ListPage> RetryStore::List(const std::string& path, const std::string& token, const CallContext& context) {
  return Retried<ListPage>("list", context, [&] { return inner_->List(path, token, context); });
}

Status RetryStore::ReadRange(const ObjectRef& ref, uint64_t offset, uint64_t length, const ByteSink& sink,
                             const CallContext& context) {
  uint64_t delivered = 0;
  bool sink_failed = false;
  const ByteSink counting = [&](std::span<const std::byte> bytes) -> Status {
    Status status = sink(bytes);
    if (status) delivered += bytes.size();
    sink_failed = !status;
    return status;
  };
  for (int attempt = 1;; ++attempt) {
    Status status = inner_->ReadRange(ref, offset + delivered, length - delivered, counting, context);
    if (status) Succeeded(attempt);
    if (status) return status;
    // An error after the last byte is a verdict on bytes already given away: nothing is left that could be read again.
    const bool nothing_left = delivered == length && length > 0;
    if (sink_failed || nothing_left || !MayRetry(status.error(), attempt, "read", context)) {
      if (delivered > 0) {
        metrics_.store_wasted_bytes.Add({{"store", label_}}).Increment(static_cast<double>(delivered));
      }
      return status;
    }
  }
}

Result<StoreCapacity> RetryStore::Capacity(const CallContext& context) {
  return Retried<StoreCapacity>("capacity", context, [&] { return inner_->Capacity(context); });
}

}  // namespace mlcache::store
