#include "cached/policy/belady_policy.h"

#include <algorithm>
#include <cmath>

namespace mlcache::policy {
namespace {

constexpr size_t kSampled = 64;
constexpr double kHorizon = 1024;  // reads over which rates are averaged

}  // namespace

void BeladyPolicy::Declare(uint64_t reader, const std::vector<EvictionUnit>& reads) {
  Plan& plan = plans_[reader];
  for (const EvictionUnit& unit : reads) {
    const auto position = static_cast<uint32_t>(plan.following.size());
    plan.following.push_back(UINT32_MAX);
    auto index = plan.uses.Find(unit);
    if (index == UnitTable<Use>::kNone) index = plan.uses.Insert(unit);
    Use& use = plan.uses[index];
    if (use.next == UINT32_MAX) {
      use.next = position;
    } else {
      plan.following[use.last] = position;
    }
    use.last = position;
  }
}

void BeladyPolicy::Touch(const EvictionUnit& unit, const AccessHints& hints) {
  ++reads_;
  const auto found = plans_.find(hints.reader);
  if (found == plans_.end() || found->second.at >= found->second.following.size()) {
    learned_.Touch(unit, hints);
    return;
  }
  Plan& plan = found->second;
  const double passed = static_cast<double>(reads_ - plan.rate_at);
  plan.rate = plan.rate * std::exp(-passed / kHorizon) + 1 / kHorizon;
  plan.rate_at = reads_;
  const auto index = plan.uses.Find(unit);
  if (index == UnitTable<Use>::kNone || plan.uses[index].next == UINT32_MAX) return;  // not in the plan
  Use& use = plan.uses[index];
  plan.at = std::max(plan.at, use.next + 1);
  use.next = plan.following[use.next];
}

double BeladyPolicy::WorthOf(const EvictionUnit& unit) const {
  double worth = learned_.HazardOf(unit);
  for (const auto& [reader, plan] : plans_) {
    const auto index = plan.uses.Find(unit);
    if (index == UnitTable<Use>::kNone || plan.uses[index].next == UINT32_MAX) continue;
    // A read that the reader has passed over may still come.
    const uint32_t next = std::max(plan.uses[index].next, plan.at);
    const double rate = plan.rate * std::exp(-static_cast<double>(reads_ - plan.rate_at) / kHorizon);
    worth = std::max(worth, rate / (next - plan.at + 1.0));
  }
  return worth;
}

void BeladyPolicy::Track(const EvictionUnit& unit, uint64_t bytes, const AccessHints& /*hints*/) {
  auto index = units_.Find(unit);
  if (index == UnitTable<Kept>::kNone) {
    index = units_.Insert(unit);
    units_[index].place = static_cast<uint32_t>(order_.size());
    order_.push_back(index);
    last_ = unit;
  }
  units_[index].bytes = bytes;
}

void BeladyPolicy::Forget(const EvictionUnit& unit) {
  const auto index = units_.Find(unit);
  if (index == UnitTable<Kept>::kNone) return;
  const uint32_t place = units_[index].place;
  order_[place] = order_.back();
  units_[order_[place]].place = place;
  order_.pop_back();
  units_.Erase(index);
}

std::vector<EvictionUnit> BeladyPolicy::ChooseVictims(uint64_t bytes) {
  std::vector<EvictionUnit> victims;
  learned_.Refresh();
  for (uint64_t freed = 0; freed < bytes && !order_.empty();) {
    EvictionUnit victim = units_.Find(last_) != UnitTable<Kept>::kNone ? last_ : units_.UnitOf(order_.front());
    double least = WorthOf(victim);
    const bool all = order_.size() <= kSampled;
    for (size_t i = 0; i < std::min(kSampled, order_.size()); ++i) {
      const EvictionUnit unit = units_.UnitOf(order_[all ? i : random_() % order_.size()]);
      const double worth = WorthOf(unit);
      if (worth >= least) continue;
      least = worth;
      victim = unit;
    }
    freed += Tracked(victim);
    victims.push_back(victim);
    Forget(victim);
  }
  return victims;
}

uint64_t BeladyPolicy::Tracked(const EvictionUnit& unit) const {
  const auto index = units_.Find(unit);
  return index == UnitTable<Kept>::kNone ? 0 : units_[index].bytes;
}

}  // namespace mlcache::policy
