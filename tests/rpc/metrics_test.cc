#include "cached/metrics/metrics.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "common/version.h"

namespace mlcache {
namespace {

using nlohmann::json;

TEST(MetricsJson, NestsLabelsInTheOrderOfTheirNames) {
  Metrics metrics;
  metrics.store_requests.Add({{"store", "file://"}, {"op", "read"}, {"code", "ok"}}).Increment(3);
  metrics.store_requests.Add({{"store", "file://"}, {"op", "stat"}, {"code", "NOT_FOUND"}}).Increment();
  const json stats = json::parse(metrics.Json());
  EXPECT_EQ(stats["store_requests_total"]["ok"]["read"]["file://"], 3);
  EXPECT_EQ(stats["store_requests_total"]["NOT_FOUND"]["stat"]["file://"], 1);
}

TEST(MetricsJson, PrintsLargeCountsExactly) {
  Metrics metrics;
  metrics.store_read_bytes.Add({{"store", "s"}}).Increment(1234567890123.0);
  EXPECT_NE(metrics.Json().find("1234567890123"), std::string::npos);
  EXPECT_TRUE(json::parse(metrics.Json())["store_read_bytes_total"]["s"].is_number_integer());
}

TEST(MetricsJson, HistogramsHaveCountSumAndBuckets) {
  Metrics metrics;
  auto& histogram = metrics.request_seconds.Add({{"op", "read"}}, prometheus::Histogram::BucketBoundaries{0.5, 1});
  histogram.Observe(0.25);
  histogram.Observe(2);
  const json read = json::parse(metrics.Json())["request_seconds"]["read"];
  EXPECT_EQ(read["count"], 2);
  EXPECT_EQ(read["sum"], 2.25);
  EXPECT_EQ(read["buckets"]["0.5"], 1);
  EXPECT_EQ(read["buckets"]["+Inf"], 2);
}

TEST(MetricsJson, HasBuildInfoAndStartTime) {
  const json stats = json::parse(Metrics().Json());
  EXPECT_EQ(stats["build_info"][kVersion], 1);
  EXPECT_GT(stats["start_time_seconds"], 1'700'000'000);
  EXPECT_EQ(stats["mounts"], 0);
}

TEST(Metrics, RatiosFollowTheirCounters) {
  Metrics metrics;
  EXPECT_EQ(json::parse(metrics.Json())["prefetch_hit_ratio"], 0);
  EXPECT_EQ(json::parse(metrics.Json())["batch_efficiency_ratio"], 0);
  metrics.prefetch_issued_bytes.Increment(200);
  metrics.prefetch_used_bytes.Increment(50);
  metrics.cache_hits.Add({{"pattern", "random"}}).Increment(30);
  metrics.cache_misses.Add({{"pattern", "unknown"}}).Increment(10);
  metrics.store_requests.Add({{"store", "s"}, {"op", "read"}, {"code", "ok"}}).Increment(5);
  metrics.store_requests.Add({{"store", "s"}, {"op", "list"}, {"code", "ok"}}).Increment(100);
  const json stats = json::parse(metrics.Json());
  EXPECT_EQ(stats["prefetch_hit_ratio"], 0.25);
  EXPECT_EQ(stats["batch_efficiency_ratio"], 8);
}

TEST(Metrics, TheCatalogueKnowsFamiliesWithoutValues) {
  const Metrics metrics;
  bool found = false;
  for (const MetricDescription& metric : metrics.catalogue()) {
    EXPECT_TRUE(metric.name.starts_with("mlcache_")) << metric.name;
    EXPECT_EQ(metric.name.ends_with("_total"), metric.type == "counter") << metric.name;
    EXPECT_FALSE(metric.help.empty()) << metric.name;
    found = found || metric.name == "mlcache_corrupt_blocks_total";
  }
  EXPECT_TRUE(found);
}

}  // namespace
}  // namespace mlcache
