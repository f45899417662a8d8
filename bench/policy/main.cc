// Byte hit rates of eviction policies over made-up and recorded traces: the same classes that the daemon runs, against
// textbook policies, the clairvoyant bound and the closed forms. With --json one object a line, which plot.py draws.
#include <gflags/gflags.h>
#include <malloc.h>

#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bench/policy/baselines.h"
#include "bench/policy/traces.h"

DEFINE_uint32(items, 2000, "Items of the made-up traces");
DEFINE_uint32(epochs, 10, "Epochs of each job in the table of equal jobs");
DEFINE_uint64(seed, 1, "Of the made-up traces");
DEFINE_double(warm, 0.3, "Part of a trace that is not counted");
DEFINE_string(trace, "", "A recorded trace instead: READER FOLDER ITEM BYTES a line");
DEFINE_bool(cost, false,
            "Print bytes an object and ns a read of each policy of the daemon instead, at a million objects");
DEFINE_bool(json, false, "Print JSON lines");

namespace mlcache::bench {
namespace {

void PrintHead() {
  if (FLAGS_json) return;
  std::printf("%-24s %4s", "trace", "f");
  for (const std::string& name : PolicyNames()) std::printf(" %8s", name.c_str());
  std::printf(" %8s\n", "belady");
}

void PrintRow(const Trace& trace, double f) {
  nlohmann::json row{{"trace", trace.name}, {"f", f}};
  for (const std::string& name : PolicyNames()) row[name] = HitRateOf(name, trace, f, FLAGS_warm);
  row["belady"] = BeladyHitRate(trace, f, FLAGS_warm);
  if (FLAGS_json) {
    std::printf("%s\n", row.dump().c_str());
  } else {
    std::printf("%-24s %4.2f", trace.name.c_str(), f);
    for (const std::string& name : PolicyNames()) std::printf(" %8.3f", row[name].get<double>());
    std::printf(" %8.3f\n", row["belady"].get<double>());
  }
  std::fflush(stdout);
}

void PrintClosedForms() {
  if (FLAGS_json) return;
  std::printf("\nclosed forms, one job      f      lru   random   pinned\n");
  for (const double f : {.2, .5, .8}) {
    std::printf("%24s %4.2f %8.3f %8.3f %8.3f\n", "", f, LruClosedForm(f), RandomClosedForm(f), f);
  }
}

// Two epochs of two readers over a million objects, half of which fit.
void PrintCosts() {
  constexpr uint32_t kObjects = 1'000'000;
  const Trace trace = EpochTrace(2, kObjects, 2, FLAGS_seed);
  std::vector<cache::EvictionUnit> units;
  for (uint32_t item = 0; item < kObjects; ++item) units.push_back(UnitOf(item));
  std::printf("%-10s %16s %16s %10s\n", "policy", "bytes a kept", "bytes a known", "ns a read");
  for (const char* name : {"lru", "s3fifo", "pinned", "epoch", "auto"}) {
    const auto policy = MakeByName(name, uint64_t{kObjects} / 2, trace);
    const size_t before = mallinfo2().uordblks + mallinfo2().hblkhd;
    const auto start = std::chrono::steady_clock::now();
    uint64_t kept = 0;
    for (const Read& read : trace.reads) {
      const cache::EvictionUnit& unit = units[read.item];
      const cache::AccessHints hints = HintsOf(read);
      policy->Touch(unit, hints);
      if (policy->Tracked(unit) > 0) continue;
      if (kept == kObjects / 2) kept -= policy->ChooseVictims(1).size();
      policy->Track(unit, 1, hints);
      ++kept;
    }
    const auto time = std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count();
    const auto bytes = static_cast<double>(mallinfo2().uordblks + mallinfo2().hblkhd - before);
    std::printf("%-10s %16.1f %16.1f %10.0f\n", name, bytes / static_cast<double>(kept), bytes / kObjects,
                time / static_cast<double>(trace.reads.size()));
    std::fflush(stdout);
  }
}

int Run() {
  if (FLAGS_cost) {
    PrintCosts();
    return 0;
  }
  if (!FLAGS_trace.empty()) {
    const auto trace = LoadTrace(FLAGS_trace);
    if (!trace.has_value()) {
      std::fprintf(stderr, "mlcache-policy-bench: %s\n", trace.error().message().c_str());
      return 2;
    }
    PrintHead();
    for (const double f : {.2, .5, .8}) PrintRow(*trace, f);
    return 0;
  }
  if (FLAGS_items < 100 || FLAGS_epochs < 4) {
    std::fprintf(stderr, "mlcache-policy-bench: --items must be at least 100 and --epochs at least 4\n");
    return 2;
  }
  if (!FLAGS_json) std::printf("seed %lu, %u items\n", static_cast<unsigned long>(FLAGS_seed), FLAGS_items);
  PrintHead();
  for (const uint32_t jobs : {1, 2, 4, 8}) {
    const Trace trace = EpochTrace(jobs, FLAGS_items, FLAGS_epochs, FLAGS_seed);
    for (const double f : {.2, .5, .8}) PrintRow(trace, f);
  }
  for (const Trace& trace : HardTraces(FLAGS_items, FLAGS_seed)) {
    for (const double f : {.3, .6}) PrintRow(trace, f);
  }
  PrintClosedForms();
  return 0;
}

}  // namespace
}  // namespace mlcache::bench

int main(int argc, char** argv) {
  gflags::SetUsageMessage("byte hit rates of eviction policies; docs/eviction.md explains them");
  gflags::ParseCommandLineFlags(&argc, &argv, true);
  return mlcache::bench::Run();
}
