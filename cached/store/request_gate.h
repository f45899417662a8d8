// How many calls may be under way at once: a counting semaphore that lets the most urgent waiter in first.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <set>
#include <string_view>
#include <utility>

#include "cached/store/object_store.h"
#include "common/status.h"

namespace mlcache::store {

class RequestGate {  // thread-safe; outlives its permits
 public:
  // Held while a call is under way; movable, and empty once moved from.
  class Permit {
   public:
    explicit Permit(RequestGate& gate) : gate_(&gate) {}
    Permit(Permit&& other) noexcept : gate_(std::exchange(other.gate_, nullptr)) {}
    Permit& operator=(Permit&& other) noexcept {
      std::swap(gate_, other.gate_);
      return *this;
    }
    ~Permit() {
      if (gate_ != nullptr) gate_->Leave();
    }

   private:
    RequestGate* gate_;
  };

  // `limit` at least 1.
  explicit RequestGate(size_t limit);

  // Waits until fewer than the limit are inside and nobody more urgent waits; among equals the first to come is first.
  // kCancelled and kDeadlineExceeded of the context, on the real clock; `what` opens the message.
  Result<Permit> Enter(const CallContext& context, std::string_view what);

  // Counts from now on; those inside stay.
  void SetLimit(size_t limit);

  size_t inside() const;
  size_t waiting() const;

 private:
  void Leave();

  mutable std::mutex mutex_;  // guards all below; a leaf
  std::condition_variable_any changed_;
  size_t limit_;
  size_t inside_ = 0;
  uint64_t arrivals_ = 0;
  std::set<std::pair<Priority, uint64_t>> waiting_;  // the first one is the next to be let in
};

}  // namespace mlcache::store
