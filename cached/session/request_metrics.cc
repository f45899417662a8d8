#include "cached/session/request_metrics.h"

#include <string>

#include "common/status.h"

namespace mlcache::session {
namespace {

const prometheus::Histogram::BucketBoundaries kBounds = {1e-5, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2,
                                                         5e-2, 0.1,  0.5,  1,    5,    10,   60};

}  // namespace

std::string_view OpName(ring::Op op) {
  switch (op) {
    case ring::Op::kNone:
      break;
    case ring::Op::kLookup:
      return "lookup";
    case ring::Op::kGetAttr:
      return "getattr";
    case ring::Op::kReadLink:
      return "readlink";
    case ring::Op::kOpen:
      return "open";
    case ring::Op::kRelease:
      return "release";
    case ring::Op::kRead:
      return "read";
    case ring::Op::kOpenDir:
      return "opendir";
    case ring::Op::kReadDir:
      return "readdir";
    case ring::Op::kReleaseDir:
      return "releasedir";
    case ring::Op::kStatFs:
      return "statfs";
    case ring::Op::kGetXattr:
      return "getxattr";
    case ring::Op::kListXattr:
      return "listxattr";
    case ring::Op::kForget:
      return "forget";
    case ring::Op::kCancel:
      return "cancel";
    case ring::Op::kReleaseSlot:
      return "releaseslot";
    case ring::Op::kStats:
      return "stats";
    case ring::Op::kAccess:
      return "access";
    case ring::Op::kTookLeases:
      return "tookleases";
  }
  return "unknown";
}

void RequestMetrics::Count(ring::Op op, int32_t code, Nanos taken) {
  const size_t op_index = static_cast<size_t>(op) < kOps ? static_cast<size_t>(op) : 0;
  const size_t code_index = code >= 0 && static_cast<size_t>(code) < kCodes ? static_cast<size_t>(code) : 2;
  auto& counter = counters_[op_index][code_index];
  if (counter.load(std::memory_order_acquire) == nullptr) {
    const std::string name(code_index == 0 ? "ok" : CodeName(static_cast<Code>(code_index)));
    // Add gives the same series for the same labels, so a race stores the same pointer twice.
    counter.store(&metrics_.requests.Add({{"op", std::string(OpName(op))}, {"code", name}}), std::memory_order_release);
  }
  counter.load(std::memory_order_acquire)->Increment();
  auto& histogram = histograms_[op_index];
  if (histogram.load(std::memory_order_acquire) == nullptr) {
    histogram.store(&metrics_.request_seconds.Add({{"op", std::string(OpName(op))}}, kBounds),
                    std::memory_order_release);
  }
  histogram.load(std::memory_order_acquire)->Observe(std::chrono::duration<double>(taken).count());
}

}  // namespace mlcache::session
