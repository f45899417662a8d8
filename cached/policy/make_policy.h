// The policies by the names that --eviction takes.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "cached/cache/eviction_policy.h"
#include "common/status.h"

namespace mlcache::policy {

enum class PolicyKind : uint8_t { kAuto, kLru, kS3Fifo, kEpoch, kPinned };

// auto, lru, s3fifo, epoch or pinned; kInvalidArgument lists them.
Result<PolicyKind> ParsePolicy(std::string_view name);

// For one tier with that budget.
std::unique_ptr<cache::EvictionPolicy> MakePolicy(PolicyKind kind, uint64_t capacity_bytes);

}  // namespace mlcache::policy
