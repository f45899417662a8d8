// Brings every file below some targets into the cache: the work of `mlcachectl warmup`.
//
// One thread walks the volumes and hands ranges to the fetcher, never more than the limits below at a time; another
// reports. The counts at the end are exact: every file found is done or failed, and each failure is named.
#pragma once

#include <vector>

#include "cached/fetch/fetcher.h"
#include "cached/rpc/targets.h"
#include "common/clock.h"
#include "common/units.h"
#include "proto/control.pb.h"

namespace mlcache::rpc {

struct WarmupOptions {
  bool metadata_only = false;
  Nanos request_timeout = std::chrono::seconds(60);  // of each look at the store's metadata
  size_t outstanding_fetches = 256;
  uint64_t outstanding_bytes = 256 * kMiB;
  Nanos report_interval = std::chrono::milliseconds(400);
  // A file too young for its version to be trusted, or that changed on the way, is looked at again.
  Nanos settle_wait = std::chrono::milliseconds(2100);
  int settle_attempts = 3;
};

class WarmupObserver {
 public:
  virtual ~WarmupObserver() = default;

  // False when nobody listens any more: the warm-up then stops. One call at a time, on a thread of the warm-up.
  virtual bool Report(const control::WarmupProgress& progress) = 0;

  // Asked every 50 ms.
  virtual bool Cancelled() = 0;
};

// Returns after the last report, which has `done` set; or, when stopped, kCancelled without one. In both cases no
// fetch of it is left.
Status RunWarmup(const ResolvedTargets& targets, const WarmupOptions& options, fetch::Fetcher& fetcher,
                 const Clock& clock, WarmupObserver& observer);

}  // namespace mlcache::rpc
