// Makes a store misbehave by a script, for tests and for trying out what a job does when its store fails.
//
// A script is rules separated by commas, each OP:WHEN:ACTION.
//   OP      stat, list, read or any
//   WHEN    N (the N-th such call, from 1), %K (every K-th), N+ (the N-th and all after it), * (all)
//   ACTION  fail=CODE       the call fails ("fail=UNAVAILABLE"), without a request
//           truncate=BYTES  a read delivers so many bytes, then fails DATA_LOSS
//           change=BYTES    a read delivers so many bytes, then fails FAILED_PRECONDITION
//           corrupt=BYTE    a read succeeds with the BYTE-th byte of its range inverted
//           delay=DURATION  the call is held up first ("delay=250ms"); stop and deadline end the wait
// "read:3:fail=UNAVAILABLE,read:%10:corrupt=0". Of several rules that match a call each takes effect, in order.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cached/store/forwarding_store.h"
#include "cached/store/object_store.h"

namespace mlcache::store {

struct FaultRule {
  enum class Op : uint8_t { kStat, kList, kRead, kAny };
  enum class Action : uint8_t { kFail, kTruncate, kChange, kCorrupt, kDelay };

  Op op = Op::kAny;
  uint64_t first = 1;  // the first call it matches
  uint64_t step = 0;   // 0: that call alone; else every step-th from there
  Action action = Action::kFail;
  Code code = Code::kUnavailable;
  uint64_t bytes = 0;
  Nanos delay{};
};

// kInvalidArgument names the rule and the accepted forms.
Result<std::vector<FaultRule>> ParseFaultScript(std::string_view script);

class FaultStore : public ForwardingStore {  // thread-safe
 public:
  FaultStore(std::shared_ptr<ObjectStore> inner, std::vector<FaultRule> rules, PauseFunction pause);

  Result<ObjectInfo> Stat(const std::string& path, const CallContext& context) override;
  Result<ListPage> List(const std::string& path, const std::string& token, const CallContext& context) override;
  Status ReadRange(const ObjectRef& ref, uint64_t offset, uint64_t length, const ByteSink& sink,
                   const CallContext& context) override;

 private:
  // The rules that match this call; those that need no body (fail, delay) have been carried out.
  Result<std::vector<FaultRule>> Begin(FaultRule::Op op, const std::string& path, const CallContext& context);

  const std::vector<FaultRule> rules_;
  const PauseFunction pause_;
  std::array<std::atomic<uint64_t>, 4> calls_{};  // by Op; kAny counts all
};

}  // namespace mlcache::store
