// What every eviction policy must hold, whatever it prefers, by random operations against a plain map.
#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>
#include <map>
#include <memory>
#include <random>
#include <string>

#include "bench/policy/baselines.h"
#include "cached/policy/belady_policy.h"
#include "cached/policy/pin_guard.h"

namespace mlcache::policy {
namespace {

using cache::AccessHints;
using cache::EvictionPolicy;
using cache::EvictionUnit;

constexpr uint64_t kCapacity = 100'000;

std::unique_ptr<EvictionPolicy> Make(const std::string& name) {
  if (name == "pin guard") return std::make_unique<PinGuard>(Make("epoch"));
  if (name == "epoch, few known") {
    return std::make_unique<EpochAwarePolicy>(
        EpochAwarePolicy::Options{.capacity_bytes = kCapacity, .fifo_share = .02, .max_known = 64});
  }
  return bench::MakeByName(name, kCapacity, {});
}

class Model {
 public:
  Model(EvictionPolicy& policy, uint32_t seed) : policy_(policy), random_(seed) {}

  void Step() {
    const EvictionUnit unit = SomeUnit();
    switch (random_() % 8) {
      case 0:
      case 1:
      case 2: {
        // Now and then a size beyond 32 bits.
        const uint64_t bytes = random_() % 64 == 0 ? uint64_t{5} << 32 : random_() % 5'000 + 1;
        policy_.Track(unit, bytes, SomeHints());
        kept_[NameOf(unit)] = {unit, bytes};
        break;
      }
      case 3:
        policy_.Forget(unit);
        kept_.erase(NameOf(unit));
        break;
      case 4:
        Evict(random_() % 8'000);
        break;
      default:
        policy_.Touch(unit, SomeHints());
    }
    EXPECT_EQ(policy_.Tracked(unit), BytesOf(unit));
  }

  void Evict(uint64_t wanted) {
    uint64_t freed = 0;
    for (const EvictionUnit& victim : policy_.ChooseVictims(wanted)) {
      ASSERT_EQ(kept_.count(NameOf(victim)), 1U) << "a victim that was not kept, or twice";
      freed += BytesOf(victim);
      kept_.erase(NameOf(victim));
      EXPECT_EQ(policy_.Tracked(victim), 0U);
    }
    EXPECT_TRUE(freed >= wanted || kept_.empty()) << freed << " of " << wanted << ", " << kept_.size() << " are left";
  }

  void CheckAll() {
    for (const auto& [name, one] : kept_) EXPECT_EQ(policy_.Tracked(one.first), one.second);
  }

 private:
  using Name = std::pair<cache::ObjectId, int64_t>;
  static Name NameOf(const EvictionUnit& unit) { return {unit.object, unit.chunk}; }

  uint64_t BytesOf(const EvictionUnit& unit) const {
    const auto found = kept_.find(NameOf(unit));
    return found == kept_.end() ? 0 : found->second.second;
  }

  EvictionUnit SomeUnit() {
    EvictionUnit unit = bench::UnitOf(static_cast<uint32_t>(random_() % 200));
    if (random_() % 4 == 0) unit.chunk = static_cast<int64_t>(random_() % 3);
    return unit;
  }

  // Some readers that come and go; more than a policy may have room to tell apart.
  AccessHints SomeHints() {
    AccessHints hints;
    hints.reader = random_() % 8 == 0 ? random_() % 100 : random_() % 3;
    hints.dataset = random_() % 2;
    hints.folder = random_() % 12;
    if (random_() % 16 == 0) hints.object_class = cache::ObjectClass::kOneOff;
    return hints;
  }

  EvictionPolicy& policy_;
  std::mt19937 random_;
  std::map<Name, std::pair<EvictionUnit, uint64_t>> kept_;
};

class PolicyContractTest : public ::testing::TestWithParam<std::string> {};

TEST_P(PolicyContractTest, NeverLosesTrackOfAUnit) {
  const char* given = std::getenv("MLCACHE_SEED");
  const uint32_t seed = given != nullptr ? static_cast<uint32_t>(std::stoul(given)) : std::random_device()();
  SCOPED_TRACE(::testing::Message() << "MLCACHE_SEED=" << seed);
  const auto policy = Make(GetParam());
  Model model(*policy, seed);
  for (int step = 0; step < 20'000 && !HasFailure(); ++step) model.Step();
  model.CheckAll();
  model.Evict(UINT64_MAX);
}

TEST_P(PolicyContractTest, NothingIsAskedOfNobody) {
  const auto policy = Make(GetParam());
  EXPECT_TRUE(policy->ChooseVictims(10).empty());
  policy->Track(bench::UnitOf(1), 10, {});
  EXPECT_TRUE(policy->ChooseVictims(0).empty());
  EXPECT_EQ(policy->ChooseVictims(1).size(), 1U);
  EXPECT_TRUE(policy->ChooseVictims(1).empty());
}

INSTANTIATE_TEST_SUITE_P(All, PolicyContractTest,
                         ::testing::Values("lru", "lfu", "2-random", "sieve", "s3fifo", "pinned", "epoch", "auto",
                                           "plans", "epoch, few known", "pin guard"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::erase_if(name,
                                         [](char letter) { return !isalnum(static_cast<unsigned char>(letter)); });
                           return name;
                         });

}  // namespace
}  // namespace mlcache::policy
