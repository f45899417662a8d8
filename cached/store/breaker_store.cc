#include "cached/store/breaker_store.h"

#include <glog/logging.h>

#include <algorithm>
#include <utility>

namespace mlcache::store {
namespace {

using Outcome = CircuitBreaker::Outcome;

// Whoever says "no such file" or sends bytes is alive.
Outcome OutcomeOf(const Error& error, CircuitBreaker::Pass pass) {
  if (error.code() == Code::kUnavailable) return Outcome::kFailed;
  if (error.code() == Code::kCancelled) return Outcome::kUndecided;
  // A deadline may be the caller's own haste; a probe without an answer still is none.
  if (error.code() != Code::kDeadlineExceeded) return Outcome::kAnswered;
  return pass == CircuitBreaker::Pass::kProbe ? Outcome::kFailed : Outcome::kUndecided;
}

template <typename T>
void ReportResult(CircuitBreaker& breaker, CircuitBreaker::Pass pass, const T& result) {
  if (result) {
    breaker.Report(pass, Outcome::kAnswered, "");
  } else {
    breaker.Report(pass, OutcomeOf(result.error(), pass), result.error().message());
  }
}

std::string Seconds(Nanos time) {
  const auto tenths = std::chrono::duration_cast<std::chrono::milliseconds>(time).count() / 100;
  return std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) + " s";
}

}  // namespace

CircuitBreaker::CircuitBreaker(const BreakerOptions& options, const std::string& label, Metrics& metrics,
                               const Clock& clock, uint64_t seed)
    : options_(options),
      label_(label),
      clock_(clock),
      open_gauge_(metrics.store_circuit_open.Add({{"store", label}})),
      random_(seed) {}

// The metric outlives it: a store that nobody uses refuses nothing.
CircuitBreaker::~CircuitBreaker() { open_gauge_.Set(0); }

Result<CircuitBreaker::Pass> CircuitBreaker::Admit() {
  const std::lock_guard lock(mutex_);
  if (!open_) return Pass::kOrdinary;
  const Nanos now = clock_.Now();
  if (!probing_ && now >= next_probe_) {
    probing_ = true;
    return Pass::kProbe;
  }
  const Nanos wait = std::max(Nanos(0), next_probe_ - now);
  return Fail(Code::kUnavailable, label_ + ": the store has not answered for " + Seconds(now - first_failure_) +
                                      " and is asked again " + (probing_ ? "now" : "in " + Seconds(wait)) +
                                      "; last error: " + last_error_);
}

void CircuitBreaker::Report(Pass pass, Outcome outcome, const std::string& error) {
  bool closed = false;
  {
    const std::lock_guard lock(mutex_);
    if (pass == Pass::kProbe) probing_ = false;
    if (outcome == Outcome::kAnswered) {
      closed = std::exchange(open_, false);
      failures_ = 0;
      if (closed) open_gauge_.Set(0);
    } else if (outcome == Outcome::kFailed && (!open_ || pass == Pass::kProbe)) {
      const Nanos now = clock_.Now();
      if (failures_++ == 0) first_failure_ = now;
      if (open_ || (failures_ >= options_.failures && now - first_failure_ >= options_.period)) Open(now, error);
    }
  }
  LOG_IF(INFO, closed) << label_ << ": the store answers again";
}

void CircuitBreaker::Open(Nanos now, const std::string& error) {
  pause_ = open_ ? std::min(options_.max_pause, pause_ * 2) : options_.initial_pause;
  open_ = true;
  next_probe_ = now + pause_ + Nanos(std::uniform_int_distribution<int64_t>(0, pause_.count() / 2)(random_));
  last_error_ = error;
  open_gauge_.Set(1);
}

BreakerStore::BreakerStore(std::shared_ptr<ObjectStore> inner, std::shared_ptr<CircuitBreaker> breaker)
    : ForwardingStore(std::move(inner)), breaker_(std::move(breaker)) {}

Result<ObjectInfo> BreakerStore::Stat(const std::string& path, const CallContext& context) {
  MLCACHE_ASSIGN_OR_RETURN(const CircuitBreaker::Pass pass, breaker_->Admit());
  Result<ObjectInfo> result = inner_->Stat(path, context);
  ReportResult(*breaker_, pass, result);
  return result;
}

Result<ListPage> BreakerStore::List(const std::string& path, const std::string& token, const CallContext& context) {
  MLCACHE_ASSIGN_OR_RETURN(const CircuitBreaker::Pass pass, breaker_->Admit());
  Result<ListPage> result = inner_->List(path, token, context);
  ReportResult(*breaker_, pass, result);
  return result;
}

Status BreakerStore::ReadRange(const ObjectRef& ref, uint64_t offset, uint64_t length, const ByteSink& sink,
                               const CallContext& context) {
  MLCACHE_ASSIGN_OR_RETURN(const CircuitBreaker::Pass pass, breaker_->Admit());
  bool answered = false;
  const ByteSink noting = [&](std::span<const std::byte> bytes) {
    answered = true;
    return sink(bytes);
  };
  Status status = inner_->ReadRange(ref, offset, length, noting, context);
  if (answered) {
    breaker_->Report(pass, Outcome::kAnswered, "");
  } else {
    ReportResult(*breaker_, pass, status);
  }
  return status;
}

}  // namespace mlcache::store
