#include "cached/policy/policy_chooser.h"

#include <algorithm>

namespace mlcache::policy {
namespace {

constexpr size_t kMaxDatasets = 16;
constexpr size_t kMaxSampled = 2048;
constexpr double kLead = 0.02;
constexpr uint32_t kLeadsToSwitch = 2;
constexpr uint64_t kRepeatTouches = 32;
constexpr size_t kMarginUnits = 1024;
constexpr double kMarginReads = 16'384;  // over which a margin is averaged, times the units it holds

}  // namespace

PolicyChooser::PolicyChooser(uint64_t capacity_bytes)
    : capacity_bytes_(capacity_bytes), epochs_({.capacity_bytes = capacity_bytes}), recency_(capacity_bytes) {}

PolicyChooser::Dataset& PolicyChooser::DatasetOf(uint64_t id) {
  if (const auto found = datasets_.find(id); found != datasets_.end()) return found->second;
  if (datasets_.size() >= kMaxDatasets) {
    datasets_.erase(std::ranges::min_element(datasets_, {}, [](const auto& one) { return one.second.reads; }));
  }
  return datasets_[id];
}

PolicyChooser::Mode PolicyChooser::ModeOf(uint64_t dataset) const {
  const auto found = datasets_.find(dataset);
  return found == datasets_.end() ? kEpochs : found->second.mode;
}

bool PolicyChooser::IsRepeat(const EvictionUnit& unit, const AccessHints& hints) {
  const uint64_t name = MixedHash(unit) ^ (hints.reader * 0x9E3779B97F4A7C15ULL);
  Recent& place = recent_[name % recent_.size()];
  const bool repeat = place.name == name && touches_ - place.touch < kRepeatTouches;
  place = {.name = name, .touch = ++touches_};
  return repeat;
}

void PolicyChooser::Touch(const EvictionUnit& unit, const AccessHints& hints) {
  if (hints.plain) {
    // What others have made epoch-aware stays as it is.
    Observe(unit);
    PolicyOf(kRecency).Touch(unit, hints);
    return;
  }
  Dataset& dataset = DatasetOf(hints.dataset);
  if (!IsRepeat(unit, hints)) {
    ++reads_;
    ++dataset.reads;
    Observe(unit);
    Sample(dataset, unit, hints);
    Judge(hints.dataset, dataset);
  }
  epochs_.Touch(unit, hints);  // learns, whoever keeps it
  PolicyOf(kRecency).Touch(unit, hints);
  // A change of mode reaches a unit with its next read.
  const int other = 1 - dataset.mode;
  if (const uint64_t bytes = PolicyOf(other).Tracked(unit); bytes > 0) {
    PolicyOf(other).Forget(unit);
    PolicyOf(dataset.mode).Track(unit, bytes, hints);
  }
}

void PolicyChooser::Track(const EvictionUnit& unit, uint64_t bytes, const AccessHints& hints) {
  int mode = hints.plain ? kRecency : DatasetOf(hints.dataset).mode;
  if (PolicyOf(1 - mode).Tracked(unit) > 0) {
    mode = 1 - mode;
  } else if (PolicyOf(mode).Tracked(unit) == 0) {
    ++tracked_units_;
    tracked_bytes_ += bytes;
  }
  PolicyOf(mode).Track(unit, bytes, hints);
}

void PolicyChooser::Forget(const EvictionUnit& unit) {
  epochs_.Forget(unit);
  recency_.Forget(unit);
}

uint64_t PolicyChooser::Tracked(const EvictionUnit& unit) const {
  return epochs_.Tracked(unit) + recency_.Tracked(unit);
}

void PolicyChooser::StartGhosts(Ghosts& ghosts, uint32_t shift) {
  ghosts = {};
  ghosts.shift = shift;
  for (int mode = 0; mode < kModes; ++mode) {
    std::unique_ptr<EvictionPolicy> policy;
    if (mode == kEpochs) {
      policy = std::make_unique<EpochAwarePolicy>(EpochAwarePolicy::Options{.capacity_bytes = 1, .max_known = 8192});
    } else {
      policy = std::make_unique<S3FifoPolicy>(1);
    }
    ghosts.caches[mode] = std::make_unique<SimulatedCache>(std::move(policy), 1);
  }
}

// Every unit counts as one of mean size. The ghosts have the dataset's part of the tier: its part of the reads.
void PolicyChooser::Sample(Dataset& dataset, const EvictionUnit& unit, const AccessHints& hints) {
  Ghosts& ghosts = dataset.ghosts;
  if (ghosts.caches[0] == nullptr) StartGhosts(ghosts, 0);
  const uint64_t hash = MixedHash(unit);
  if (((hash >> 40) & ((uint64_t{1} << ghosts.shift) - 1)) != 0) return;
  ghosts.seen.insert(hash);
  if (ghosts.seen.size() > kMaxSampled) {
    StartGhosts(ghosts, ghosts.shift + 1);
    return;
  }
  const uint64_t mean = std::max<uint64_t>(1, tracked_bytes_ / std::max<uint64_t>(1, tracked_units_));
  const double share = static_cast<double>(dataset.reads) / static_cast<double>(reads_);
  const double units = share * static_cast<double>(capacity_bytes_) / static_cast<double>(mean << ghosts.shift);
  for (const auto& cache : ghosts.caches) {
    cache->Resize(std::max<uint64_t>(1, static_cast<uint64_t>(units)));
    cache->Read(unit, 1, hints);
  }
}

void PolicyChooser::Judge(uint64_t id, Dataset& dataset) {
  const auto change = [&](Mode mode) {
    dataset.mode = mode;
    dataset.ghosts.leads = 0;
    ++switches_;
  };
  Ghosts& ghosts = dataset.ghosts;
  if (!ghosts.judged && dataset.reads % 64 == 0) {
    // Nothing was compared yet: what the readers look like decides.
    const EpochAwarePolicy::Verdict verdict = epochs_.VerdictOf(id);
    if (dataset.mode == kEpochs && verdict.no_epochs && !verdict.epochs) change(kRecency);
    if (dataset.mode == kRecency && verdict.epochs) change(kEpochs);
  }
  SimulatedCache& now = *ghosts.caches[dataset.mode];
  SimulatedCache& other = *ghosts.caches[1 - dataset.mode];
  // Long enough to see the whole set, whatever its size beside the cache.
  const uint64_t window = std::max<uint64_t>(256, ghosts.seen.size());
  if (now.reads() < window) return;
  ghosts.judged = true;
  ghosts.leads = other.HitRate() > now.HitRate() + kLead ? ghosts.leads + 1 : 0;
  now.ResetCounts();
  other.ResetCounts();
  if (ghosts.leads >= kLeadsToSwitch) change(static_cast<Mode>(1 - dataset.mode));
}

void PolicyChooser::Observe(const EvictionUnit& unit) {
  const auto name = static_cast<uint32_t>(MixedHash(unit) >> 32);
  for (Margin& margin : margins_) {
    if (margin.names.empty()) continue;
    margin.exposure += static_cast<double>(margin.names.size());
    if (margin.names.erase(name) > 0) margin.hits += 1;
    if (margin.exposure < kMarginReads * kMarginUnits) continue;
    margin.exposure /= 2;
    margin.hits /= 2;
  }
}

void PolicyChooser::GaveUp(int mode, const std::vector<EvictionUnit>& units) {
  Margin& margin = margins_[mode];
  for (const EvictionUnit& unit : units) {
    const auto name = static_cast<uint32_t>(MixedHash(unit) >> 32);
    if (!margin.names.insert(name).second) continue;
    margin.order.push_back(name);
    if (margin.order.size() <= kMarginUnits) continue;
    margin.names.erase(margin.order.front());
    margin.order.pop_front();
  }
}

int PolicyChooser::Poorer() const {
  if (recency_.bytes() == 0) return kEpochs;
  if (epochs_.bytes() == 0) return kRecency;
  return margins_[kEpochs].Hazard() <= margins_[kRecency].Hazard() ? kEpochs : kRecency;
}

std::vector<EvictionUnit> PolicyChooser::ChooseVictims(uint64_t bytes) {
  std::vector<EvictionUnit> victims;
  uint64_t freed = 0;
  while (freed < bytes && epochs_.bytes() + recency_.bytes() > 0) {
    const int mode = Poorer();
    const uint64_t before = epochs_.bytes() + recency_.bytes();
    const std::vector<EvictionUnit> chosen = PolicyOf(mode).ChooseVictims(bytes - freed);
    if (chosen.empty()) break;
    freed += before - epochs_.bytes() - recency_.bytes();
    GaveUp(mode, chosen);
    victims.insert(victims.end(), chosen.begin(), chosen.end());
  }
  return victims;
}

}  // namespace mlcache::policy
