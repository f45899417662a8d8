// What the users of plans (plan_prefetcher.h) give and get: how files are found, options, and what became of a plan.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "cached/fetch/fetcher.h"
#include "cached/prefetch/plan_order.h"
#include "common/clock.h"
#include "common/status.h"

namespace mlcache::prefetch {

// How a plan's files are found: the mount's names. Thread-safe; may block on the store.
class PlanFiles {
 public:
  virtual ~PlanFiles() = default;

  // The regular file at `path` (below the mount) as it is now, ready for the fetcher. `together`: of the files wanted
  // soon so many lie in its directory, which may make it worth to list that instead of asking for each.
  virtual Result<fetch::Source> Find(const std::string& path, size_t together, const store::CallContext& context) = 0;

  // The store no longer has the version that Find gave.
  virtual void Distrust(const std::string& path) = 0;
};

struct PlanOptions {
  size_t workers = 8;  // files looked up or fetched at once
  std::string job;
  std::string mountpoint;  // for the log
  Nanos request_timeout = std::chrono::seconds(60);
  PlanOrderOptions order;
};

// What a file of a plan came to, once its reader has come or has gone past it.
enum class PlanOutcome : uint8_t { kPrefetched, kPresent, kLate, kUnread, kFailed };
inline constexpr size_t kPlanOutcomes = 5;
inline constexpr std::array<const char*, kPlanOutcomes> kPlanOutcomeNames = {"prefetched", "present", "late", "unread",
                                                                             "failed"};

struct PlanReport {
  std::string stream;
  uint64_t files = 0;
  uint64_t position = 0;     // one behind the furthest file read
  uint64_t left = 0;         // neither read nor skipped
  uint64_t ahead_files = 0;  // fetched, not read yet
  uint64_t ahead_bytes = 0;
  std::array<uint64_t, kPlanOutcomes> outcomes{};
  uint64_t unknown = 0;                              // could not be found or fetched when their turn came
  std::vector<std::pair<std::string, Error>> named;  // the first of them
};

}  // namespace mlcache::prefetch
