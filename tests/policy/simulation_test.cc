// Policies against what theory says of them, over small traces with fixed seeds: closed forms, the figures simulated
// for several jobs, and the clairvoyant bound. The printed rows are the figures.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <map>
#include <string>

#include "bench/policy/baselines.h"
#include "bench/policy/traces.h"

namespace mlcache::bench {
namespace {

constexpr uint64_t kSeed = 20'241;
constexpr uint32_t kItems = 800;
constexpr double kWarm = 0.3;

double Print(const char* what, const std::string& policy, double f, double measured) {
  std::printf("seed %llu  %-24s %-9s f=%.1f  %.3f\n", static_cast<unsigned long long>(kSeed), what, policy.c_str(), f,
              measured);
  return measured;
}

double Measure(const std::string& policy, const Trace& trace, double f) {
  return Print(trace.name.c_str(), policy, f, HitRateOf(policy, trace, f, kWarm));
}

TEST(PolicySimulationTest, OneJobMatchesTheClosedForms) {
  const Trace trace = EpochTrace(1, kItems, 10, kSeed);
  for (const double f : {.2, .5, .8}) {
    EXPECT_NEAR(Measure("lru", trace, f), LruClosedForm(f), .02);
    EXPECT_NEAR(Measure("pinned", trace, f), f, .025);
    const double belady = Print("1 jobs", "belady", f, BeladyHitRate(trace, f, kWarm));
    EXPECT_NEAR(belady, f, .01);
    for (const char* ours : {"epoch", "auto"}) {
      const double measured = Measure(ours, trace, f);
      EXPECT_GE(measured, .98 * f - .005) << ours;  // of some 100 items that a reader's epochs begin unevenly by
      EXPECT_LE(measured, belady + .01) << ours;
    }
  }
  EXPECT_NEAR(LruClosedForm(.5), .153, .001);
  EXPECT_NEAR(RandomClosedForm(.5), .283, .001);
}

// Eviction at random, so that the other closed form is checked against a policy and not itself.
TEST(PolicySimulationTest, RandomEvictionMatchesItsClosedForm) {
  const Trace trace = EpochTrace(1, kItems, 10, kSeed);
  for (const double f : {.2, .5, .8}) {
    const auto capacity = static_cast<size_t>(f * kItems);
    std::mt19937 random(kSeed);
    std::vector<uint32_t> kept;
    std::vector<bool> in(kItems, false);
    size_t hits = 0;
    size_t counted = 0;
    for (size_t i = 0; i < trace.reads.size(); ++i) {
      const uint32_t item = trace.reads[i].item;
      if (i >= trace.reads.size() * 3 / 10) {
        ++counted;
        hits += in[item] ? 1 : 0;
      }
      if (in[item]) continue;
      if (kept.size() >= capacity) {
        const size_t victim = random() % kept.size();
        in[kept[victim]] = false;
        kept[victim] = kept.back();
        kept.pop_back();
      }
      kept.push_back(item);
      in[item] = true;
    }
    const double measured = static_cast<double>(hits) / static_cast<double>(counted);
    EXPECT_NEAR(Print("1 jobs", "random", f, measured), RandomClosedForm(f), .02);
  }
}

TEST(PolicySimulationTest, UnsynchronisedJobsReachTheTable) {
  // jobs, f → epoch-aware without a hint; with plans, 0.95 of Belady's is asked for.
  const std::map<std::pair<uint32_t, double>, double> table = {
      {{2, .2}, .33}, {{2, .5}, .64}, {{2, .8}, .86}, {{4, .2}, .35}, {{4, .5}, .66}, {{4, .8}, .89}, {{8, .5}, .66}};
  for (const auto& [key, expected] : table) {
    const auto [jobs, f] = key;
    const Trace trace = EpochTrace(jobs, kItems, jobs == 8 ? 6 : 8, kSeed);
    for (const char* ours : {"epoch", "auto"}) EXPECT_NEAR(Measure(ours, trace, f), expected, .03) << ours << jobs << f;
    EXPECT_GE(Measure("epoch", trace, f), f + .05) << "pinning is beaten";
    const double bound = Print(trace.name.c_str(), "belady", f, BeladyHitRate(trace, f, kWarm));
    const double plans = Measure("plans", trace, f);
    EXPECT_GE(plans, .95 * bound);
    EXPECT_LE(plans, bound + .01);
  }
}

TEST(PolicySimulationTest, GuardsHoldInHardWorkloads) {
  for (const Trace& trace : HardTraces(kItems, kSeed)) {
    for (const double f : {.3, .6}) {
      const double pinned = Measure("pinned", trace, f);
      const double best = std::max({pinned, Measure("s3fifo", trace, f), Measure("lfu", trace, f)});
      const double ours = Measure("auto", trace, f);
      EXPECT_GE(ours, best - .025) << trace.name << " f=" << f;
    }
  }
}

TEST(PolicySimulationTest, TrainingServingAndAScanTogether) {
  const std::vector<Trace> traces = HardTraces(2000, kSeed);
  const auto trace = std::ranges::find(traces, "2 train, serve, scan", &Trace::name);
  ASSERT_NE(trace, traces.end());
  EXPECT_GE(Measure("auto", *trace, .5), .60);
  EXPECT_GE(Measure("auto", *trace, .3), Measure("lru", *trace, .3) + .15);
}

TEST(TraceTest, RecordedTracesAreRead) {
  const std::string path = ::testing::TempDir() + "/policy.trace";
  std::ofstream(path) << "# reader folder item bytes\njob1 train a 10\njob1 train b 20\n\njob2 val a 10\n";
  const auto trace = LoadTrace(path);
  ASSERT_TRUE(trace.has_value()) << trace.error();
  EXPECT_EQ(trace->TotalBytes(), 30U);
  ASSERT_EQ(trace->reads.size(), 3U);
  EXPECT_EQ(trace->reads[2].item, trace->reads[0].item);
  EXPECT_NE(trace->reads[2].reader, trace->reads[0].reader);
  EXPECT_NE(trace->reads[2].folder, trace->reads[0].folder);
  EXPECT_DOUBLE_EQ(BeladyHitRate(*trace, 1, 0), 10.0 / 40);
  std::ofstream(path) << "job1 train a ten\n";
  const auto bad = LoadTrace(path);
  ASSERT_FALSE(bad.has_value());
  EXPECT_NE(bad.error().message().find("line 1"), std::string::npos);
  std::remove(path.c_str());
  EXPECT_EQ(LoadTrace(path).error().code(), Code::kNotFound);
}

}  // namespace
}  // namespace mlcache::bench
