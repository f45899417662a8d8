// A mount's names for its plans (prefetch/plan_prefetcher.h): looked up through the volume's metadata cache, so that
// the reader's own lookup finds them there. Thread-safe.
#pragma once

#include <cstddef>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "cached/prefetch/plan_prefetcher.h"
#include "cached/session/attributes.h"
#include "cached/session/store_volume.h"
#include "proto/session.pb.h"

namespace mlcache::session {

// A directory of which so many files are wanted soon is listed instead of asked for each of them, unless it took
// longer to list than the mount's attr_ttl lets the answer be used.
inline constexpr size_t kListTogether = 16;

// ml.prefetchWorkers of the mount, up to 64; 8 when it is not given, 0 with ml.optimization=false.
size_t PlanWorkersOf(const MountOptions& options);

// `job` and `reader` go into what is fetched, as for the mount's own reads.
std::unique_ptr<prefetch::PlanFiles> MakePlanFiles(std::shared_ptr<StoreVolume> volume, const View& view,
                                                   std::string job, uint64_t reader);

// The plans of a mount, as .mlcache/stats shows them.
nlohmann::json ToJson(const std::vector<prefetch::PlanReport>& reports);

}  // namespace mlcache::session
