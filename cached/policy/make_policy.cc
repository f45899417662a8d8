#include "cached/policy/make_policy.h"

#include <string>

#include "cached/cache/lru_eviction.h"
#include "cached/policy/epoch_aware_policy.h"
#include "cached/policy/pinned_policy.h"
#include "cached/policy/policy_chooser.h"
#include "cached/policy/s3_fifo_policy.h"

namespace mlcache::policy {

Result<PolicyKind> ParsePolicy(std::string_view name) {
  if (name == "auto") return PolicyKind::kAuto;
  if (name == "lru") return PolicyKind::kLru;
  if (name == "s3fifo") return PolicyKind::kS3Fifo;
  if (name == "epoch") return PolicyKind::kEpoch;
  if (name == "pinned") return PolicyKind::kPinned;
  return Fail(Code::kInvalidArgument,
              "'" + std::string(name) + "' is no eviction policy: write auto, lru, s3fifo, epoch or pinned");
}

std::unique_ptr<cache::EvictionPolicy> MakePolicy(PolicyKind kind, uint64_t capacity_bytes) {
  switch (kind) {
    case PolicyKind::kAuto:
      return std::make_unique<PolicyChooser>(capacity_bytes);
    case PolicyKind::kLru:
      return std::make_unique<cache::LruEviction>();
    case PolicyKind::kS3Fifo:
      return std::make_unique<S3FifoPolicy>(capacity_bytes);
    case PolicyKind::kEpoch:
      return std::make_unique<EpochAwarePolicy>(EpochAwarePolicy::Options{.capacity_bytes = capacity_bytes});
    case PolicyKind::kPinned:
      return std::make_unique<PinnedPolicy>(capacity_bytes);
  }
  return nullptr;
}

}  // namespace mlcache::policy
