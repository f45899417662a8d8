// The names in the documentation, the rules and the dashboard are the names that mlcached publishes.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <sstream>
#include <string>

#include "cached/metrics/metrics.h"

namespace mlcache {
namespace {

std::string ReadFile(const std::string& path) {
  std::ifstream file(std::string(MLCACHE_SOURCE_DIR) + "/" + path);
  EXPECT_TRUE(file.good()) << path;
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// As they appear in queries: a histogram is three series.
std::set<std::string> SeriesNames() {
  std::set<std::string> names;
  const Metrics metrics;
  for (const MetricDescription& metric : metrics.catalogue()) {
    names.insert(metric.name);
    if (metric.type != "histogram") continue;
    for (const char* suffix : {"_bucket", "_sum", "_count"}) names.insert(metric.name + suffix);
  }
  return names;
}

std::set<std::string> NamesIn(const std::string& text) {
  static const std::regex kName("(^|[^:a-z_])(mlcache_[a-z0-9_]+)");
  std::set<std::string> names;
  for (auto it = std::sregex_iterator(text.begin(), text.end(), kName); it != std::sregex_iterator(); ++it)
    names.insert((*it)[2]);
  return names;
}

TEST(PublishedNames, TheRulesUseMetricsThatExist) {
  const std::set<std::string> series = SeriesNames();
  const std::set<std::string> used = NamesIn(ReadFile("deploy/prometheus/rules.yml"));
  EXPECT_GE(used.size(), 5U);
  for (const std::string& name : used) EXPECT_TRUE(series.contains(name)) << name;
}

TEST(PublishedNames, TheDashboardUsesMetricsThatExist) {
  const std::set<std::string> series = SeriesNames();
  const auto dashboard = nlohmann::json::parse(ReadFile("deploy/grafana/mlcache.json"));
  EXPECT_EQ(dashboard["title"], "mlcache");
  std::set<std::string> used;
  for (const auto& panel : dashboard["panels"]) {
    ASSERT_FALSE(panel["targets"].empty()) << panel["title"];
    for (const auto& target : panel["targets"]) {
      const auto names = NamesIn(target["expr"].get<std::string>());
      EXPECT_FALSE(names.empty()) << target["expr"];
      used.insert(names.begin(), names.end());
    }
  }
  EXPECT_GE(used.size(), 20U);
  for (const std::string& name : used) EXPECT_TRUE(series.contains(name)) << name;
}

TEST(PublishedNames, TheDocumentationListsExactlyWhatThereIs) {
  static const std::regex kRow(R"(\n\| `(mlcache_[a-z_]+)` \| (counter|gauge|histogram) \|)");
  const std::string text = ReadFile("docs/metrics.md");
  std::set<std::string> documented;
  for (auto it = std::sregex_iterator(text.begin(), text.end(), kRow); it != std::sregex_iterator(); ++it)
    documented.insert((*it)[1].str() + " " + (*it)[2].str());
  std::set<std::string> published;
  const Metrics metrics;
  for (const MetricDescription& metric : metrics.catalogue()) published.insert(metric.name + " " + metric.type);
  EXPECT_EQ(documented, published);
}

}  // namespace
}  // namespace mlcache
