// Every figure mlcached publishes, in one registry: Prometheus scrapes it, `mlcachectl stats --json` prints it.
// Names are DESIGN's contract: prefix `mlcache_`, base units, `_total` on counters. Thread-safe.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <memory>
#include <string>
#include <vector>

namespace mlcache {

struct MetricDescription {
  std::string name;  // with the prefix
  std::string type;  // "counter", "gauge" or "histogram"
  std::string help;
};

class Metrics {
 public:
  Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  // For the exposer and for rendering.
  std::shared_ptr<prometheus::Registry> registry() const;

  // Every family there is, also those that have no value yet. docs/metrics.md lists the same.
  const std::vector<MetricDescription>& catalogue() const;

  // One object: metric names without the prefix as keys; a metric with labels becomes nested objects, one level a
  // label value in label-name order; histograms become {"count", "sum", "buckets"}.
  std::string Json() const;

 private:
  class CataloguedRegistry;
  std::shared_ptr<CataloguedRegistry> registry_;
  using Counters = prometheus::Family<prometheus::Counter>;
  using Gauges = prometheus::Family<prometheus::Gauge>;
  using Histograms = prometheus::Family<prometheus::Histogram>;

 public:
  // Store traffic. `read_bytes` counts bytes admitted by the fetcher, each once; what failed attempts and retries
  // brought beside them is `wasted_bytes`.
  Counters& store_read_bytes;         // {store}
  Counters& store_wasted_bytes;       // {store}
  Counters& store_requests;           // {store,op,code}; every attempt, op is stat|list|read, code is "ok" or CodeName
  Counters& store_retries;            // {store,op}
  Histograms& store_request_seconds;  // {store,op}
  Counters& store_hedges;             // {store}; reads asked for a second time because they took long
  Counters& store_hedged_bytes;       // {store}; what came twice because of that, beside read and wasted bytes
  Gauges& store_circuit_open;         // {store}; 1 while requests are refused because the store does not answer

  // The cache. pattern is sequential|strided|random|reverse|unknown.
  Counters& cache_hit_bytes;     // {tier,pattern}; tier is memory|disk
  Counters& cache_miss_bytes;    // {pattern}
  Counters& cache_hits;          // {pattern}; requests answered without the store
  Counters& cache_misses;        // {pattern}
  Counters& read_stall_seconds;  // {pattern}; how long reads waited because something of them was not cached
  Counters& evicted_bytes;       // {tier}
  Counters& verified_bytes;      // {tier}; bytes read back and checked against their checksum
  Counters& corrupt_blocks;      // {tier}
  Counters& bypass_bytes;        // no label: served without being kept (no room, unsettled version)
  Gauges& tier_used_bytes;       // {tier = its directory}
  Gauges& tier_capacity_bytes;   // {tier}
  Gauges& tier_objects;          // {tier}
  Gauges& tier_isolated;         // {tier}; 1 while bypassed after an error

  // Prefetch and aggregation.
  prometheus::Counter& prefetch_issued_bytes;
  prometheus::Counter& prefetch_used_bytes;
  prometheus::Counter& prefetch_wasted_bytes;
  prometheus::Gauge& prefetch_hit_ratio;  // used over issued; worked out from the counters when looked at
  prometheus::Counter& sequential_detected;
  Counters& plan_files;                       // {state}: prefetched|present|late|unread|failed
  prometheus::Gauge& batch_efficiency_ratio;  // (hits + misses) per store read; worked out likewise

  // Sessions.
  prometheus::Gauge& mounts;
  Counters& requests;           // {op,code}
  Histograms& request_seconds;  // {op}
  prometheus::Gauge& slots_in_use;
  prometheus::Gauge& fetches_in_flight;
  prometheus::Gauge& fetch_queue_depth;
};

}  // namespace mlcache
