#include "cached/metrics/endpoint.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "cached/metrics/metrics.h"
#include "common/unique_fd.h"
#include "tests/fakes/temp_directory.h"

namespace mlcache {
namespace {

std::string Get(uint16_t port, const std::string& path) {
  const UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) return "";
  const std::string request = "GET " + path + " HTTP/1.0\r\n\r\n";
  if (send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL) < 0) return "";
  std::string reply;
  char buffer[4096];
  for (ssize_t got = 0; (got = recv(fd.get(), buffer, sizeof(buffer), 0)) > 0;)
    reply.append(buffer, static_cast<size_t>(got));
  const size_t body = reply.find("\r\n\r\n");
  return body == std::string::npos ? "" : reply.substr(body + 4);
}

uint16_t PortOf(const MetricsEndpoint& endpoint) { return ParseListenAddress(endpoint.address()).value().port; }

// A value in every family, so that the check sees all of them.
void Fill(Metrics& metrics) {
  const prometheus::Histogram::BucketBoundaries bounds{0.01, 1};
  metrics.store_read_bytes.Add({{"store", "file://"}}).Increment(7);
  metrics.store_wasted_bytes.Add({{"store", "file://"}});
  metrics.store_requests.Add({{"store", "file://"}, {"op", "read"}, {"code", "ok"}}).Increment();
  metrics.store_retries.Add({{"store", "file://"}, {"op", "read"}});
  metrics.store_request_seconds.Add({{"store", "file://"}, {"op", "read"}}, bounds).Observe(0.5);
  for (auto* family : {&metrics.store_hedges, &metrics.store_hedged_bytes}) family->Add({{"store", "file://"}});
  metrics.store_circuit_open.Add({{"store", "file://"}});
  metrics.cache_hit_bytes.Add({{"tier", "disk"}, {"pattern", "random"}});
  metrics.cache_miss_bytes.Add({{"pattern", "random"}});
  metrics.cache_hits.Add({{"pattern", "random"}});
  metrics.cache_misses.Add({{"pattern", "random"}});
  metrics.read_stall_seconds.Add({{"pattern", "random"}});
  for (auto* family : {&metrics.evicted_bytes, &metrics.verified_bytes, &metrics.corrupt_blocks})
    family->Add({{"tier", "disk"}});
  metrics.bypass_bytes.Add({});
  metrics.plan_files.Add({{"state", "late"}});
  for (auto* family :
       {&metrics.tier_used_bytes, &metrics.tier_capacity_bytes, &metrics.tier_objects, &metrics.tier_isolated})
    family->Add({{"tier", "/tier"}});
  metrics.requests.Add({{"op", "read"}, {"code", "ok"}});
  metrics.request_seconds.Add({{"op", "read"}}, bounds).Observe(0.5);
}

TEST(ListenAddress, ParsesAndPrints) {
  for (const char* text : {"127.0.0.1:9463", "0.0.0.0:0", "[::1]:9463", "[::]:1"})
    EXPECT_EQ(ParseListenAddress(text).value().ToString(), text);
  EXPECT_EQ(ParseListenAddress("localhost:80").value().ToString(), "127.0.0.1:80");
}

TEST(ListenAddress, RefusesTheRestAndNamesTheFlag) {
  for (const char* text : {"", "9463", ":9463", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000",
                           "999.1.1.1:1", "::1:9463", "host.example:1", "127.0.0.1:-1", "127.0.0.1:9463 "}) {
    const auto address = ParseListenAddress(text);
    ASSERT_FALSE(address.has_value()) << text;
    EXPECT_EQ(address.error().code(), Code::kInvalidArgument);
    EXPECT_NE(address.error().message().find("--metrics_address"), std::string::npos);
  }
}

TEST(MetricsEndpoint, ServesWhatTheRegistryHolds) {
  Metrics metrics;
  Fill(metrics);
  const auto endpoint = MetricsEndpoint::Start({.host = "127.0.0.1", .port = 0}, metrics);
  ASSERT_TRUE(endpoint.has_value()) << endpoint.error();
  ASSERT_NE(PortOf(**endpoint), 0);
  const std::string text = Get(PortOf(**endpoint), "/metrics");
  EXPECT_NE(text.find("mlcache_store_read_bytes_total{store=\"file://\"} 7"), std::string::npos) << text;
  for (const MetricDescription& metric : metrics.catalogue())
    EXPECT_NE(text.find("# TYPE " + metric.name + " " + metric.type), std::string::npos) << metric.name;
}

TEST(MetricsEndpoint, IsCleanForPromtool) {
  if (std::system("command -v promtool >/dev/null") != 0) GTEST_SKIP() << "promtool is not installed";
  Metrics metrics;
  Fill(metrics);
  const auto endpoint = MetricsEndpoint::Start({.host = "127.0.0.1", .port = 0}, metrics);
  ASSERT_TRUE(endpoint.has_value()) << endpoint.error();
  const testing::TempDirectory directory;
  const std::string file = directory.Write("metrics", Get(PortOf(**endpoint), "/metrics"));
  EXPECT_EQ(std::system(("promtool check metrics <" + file + " >" + file + ".out 2>&1").c_str()), 0);
  EXPECT_EQ(std::filesystem::file_size(file + ".out"), 0U) << "promtool check metrics <" << file;
}

TEST(MetricsEndpoint, AnAddressInUseNamesTheFlagAndTheWayOut) {
  const Metrics metrics;
  const auto first = MetricsEndpoint::Start({.host = "127.0.0.1", .port = 0}, metrics);
  ASSERT_TRUE(first.has_value()) << first.error();
  const auto second = MetricsEndpoint::Start({.host = "127.0.0.1", .port = PortOf(**first)}, metrics);
  ASSERT_FALSE(second.has_value());
  EXPECT_EQ(second.error().code(), Code::kUnavailable);
  EXPECT_NE(second.error().message().find("--metrics_address=" + (*first)->address()), std::string::npos)
      << second.error();
}

}  // namespace
}  // namespace mlcache
