#include "cached/config.h"

#include <gflags/gflags.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <sstream>

#include "common/units.h"
#include "tests/fakes/temp_directory.h"

namespace mlcache {
namespace {

class ConfigTest : public ::testing::Test {
 protected:
  // Each parse begins with the defaults.
  static Result<CommandLine> Parse(const std::vector<std::string>& args) {
    const gflags::FlagSaver saver;
    return ParseCommandLine(args);
  }

  testing::TempDirectory directory_;
};

TEST_F(ConfigTest, DefaultsAndATier) {
  const auto line = Parse({"--tier=/tier0:1GiB,/tier1:10GB"});
  ASSERT_TRUE(line.has_value()) << line.error();
  EXPECT_EQ(line->action, Action::kServe);
  const DaemonOptions& options = line->options;
  EXPECT_EQ(options.socket_dir, "/run/mlcache");
  EXPECT_EQ(options.session.socket_dir, "/run/mlcache");
  ASSERT_EQ(options.cache.tiers.size(), 2U);
  EXPECT_EQ(options.cache.tiers[0].directory, "/tier0");
  EXPECT_EQ(options.cache.tiers[0].capacity_bytes, kGiB);
  EXPECT_EQ(options.cache.tiers[1].capacity_bytes, 10'000'000'000U);
  EXPECT_EQ(options.cache.free_space_floor_bytes, kGiB);
  ASSERT_TRUE(options.metrics_address.has_value());
  EXPECT_EQ(options.metrics_address->ToString(), "127.0.0.1:9463");
  // The flags' defaults are those of the options.
  EXPECT_EQ(options.fetch.demand_workers, fetch::FetchOptions().demand_workers);
  EXPECT_EQ(options.fetch.in_flight_bytes, fetch::FetchOptions().in_flight_bytes);
  EXPECT_EQ(options.fetch.request_timeout, fetch::FetchOptions().request_timeout);
  const store::StoreOptions& store = options.session.store;
  EXPECT_EQ(store.retry_initial_backoff, store::StoreOptions().retry_initial_backoff);
  EXPECT_EQ(store.first_byte_timeout, store::StoreOptions().first_byte_timeout);
  EXPECT_EQ(store.attempt_timeout, store::StoreOptions().attempt_timeout);
  EXPECT_EQ(store.hedge_share, store::StoreOptions().hedge_share);
  EXPECT_EQ(store.shared.max_connections, store::ResourceOptions().max_connections);
  EXPECT_FALSE(store.s3_instance_metadata);
  EXPECT_EQ(options.session.volume.negative_ttl, session::VolumeOptions().negative_ttl);
  EXPECT_EQ(options.cache.commit_bytes, cache::CacheOptions().commit_bytes);
  ASSERT_TRUE(options.session.allowed_uids.has_value());
  EXPECT_TRUE(options.session.allowed_uids->empty());
}

TEST_F(ConfigTest, EverySpellingOfAFlag) {
  for (const std::vector<std::string>& args : {std::vector<std::string>{"--tier=/t:1GiB", "--socket_dir=/s/"},
                                               {"-tier=/t:1GiB", "-socket_dir=/s"},
                                               {"--tier", "/t:1GiB", "--socket_dir", "/s"},
                                               {"--tier=/t:1GiB", "--socket_dir=/x", "--socket_dir=/s", "--"}}) {
    const auto line = Parse(args);
    ASSERT_TRUE(line.has_value()) << line.error();
    EXPECT_EQ(line->options.socket_dir, "/s");
  }
}

TEST_F(ConfigTest, ValuesReachTheirOptions) {
  const auto line =
      Parse({"--tier=/t:1GiB", "--metrics_address=", "--demand_workers=3", "--in_flight_bytes=8MiB",
             "--request_timeout=5s", "--stall_timeout=250ms", "--retry_attempts=2", "--max_bytes_per_second=10MB",
             "--allowed_uids=1000,1001", "--socket_dir=relative", "--first_byte_timeout=3s", "--attempt_timeout=1m",
             "--hedge_percent=5", "--max_connections=7", "--s3_instance_metadata"});
  ASSERT_TRUE(line.has_value()) << line.error();
  EXPECT_FALSE(line->options.metrics_address.has_value());
  EXPECT_EQ(line->options.fetch.demand_workers, 3U);
  EXPECT_EQ(line->options.fetch.in_flight_bytes, 8 * kMiB);
  EXPECT_EQ(line->options.fetch.request_timeout, std::chrono::seconds(5));
  EXPECT_EQ(line->options.session.request_timeout, std::chrono::seconds(5));
  EXPECT_EQ(line->options.session.store.stall_timeout, std::chrono::milliseconds(250));
  EXPECT_EQ(line->options.session.store.retry_attempts, 2);
  EXPECT_EQ(line->options.session.store.first_byte_timeout, std::chrono::seconds(3));
  EXPECT_EQ(line->options.session.store.attempt_timeout, std::chrono::minutes(1));
  EXPECT_EQ(line->options.session.store.hedge_share, 0.05);
  EXPECT_EQ(line->options.session.store.shared.max_connections, 7U);
  EXPECT_TRUE(line->options.session.store.s3_instance_metadata);
  EXPECT_EQ(line->options.session.store.max_bytes_per_second, 10'000'000U);
  EXPECT_EQ(*line->options.session.allowed_uids, (std::vector<uid_t>{1000, 1001}));
  EXPECT_EQ(line->options.socket_dir, std::filesystem::current_path() / "relative");
  EXPECT_FALSE(Parse({"--tier=/t:1GiB", "--allowed_uids=all"})->options.session.allowed_uids.has_value());
}

TEST_F(ConfigTest, Actions) {
  EXPECT_EQ(Parse({"--help"})->action, Action::kHelp);
  EXPECT_EQ(Parse({"--version"})->action, Action::kVersion);
  EXPECT_EQ(Parse({"--tier=/t:1GiB", "--print_config"})->action, Action::kPrintConfig);
  EXPECT_EQ(Parse({"--tier=/t:1GiB", "--check_config"})->action, Action::kCheckConfig);
  EXPECT_EQ(Parse({"--tier=/t:1GiB", "--check_config", "--nocheck_config"})->action, Action::kServe);
  EXPECT_NE(Usage().find("--tier"), std::string::npos);
}

TEST_F(ConfigTest, FlagFilesCountWhereTheyStand) {
  const std::string inner = directory_.Write("inner.conf", "--demand_workers=5\n");
  const std::string file = directory_.Write(
      "mlcached.conf", "# comment\n\n  --tier=/t t:1GiB  \r\n--demand_workers=4\n--flagfile=" + inner + "\n");
  const auto line = Parse({"--demand_workers=1", "--flagfile=" + file, "--disk_workers=9"});
  ASSERT_TRUE(line.has_value()) << line.error();
  EXPECT_EQ(line->options.cache.tiers[0].directory, "/t t");
  EXPECT_EQ(line->options.fetch.demand_workers, 5U);
  EXPECT_EQ(line->options.fetch.disk_workers, 9U);
  EXPECT_EQ(Parse({"--flagfile", file, "--demand_workers=7"})->options.fetch.demand_workers, 7U);
}

TEST_F(ConfigTest, WhatIsPrintedGivesTheSameDaemon) {
  const gflags::FlagSaver saver;
  ASSERT_TRUE(ParseCommandLine({"--tier=/a:1GiB,/b:2GiB", "--metrics_address=", "--retry_attempts=3"}).has_value());
  const std::string printed = EffectiveFlags();
  EXPECT_NE(printed.find("--tier=/a:1GiB,/b:2GiB\n"), std::string::npos);
  EXPECT_NE(printed.find("--metrics_address=\n"), std::string::npos);
  ASSERT_TRUE(ParseCommandLine({"--tier=/c:1GiB", "--metrics_address=127.0.0.1:1", "--retry_attempts=9",
                                "--flagfile=" + directory_.Write("printed", printed)})
                  .has_value());
  EXPECT_EQ(EffectiveFlags(), printed);
}

TEST_F(ConfigTest, BadInputIsNamed) {
  const std::string loop = directory_.path() + "/loop.conf";
  directory_.Write("loop.conf", "--flagfile=" + loop + "\n");
  const std::string words = directory_.Write("words.conf", "tier /t:1GiB\n");
  const std::string inner = directory_.Write("inner.conf", "--no_such=1\n");
  struct Case {
    std::vector<std::string> args;
    std::string named;
  };
  const std::vector<Case> cases = {
      {{}, "--tier"},
      {{"--tier="}, "--tier"},
      {{"--tier=/t:1GiB", "--hedge_percent=101"}, "--hedge_percent"},
      {{"--tier=/t:1GiB", "--max_connections=0"}, "--max_connections"},
      {{"--tier=/t:1GiB", "--attempt_timeout=0"}, "--attempt_timeout"},
      {{"--tier=/t"}, "DIR:SIZE"},
      {{"--tier=/t:lots"}, "lots"},
      {{"--tier=/t:1GiB,"}, "--tier"},
      {{"--tier=/t:1GiB", "--no_such_flag=1"}, "no_such_flag"},
      {{"--no_such_flag"}, "no_such_flag"},
      {{"--notier"}, "notier"},
      {{"positional"}, "positional"},
      {{"--", "positional"}, "positional"},
      {{"-"}, "'-'"},
      {{""}, "''"},
      {{"--tier"}, "needs a value"},
      {{"--tier=/t:1GiB", "--demand_workers=many"}, "many"},
      {{"--tier=/t:1GiB", "--demand_workers=-1"}, "-1"},
      {{"--tier=/t:1GiB", "--demand_workers=0"}, "at least 1"},
      {{"--tier=/t:1GiB", "--retry_attempts=-1"}, "at least 1"},
      {{"--tier=/t:1GiB", "--request_timeout=0"}, "more than 0"},
      {{"--tier=/t:1GiB", "--request_timeout=soon"}, "soon"},
      {{"--tier=/t:1GiB", "--in_flight_bytes=big"}, "big"},
      {{"--tier=/t:1GiB", "--metrics_address=nowhere"}, "nowhere"},
      {{"--tier=/t:1GiB", "--allowed_uids=root"}, "root"},
      {{"--tier=/t:1GiB", "--socket_dir="}, "--socket_dir"},
      {{"--tier=/t:1GiB", "--check_config=maybe"}, "maybe"},
      {{"--flagfile=/no/such/file"}, "/no/such/file"},
      {{"--flagfile=" + directory_.path()}, directory_.path()},
      {{"--flagfile="}, "--flagfile"},
      {{"--flagfile=" + loop}, "nested"},
      {{"--flagfile=" + words}, "tier /t:1GiB"},
      {{"--flagfile=" + inner}, inner},
  };
  for (const Case& bad : cases) {
    std::ostringstream shown;
    for (const std::string& arg : bad.args) shown << arg << ' ';
    const auto line = Parse(bad.args);
    ASSERT_FALSE(line.has_value()) << shown.str();
    EXPECT_EQ(line.error().code(), Code::kInvalidArgument) << shown.str();
    EXPECT_NE(line.error().message().find(bad.named), std::string::npos) << shown.str() << ": " << line.error();
  }
}

}  // namespace
}  // namespace mlcache
