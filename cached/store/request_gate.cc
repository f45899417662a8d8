#include "cached/store/request_gate.h"

#include <chrono>
#include <string>

#include "cached/store/call.h"
#include "common/clock.h"

namespace mlcache::store {

RequestGate::RequestGate(size_t limit) : limit_(limit) {}

Result<RequestGate::Permit> RequestGate::Enter(const CallContext& context, std::string_view what) {
  std::unique_lock lock(mutex_);
  const auto place = waiting_.emplace(context.priority, ++arrivals_).first;
  const auto my_turn = [&] { return inside_ < limit_ && place == waiting_.begin(); };
  bool let_in = false;
  if (context.deadline == Nanos::max()) {
    let_in = changed_.wait(lock, context.stop, my_turn);
  } else {
    const std::chrono::steady_clock::time_point deadline{context.deadline};
    let_in = changed_.wait_until(lock, context.stop, deadline, my_turn);
  }
  waiting_.erase(place);
  changed_.notify_all();  // whoever stood behind may be first now
  if (let_in) {
    ++inside_;
    return Permit(*this);
  }
  lock.unlock();
  MLCACHE_RETURN_IF_ERROR(CheckCall(context, SystemClock(), what));
  return Fail(Code::kDeadlineExceeded, std::string(what) + ": too many requests to stores are under way");
}

void RequestGate::SetLimit(size_t limit) {
  const std::lock_guard lock(mutex_);
  limit_ = limit;
  changed_.notify_all();
}

size_t RequestGate::inside() const {
  const std::lock_guard lock(mutex_);
  return inside_;
}

size_t RequestGate::waiting() const {
  const std::lock_guard lock(mutex_);
  return waiting_.size();
}

void RequestGate::Leave() {
  const std::lock_guard lock(mutex_);
  --inside_;
  changed_.notify_all();
}

}  // namespace mlcache::store
