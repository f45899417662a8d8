#include "common/ring/layout.h"

#include <bit>
#include <string>

namespace mlcache::ring {
namespace {

Status CheckBounds(const char* name, uint32_t value, uint32_t least, uint32_t most) {
  if (value >= least && value <= most) return {};
  return Fail(Code::kInvalidArgument, std::string("channel geometry: ") + name + " is " + std::to_string(value) +
                                          ", must be " + std::to_string(least) + " to " + std::to_string(most));
}

}  // namespace

Status CheckGeometry(const Geometry& geometry) {
  MLCACHE_RETURN_IF_ERROR(CheckBounds("queue_pairs", geometry.queue_pairs, 1, kMaxQueuePairs));
  MLCACHE_RETURN_IF_ERROR(CheckBounds("queue_depth", geometry.queue_depth, 1, kMaxQueueDepth));
  if (!std::has_single_bit(geometry.queue_depth)) {
    return Fail(Code::kInvalidArgument, "channel geometry: queue_depth is " + std::to_string(geometry.queue_depth) +
                                            ", must be a power of two");
  }
  MLCACHE_RETURN_IF_ERROR(CheckBounds("small_slots", geometry.small_slots, 0, kMaxSlots));
  // Without a large slot a full-sized read could never be answered.
  return CheckBounds("large_slots", geometry.large_slots, 1, kMaxSlots);
}

}  // namespace mlcache::ring
