#include "cached/prefetch/prefetch_gate.h"

#include <algorithm>
#include <utility>

namespace mlcache::prefetch {

std::shared_ptr<PrefetchGate> PrefetchGate::Make(fetch::Fetcher& fetcher, size_t at_once, size_t max_waiting) {
  return std::shared_ptr<PrefetchGate>(new PrefetchGate(fetcher, at_once, max_waiting));
}

bool PrefetchGate::Fetch(Request request) {
  std::deque<Request> dropped;  // destroyed without the lock
  {
    const std::scoped_lock lock(mutex_);
    if (closed_ || at_once_ == 0) return false;
    if (waiting_.size() >= max_waiting_) {
      for (Request& one : waiting_) {
        if (one.stop.stop_requested()) dropped.push_back(std::move(one));
      }
      std::erase_if(waiting_, [](const Request& one) { return one.source.object == nullptr; });
      if (waiting_.size() >= max_waiting_) return false;
    }
    waiting_.push_back(std::move(request));
  }
  Pump();
  return true;
}

// One thread at a time starts requests: Ensure may end at once, on this thread, and would come back here for each.
void PrefetchGate::Pump() {
  {
    const std::scoped_lock lock(mutex_);
    if (pumping_) return;
    pumping_ = true;
  }
  while (true) {
    Request next;
    {
      const std::scoped_lock lock(mutex_);
      if (closed_ || waiting_.empty() || on_their_way_ >= at_once_) {
        pumping_ = false;
        return;
      }
      next = std::move(waiting_.front());
      waiting_.pop_front();
      if (!next.stop.stop_requested()) ++on_their_way_;
    }
    if (next.stop.stop_requested()) continue;
    fetcher_.Ensure(next.source, next.range, {.priority = next.priority, .job = next.job, .stop = next.stop},
                    [gate = shared_from_this()](const Status& /*fetched*/) { gate->Ended(); });
  }
}

void PrefetchGate::Ended() {
  {
    const std::scoped_lock lock(mutex_);
    --on_their_way_;
  }
  Pump();
}

void PrefetchGate::Close() {
  std::deque<Request> dropped;
  const std::scoped_lock lock(mutex_);
  closed_ = true;
  dropped.swap(waiting_);
}

size_t PrefetchGate::on_their_way() const {
  const std::scoped_lock lock(mutex_);
  return on_their_way_;
}

size_t PrefetchGate::waiting() const {
  const std::scoped_lock lock(mutex_);
  return waiting_.size();
}

}  // namespace mlcache::prefetch
