#include "cached/cache/open_cache.h"

#include <sys/resource.h>

#include <algorithm>
#include <fstream>
#include <set>

#include "cached/cache/file_ops.h"
#include "cached/cache/lru_eviction.h"
#include "cached/cache/state_store.h"
#include "cached/cache/tiered_cache.h"

namespace mlcache::cache {
namespace {

constexpr const char* kBootIdPath = "/proc/sys/kernel/random/boot_id";

Result<std::string> KernelBootId() {
  std::ifstream file(kBootIdPath);
  std::string id;
  if (!std::getline(file, id)) return Fail(Code::kUnavailable, std::string(kBootIdPath) + ": cannot be read");
  return id;
}

// A part of what the process may open; the rest is for sessions and stores.
size_t OpenFilesFor(size_t tiers) {
  constexpr size_t kMost = 8192;
  constexpr size_t kLeast = 64;
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return kLeast;
  return std::clamp<size_t>(limit.rlim_cur / 4 / tiers, kLeast, kMost);
}

Error BadTier(const std::string& part, const std::string& why) {
  return {Code::kInvalidArgument,
          "tier \"" + part + "\": " + why + "; the form is DIR:SIZE[,DIR:SIZE…], as in /var/cache/mlcache:100GiB"};
}

}  // namespace

Result<std::vector<TierOptions>> ParseTiers(std::string_view text) {
  std::vector<TierOptions> tiers;
  std::set<std::string> seen;
  for (size_t start = 0; start <= text.size();) {
    const size_t comma = std::min(text.find(',', start), text.size());
    const std::string part(text.substr(start, comma - start));
    start = comma + 1;
    const size_t colon = part.rfind(':');
    if (colon == std::string::npos) return std::unexpected(BadTier(part, "has no size"));
    TierOptions tier{.directory = part.substr(0, colon), .capacity_bytes = 0};
    while (tier.directory.size() > 1 && tier.directory.ends_with('/')) tier.directory.pop_back();
    if (tier.directory.empty()) return std::unexpected(BadTier(part, "has no directory"));
    const auto size = ParseSize(part.substr(colon + 1));
    if (!size.has_value()) return std::unexpected(BadTier(part, size.error().message()));
    tier.capacity_bytes = *size;
    if (!seen.insert(tier.directory).second) return std::unexpected(BadTier(part, "is named twice"));
    tiers.push_back(std::move(tier));
  }
  return tiers;
}

Result<OpenedCache> OpenCache(const CacheOptions& options, const Clock& clock, Metrics& metrics) {
  if (options.tiers.empty()) return Fail(Code::kInvalidArgument, "no tier: name at least one DIR:SIZE");
  std::string boot = options.boot_id;
  if (boot.empty()) {
    MLCACHE_ASSIGN_OR_RETURN(boot, KernelBootId());
  }
  std::vector<TieredCache::Level> levels;
  for (const TierOptions& tier : options.tiers) {
    const Tier::Options wanted{.directory = tier.directory,
                               .capacity_bytes = tier.capacity_bytes,
                               .free_space_floor_bytes = options.free_space_floor_bytes,
                               .open_files = OpenFilesFor(options.tiers.size()),
                               .number = levels.size(),
                               .keeps_state = levels.empty(),
                               .file_ops = options.file_ops != nullptr ? options.file_ops : &KernelFileOps()};
    MLCACHE_ASSIGN_OR_RETURN(auto opened, Tier::Open(wanted, clock, metrics));
    auto eviction =
        options.make_eviction ? options.make_eviction(tier.capacity_bytes) : std::make_unique<LruEviction>();
    levels.push_back({.tier = std::move(opened), .eviction = std::move(eviction)});
  }
  Tier& first = *levels.front().tier;
  auto cache = std::make_unique<TieredCache>(
      TieredCache::Options{
          .commit_interval = options.commit_interval, .commit_bytes = options.commit_bytes, .boot = Hash64(boot)},
      std::move(levels), std::make_unique<AdmitAsAsked>(), clock);
  MLCACHE_RETURN_IF_ERROR(cache->Load());
  auto state = OpenState(first.StateDirectory(), boot, first.meter(), [cache = cache.get()] { cache->Relieve(0); });
  if (!state.has_value()) return std::unexpected(state.error().WithContext("tier " + first.directory()));
  ObjectLinks* const links = cache.get();
  return OpenedCache{.cache = std::move(cache),
                     .metadata = std::move(state->metadata),
                     .nodes = std::move(state->nodes),
                     .links = links};
}

}  // namespace mlcache::cache
