// How many requests to one store are under way at once, found out from its answers: additive increase, multiplicative
// decrease, as TCP does (Chiu and Jain, 1989), so that daemons which share a store that has enough converge to equal
// shares without knowing of each other.
//
// The window starts at `initial` and grows by one with each success until the first refusal (slow start), after it by
// one for each window's worth of successes; but only while it is full, since what was never used proves nothing (RFC
// 7661). A call that fails kUnavailable (503 SlowDown, 429, a refused connection) makes it half of what is under way,
// once for all calls that were sent before the last halving.
#pragma once

#include <memory>
#include <mutex>
#include <string>

#include "cached/store/forwarding_store.h"
#include "cached/store/object_store.h"
#include "cached/store/request_gate.h"

namespace mlcache::store {

struct WindowOptions {
  size_t initial = 16;
  size_t max = 256;
};

class CongestionWindow {  // thread-safe; shared by all views of one store
 public:
  CongestionWindow(const WindowOptions& options, const Clock& clock);

  // Waits for room in the window; demand goes first. Errors as RequestGate::Enter.
  Result<RequestGate::Permit> Enter(const CallContext& context, std::string_view what);

  // Both are told before the permit is given back.
  void Succeeded();
  void Refused(Nanos sent_at);

  size_t size() const;

 private:
  const WindowOptions options_;
  const Clock& clock_;
  RequestGate gate_;
  mutable std::mutex mutex_;  // guards all below; taken before the gate's
  double window_;
  bool slow_start_ = true;
  Nanos halved_at_ = Nanos::min();
};

class WindowStore : public ForwardingStore {  // thread-safe
 public:
  WindowStore(std::shared_ptr<ObjectStore> inner, std::shared_ptr<CongestionWindow> window, const Clock& clock);

  Result<ObjectInfo> Stat(const std::string& path, const CallContext& context) override;
  Result<ListPage> List(const std::string& path, const std::string& token, const CallContext& context) override;
  Status ReadRange(const ObjectRef& ref, uint64_t offset, uint64_t length, const ByteSink& sink,
                   const CallContext& context) override;

 private:
  template <typename Call>
  auto Passed(const std::string& path, const CallContext& context, const Call& call) -> decltype(call());

  const std::shared_ptr<CongestionWindow> window_;
  const Clock& clock_;
};

}  // namespace mlcache::store
