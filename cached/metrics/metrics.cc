#include "cached/metrics/metrics.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

namespace mlcache {
namespace {

using nlohmann::json;

constexpr std::string_view kPrefix = "mlcache_";

auto& Counter(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildCounter().Name(std::string(kPrefix) + name).Help(help).Register(registry);
}

auto& Gauge(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildGauge().Name(std::string(kPrefix) + name).Help(help).Register(registry);
}

auto& Histogram(prometheus::Registry& registry, const char* name, const char* help) {
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
    : registry_(std::make_shared<prometheus::Registry>()),
      store_read_bytes(Counter(*registry_, "store_read_bytes_total", "Bytes admitted from the store, each once")),
      store_wasted_bytes(
          Counter(*registry_, "store_wasted_bytes_total", "Bytes that failed or repeated attempts brought")),
      store_requests(Counter(*registry_, "store_requests_total", "Requests to the store, every attempt")),
      store_retries(Counter(*registry_, "store_retries_total", "Attempts after a failed one")),
      store_request_seconds(Histogram(*registry_, "store_request_seconds", "Time of one attempt")),
      cache_hit_bytes(Counter(*registry_, "cache_hit_bytes_total", "Bytes served from the cache")),
      cache_miss_bytes(Counter(*registry_, "cache_miss_bytes_total", "Bytes that a reader had to wait for the store")),
      cache_hits(Counter(*registry_, "cache_hits_total", "Reads answered without the store")),
      cache_misses(Counter(*registry_, "cache_misses_total", "Reads that waited for the store")),
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
      batch_efficiency_ratio(
          Gauge(*registry_, "batch_efficiency_ratio", "Application reads per read request to the store").Add({})),
      mounts(Gauge(*registry_, "mounts", "Mounts now connected").Add({})),
      requests(Counter(*registry_, "requests_total", "Requests of mounts, by result")),
      request_seconds(Histogram(*registry_, "request_seconds", "Time from a mount's request to its answer")),
      slots_in_use(Gauge(*registry_, "slots_in_use", "Arena slots now held by sessions").Add({})),
      fetches_in_flight(Gauge(*registry_, "fetches_in_flight", "Store reads now running").Add({})),
      fetch_queue_depth(Gauge(*registry_, "fetch_queue_depth", "Store reads waiting for a worker").Add({})) {}

std::string Metrics::Json() const {
  json root = json::object();
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
