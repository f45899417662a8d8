#include "cached/metrics/metrics.h"

#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "common/version.h"

namespace mlcache {
namespace {

using nlohmann::json;

constexpr std::string_view kPrefix = "mlcache_";

double SumWhere(const prometheus::MetricFamily& family, std::string_view label, std::string_view value) {
  double sum = 0;
  for (const prometheus::ClientMetric& metric : family.metric) {
    bool matches = label.empty();
    for (const auto& pair : metric.label) matches = matches || (pair.name == label && pair.value == value);
    if (matches) sum += metric.counter.value;
  }
  return sum;
}

}  // namespace

// Also keeps the catalogue, since a family without a child yet is invisible in Collect(), and works out the gauges
// that are ratios of counters at the moment they are looked at, so that they always agree with those counters.
class Metrics::CataloguedRegistry final : public prometheus::Registry {
 public:
  void Describe(const char* name, const char* type, const char* help) {
    catalogue_.push_back({.name = std::string(kPrefix) + name, .type = type, .help = help});
  }
  const std::vector<MetricDescription>& catalogue() const { return catalogue_; }

  std::vector<prometheus::MetricFamily> Collect() const override {
    std::vector<prometheus::MetricFamily> families = prometheus::Registry::Collect();
    const auto sum = [&families](std::string_view name, std::string_view label = {}, std::string_view value = {}) {
      for (const auto& family : families) {
        if (family.name.substr(kPrefix.size()) == name) return SumWhere(family, label, value);
      }
      return 0.0;
    };
    const auto set_ratio = [&families](std::string_view name, double part, double whole) {
      for (auto& family : families) {
        if (family.name.substr(kPrefix.size()) != name) continue;
        for (auto& metric : family.metric) metric.gauge.value = whole > 0 ? part / whole : 0;
      }
    };
    set_ratio("prefetch_hit_ratio", sum("prefetch_used_bytes_total"), sum("prefetch_issued_bytes_total"));
    set_ratio("batch_efficiency_ratio", sum("cache_hits_total") + sum("cache_misses_total"),
              sum("store_requests_total", "op", "read"));
    return families;
  }

 private:
  std::vector<MetricDescription> catalogue_;  // constant after construction of Metrics
};

namespace {

template <typename Registry>
auto& Counter(Registry& registry, const char* name, const char* help) {
  registry.Describe(name, "counter", help);
  return prometheus::BuildCounter().Name(std::string(kPrefix) + name).Help(help).Register(registry);
}

template <typename Registry>
auto& Gauge(Registry& registry, const char* name, const char* help) {
  registry.Describe(name, "gauge", help);
  return prometheus::BuildGauge().Name(std::string(kPrefix) + name).Help(help).Register(registry);
}

template <typename Registry>
auto& Histogram(Registry& registry, const char* name, const char* help) {
  registry.Describe(name, "histogram", help);
  return prometheus::BuildHistogram().Name(std::string(kPrefix) + name).Help(help).Register(registry);
}

// Counts are whole numbers and are printed so; anything else keeps its fraction.
json Number(double value) {
  if (std::isfinite(value) && value == std::floor(value) && std::abs(value) < 9.0e15)
    return static_cast<int64_t>(value);
  return value;
}

json ValueOf(const prometheus::ClientMetric& metric, prometheus::MetricType type) {
  switch (type) {
    case prometheus::MetricType::Counter:
      return Number(metric.counter.value);
    case prometheus::MetricType::Gauge:
      return Number(metric.gauge.value);
    case prometheus::MetricType::Histogram: {
      json buckets = json::object();
      for (const auto& bucket : metric.histogram.bucket) {
        const std::string bound = std::isinf(bucket.upper_bound) ? "+Inf" : json(bucket.upper_bound).dump();
        buckets[bound] = bucket.cumulative_count;
      }
      return {{"count", metric.histogram.sample_count}, {"sum", metric.histogram.sample_sum}, {"buckets", buckets}};
    }
    default:
      return nullptr;
  }
}

}  // namespace

Metrics::Metrics()
    : registry_(std::make_shared<CataloguedRegistry>()),
      store_read_bytes(Counter(*registry_, "store_read_bytes_total", "Bytes admitted from the store, each once")),
      store_wasted_bytes(
          Counter(*registry_, "store_wasted_bytes_total", "Bytes that failed or repeated attempts brought")),
      store_requests(Counter(*registry_, "store_requests_total", "Requests to the store, every attempt")),
      store_retries(Counter(*registry_, "store_retries_total", "Attempts after a failed one")),
      store_request_seconds(Histogram(*registry_, "store_request_seconds", "Time of one attempt")),
      store_hedges(Counter(*registry_, "store_hedges_total", "Reads asked for a second time because they took long")),
      store_hedged_bytes(
          Counter(*registry_, "store_hedged_bytes_total", "Bytes that came twice because a read was asked for twice")),
      store_circuit_open(
          Gauge(*registry_, "store_circuit_open", "1 while the store is not asked since it does not answer")),
      cache_hit_bytes(Counter(*registry_, "cache_hit_bytes_total", "Bytes served from the cache")),
      cache_miss_bytes(Counter(*registry_, "cache_miss_bytes_total", "Bytes that a reader had to wait for the store")),
      cache_hits(Counter(*registry_, "cache_hits_total", "Reads answered without the store")),
      cache_misses(Counter(*registry_, "cache_misses_total", "Reads that waited for the store")),
      read_stall_seconds(Counter(*registry_, "read_stall_seconds_total",
                                 "Time that reads waited because something of them was not cached")),
      evicted_bytes(Counter(*registry_, "evicted_bytes_total", "Bytes dropped to make room or by order")),
      verified_bytes(Counter(*registry_, "verified_bytes_total", "Cached bytes read back and checked")),
      corrupt_blocks(
          Counter(*registry_, "corrupt_blocks_total", "Blocks dropped because their checksum did not match")),
      bypass_bytes(Counter(*registry_, "bypass_bytes_total", "Bytes served without being kept")),
      tier_used_bytes(Gauge(*registry_, "tier_used_bytes", "Bytes used and reserved, index included")),
      tier_capacity_bytes(Gauge(*registry_, "tier_capacity_bytes", "Budget of the tier")),
      tier_objects(Gauge(*registry_, "tier_objects", "Objects of which the tier holds bytes")),
      tier_isolated(Gauge(*registry_, "tier_isolated", "1 while the tier is bypassed after an error")),
      prefetch_issued_bytes(
          Counter(*registry_, "prefetch_issued_bytes_total", "Bytes fetched ahead of a reader").Add({})),
      prefetch_used_bytes(
          Counter(*registry_, "prefetch_used_bytes_total", "Bytes fetched ahead that a reader then read").Add({})),
      prefetch_wasted_bytes(
          Counter(*registry_, "prefetch_wasted_bytes_total", "Bytes fetched ahead and dropped unread").Add({})),
      prefetch_hit_ratio(Gauge(*registry_, "prefetch_hit_ratio", "Used over issued bytes").Add({})),
      sequential_detected(
          Counter(*registry_, "sequential_detected_total", "Handles found to be read sequentially").Add({})),
      plan_files(Counter(*registry_, "plan_files_total", "Files of plans that their reader has come to or passed")),
      batch_efficiency_ratio(
          Gauge(*registry_, "batch_efficiency_ratio", "Application reads per read request to the store").Add({})),
      mounts(Gauge(*registry_, "mounts", "Mounts now connected").Add({})),
      requests(Counter(*registry_, "requests_total", "Requests of mounts, by result")),
      request_seconds(Histogram(*registry_, "request_seconds", "Time from a mount's request to its answer")),
      slots_in_use(Gauge(*registry_, "slots_in_use", "Arena slots now held by sessions").Add({})),
      fetches_in_flight(Gauge(*registry_, "fetches_in_flight", "Store reads now running").Add({})),
      fetch_queue_depth(Gauge(*registry_, "fetch_queue_depth", "Store reads waiting for a worker").Add({})) {
  Gauge(*registry_, "build_info", "1, with the running version as label").Add({{"version", kVersion}}).Set(1);
  const auto since_1970 = std::chrono::system_clock::now().time_since_epoch();
  Gauge(*registry_, "start_time_seconds", "When the daemon started, since 1970")
      .Add({})
      .Set(std::floor(std::chrono::duration<double>(since_1970).count()));
}

std::shared_ptr<prometheus::Registry> Metrics::registry() const { return registry_; }

const std::vector<MetricDescription>& Metrics::catalogue() const { return registry_->catalogue(); }

std::string Metrics::Json() const {
  json root = json::object();
  // A family of which nothing was counted yet is an empty object, so that every name is always there.
  for (const MetricDescription& description : catalogue()) {
    root[description.name.substr(kPrefix.size())] = json::object();
  }
  for (const prometheus::MetricFamily& family : registry_->Collect()) {
    std::string_view name = family.name;
    if (name.starts_with(kPrefix)) name.remove_prefix(kPrefix.size());
    json& node = root[std::string(name)];
    for (const prometheus::ClientMetric& metric : family.metric) {
      json* place = &node;
      for (const auto& label : metric.label) place = &(*place)[label.value];
      *place = ValueOf(metric, family.type);
    }
  }
  return root.dump();
}

}  // namespace mlcache
