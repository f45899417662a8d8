// One call of the control service's Plan: gathers the parts, then changes or shows the plans of a mount.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cached/prefetch/plan_prefetcher.h"
#include "cached/session/session_server.h"
#include "common/status.h"
#include "proto/control.pb.h"

namespace mlcache::rpc {

class PlanCall {
 public:
  static constexpr int kMostFailures = 1000;      // named in a reply
  static constexpr size_t kMaxStreamBytes = 255;  // of a stream's name
  // So many files at the head of a plan are looked up before the reply, as far as that is quick: a list that does not
  // fit the mount is told at once. The others are looked up when their turn comes.
  static constexpr size_t kCheckedFiles = 256;
  static constexpr Nanos kCheckPatience = std::chrono::seconds(2);

  // `first` says what is to be done, and for which mount. Borrows `sessions`.
  PlanCall(const control::PlanPart& first, session::SessionServer& sessions);

  // The paths of a part; those that cannot lie below the mount are refused and named.
  void Add(const control::PlanPart& part);

  // Does it. kNotFound: no such mount; kInvalidArgument, kFailedPrecondition, kResourceExhausted with what to mend.
  Status Run(control::PlanReply& reply);

 private:
  Status Change();
  void Check();
  void Refuse(const std::string& path, const Error& error);
  void Report();

  const std::string mountpoint_;
  const control::PlanVerb verb_;
  const std::string stream_;
  const bool all_streams_;
  Result<std::shared_ptr<prefetch::PlanPrefetcher>> plan_;
  prefetch::PlanOrder order_;          // of PLAN_REPLACE
  std::vector<std::string> appended_;  // of PLAN_APPEND
  std::vector<std::string> head_;      // to be checked
  bool full_ = false;
  control::PlanReply reply_;
};

}  // namespace mlcache::rpc
