// mlcachectl from its arguments to its output and exit code, over a control service with canned answers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/ctl/ctl_fixture.h"

namespace mlcache::ctl {
namespace {

using nlohmann::json;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

class MainTest : public CtlTest {
 protected:
  std::vector<json> Lines() const {
    std::vector<json> lines;
    std::istringstream text(out());
    for (std::string line; std::getline(text, line);) lines.push_back(json::parse(line));
    return lines;
  }

  static control::Failure Failure(const std::string& path, const std::string& message) {
    control::Failure failure;
    failure.set_path(path);
    failure.set_code(static_cast<int>(Code::kNotFound));
    failure.set_message(message);
    return failure;
  }

  static control::WarmupProgress Warmed(uint64_t done, uint64_t total, bool last) {
    control::WarmupProgress progress;
    progress.set_files_total(total);
    progress.set_files_done(done);
    progress.set_bytes_total(total * 1'000'000);
    progress.set_bytes_done(done * 1'000'000);
    progress.set_bytes_fetched(done * 1'000'000);
    progress.set_listing_done(last);
    progress.set_done(last);
    return progress;
  }
};

TEST_F(MainTest, UsageErrorsAreTwoAndNamed) {
  struct Case {
    std::vector<std::string> args;
    std::string named;
  };
  const std::vector<Case> cases = {
      {{}, "VERB"},
      {{"frobnicate"}, "frobnicate"},
      {{"--frobnicate", "status"}, "--frobnicate"},
      {{"warmup"}, "PATH"},
      {{"check"}, "PATH"},
      {{"stats", "--jsn"}, "--jsn"},
      {{"stats", "--json=yes"}, "--json"},
      {{"warmup", "x", "--progress"}, "--progress"},
      {{"warmup", "file:///x", "--progress=loud"}, "loud"},
      {{"status", "extra"}, "extra"},
      {{"version", "extra"}, "extra"},
      {{"pin", "x"}, "not available in this version"},
      {{"doctor"}, "not available in this version"},
  };
  for (const Case& bad : cases) {
    EXPECT_EQ(Run(bad.args), kExitUsage) << bad.named;
    EXPECT_THAT(err(), HasSubstr(bad.named));
  }
  EXPECT_EQ(RunBare({"--socket_dir=", "status"}), kExitUsage);
  EXPECT_EQ(RunBare({"--socket_dir"}), kExitUsage);
}

TEST_F(MainTest, HelpAndVersionNeedNoDaemon) {
  EXPECT_EQ(RunBare({"--help"}), kExitOk);
  for (const Verb& verb : Verbs()) EXPECT_THAT(out(), HasSubstr(std::string("\n") + verb.name));
  EXPECT_EQ(RunBare({"help"}), kExitOk);
  EXPECT_EQ(RunBare({"version"}), kExitOk);
  EXPECT_THAT(out(), StartsWith("mlcachectl "));
  EXPECT_EQ(RunBare({"--version"}), kExitOk);
  for (const Verb& verb : Verbs()) {
    EXPECT_EQ(RunBare({"--socket_dir=/nowhere", verb.name, "--help"}), kExitOk);
    EXPECT_THAT(out(), HasSubstr(verb.name));
  }
}

TEST_F(MainTest, NoDaemonIsThreeAndNamesTheSocketAndTheFix) {
  for (const std::vector<std::string>& verb :
       {std::vector<std::string>{"status"}, {"stats"}, {"warmup", "file:///x"}}) {
    std::vector<std::string> args = {"--socket_dir", directory_.path() + "/no-daemon"};
    args.insert(args.end(), verb.begin(), verb.end());
    EXPECT_EQ(RunBare(args), kExitUnreachable);
    EXPECT_THAT(err(), HasSubstr(directory_.path() + "/no-daemon/control.sock"));
    EXPECT_THAT(err(), HasSubstr("mlcached --socket_dir="));
  }
  // The socket of a daemon that was killed.
  directory_.Write("stale/control.sock", "");
  EXPECT_EQ(RunBare({"--socket_dir=" + directory_.path() + "/stale", "status"}), kExitUnreachable);
  EXPECT_EQ(RunBare({"--socket_dir=/" + std::string(200, 'x'), "status"}), kExitUnreachable);
}

TEST_F(MainTest, AFailingCallIsOneAndADaemonThatGoesIsThree) {
  server_.end = grpc::Status(grpc::StatusCode::INTERNAL, "it broke");
  EXPECT_EQ(Run({"status"}), kExitFailure);
  EXPECT_THAT(err(), HasSubstr("it broke"));
  EXPECT_EQ(Run({"check", "file:///x"}), kExitFailure);
  server_.end = grpc::Status(grpc::StatusCode::UNAVAILABLE, "going");
  EXPECT_EQ(Run({"stats"}), kExitUnreachable);
  EXPECT_EQ(Run({"evict", "file:///x"}), kExitUnreachable);
}

TEST_F(MainTest, StatusShowsTiersAndAlarms) {
  server_.status.set_version("1.2.3");
  server_.status.set_uptime_ns(3'723'000'000'000);
  server_.status.set_metrics_address("127.0.0.1:9463");
  control::TierStatus& tier = *server_.status.add_tiers();
  tier.set_directory("/tier\n0");
  tier.set_used_bytes(512 << 20);
  tier.set_capacity_bytes(1 << 30);
  tier.set_state("No space left on device");
  server_.status.add_alarms("tier /tier0 is bypassed");
  EXPECT_EQ(Run({"status"}), kExitOk);
  for (const char* text : {"1.2.3", "1 h 2 min", "http://127.0.0.1:9463/metrics", "/tier\\n0", "512.0 MiB", "1.0 GiB",
                           "50.0 %", "No space left", "ALARM: tier /tier0 is bypassed"}) {
    EXPECT_THAT(out(), HasSubstr(text));
  }
}

TEST_F(MainTest, StatsAsJsonAndAsATable) {
  server_.stats.set_json(R"({"mounts":2,"cache_hits_total":{"random":1234567},)"
                         R"("request_seconds":{"read":{"count":4,"sum":2.0,"buckets":{"+Inf":4}}},"empty":null})");
  EXPECT_EQ(Run({"stats", "--json"}), kExitOk);
  ASSERT_EQ(Lines().size(), 1U);
  EXPECT_EQ(Lines()[0], json::parse(server_.stats.json()));
  EXPECT_EQ(Run({"stats"}), kExitOk);
  EXPECT_THAT(out(), HasSubstr("mounts                    2\n"));
  EXPECT_THAT(out(), HasSubstr("cache_hits_total{random}  1,234,567\n"));
  EXPECT_THAT(out(), HasSubstr("request_seconds{read}     4 times, mean 0.5\n"));
  server_.stats.set_json("nonsense");
  EXPECT_EQ(Run({"stats"}), kExitFailure);
}

TEST_F(MainTest, MountsShowsOneRowEach) {
  server_.AddMount("/mnt/a b");
  server_.mounts.mutable_mounts(0)->set_job("train");
  server_.mounts.mutable_mounts(0)->set_read_only(true);
  server_.mounts.mutable_mounts(0)->set_immutable(true);
  EXPECT_EQ(Run({"mounts"}), kExitOk);
  EXPECT_THAT(out(), HasSubstr("/mnt/a b"));
  EXPECT_THAT(out(), HasSubstr("train"));
  EXPECT_THAT(out(), HasSubstr("ro,immutable"));
  server_.mounts.mutable_mounts(0)->set_sealed("no: why not");
  EXPECT_EQ(Run({"mounts"}), kExitOk);
  EXPECT_THAT(out(), HasSubstr("no: why not"));
}

TEST_F(MainTest, SealSaysWhatIsShownOrWhyNot) {
  server_.AddMount("/mnt/data");
  control::SealedMount& mount = *server_.seal.add_mounts();
  mount.set_mountpoint("/mnt/data");
  mount.set_sealed("yes: 3 files, 3 B");
  EXPECT_EQ(Run({"seal", "/mnt/data/train"}), kExitOk);
  EXPECT_THAT(out(), HasSubstr("/mnt/data: sealed: yes: 3 files"));
  EXPECT_EQ(server_.request().targets(0).mountpoint(), "/mnt/data");
  EXPECT_FALSE(server_.seal_off());
  EXPECT_EQ(Run({"seal", "--off", "/mnt/data"}), kExitOk);
  EXPECT_TRUE(server_.seal_off());
  *server_.seal.add_failures() = Failure("/mnt/other", "needs allow_other");
  EXPECT_EQ(Run({"seal", "/mnt/data"}), kExitPartly);
  server_.seal.clear_mounts();
  EXPECT_EQ(Run({"seal", "/mnt/data"}), kExitFailure);
  EXPECT_THAT(err(), HasSubstr("/mnt/other: needs allow_other"));
  EXPECT_EQ(Run({"seal"}), kExitUsage);
}

TEST_F(MainTest, WarmupPrintsJsonLinesWithoutATerminal) {
  server_.AddMount("/mnt/data");
  server_.warmup = {Warmed(1, 4, false), Warmed(4, 4, true)};
  EXPECT_EQ(Run({"warmup", "/mnt/data/train"}), kExitOk);
  EXPECT_THAT(err(), IsEmpty());
  const std::vector<json> lines = Lines();
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_EQ(lines[0]["files_done"], 1);
  EXPECT_EQ(lines[0]["done"], false);
  EXPECT_EQ(lines[1]["files_done"], 4);
  EXPECT_EQ(lines[1]["bytes_done"], 4'000'000);
  EXPECT_EQ(lines[1]["done"], true);
  EXPECT_EQ(lines[1]["failures"], 0);
  ASSERT_EQ(server_.request().targets_size(), 1);
  EXPECT_EQ(server_.request().targets(0).mountpoint(), "/mnt/data");
  EXPECT_EQ(server_.request().targets(0).path(), "train");
  EXPECT_FALSE(server_.request().metadata_only());
}

TEST_F(MainTest, WarmupDrawsABarOnATerminalAndEndsWithASummary) {
  server_.warmup = {Warmed(1, 4, false), Warmed(4, 4, true)};
  EXPECT_EQ(Run({"warmup", "file:///data"}, /*terminal=*/true), kExitOk);
  EXPECT_THAT(err(), HasSubstr("25.0 %"));
  EXPECT_THAT(err(), HasSubstr("1 of 4 files"));
  EXPECT_THAT(out(), StartsWith("warmed 4 of 4 files, 4,000,000 of 4,000,000 bytes cached"));
  EXPECT_THAT(out(), EndsWith("0 failures\n"));
  EXPECT_EQ(Run({"warmup", "file:///data", "--progress=none"}, /*terminal=*/true), kExitOk);
  EXPECT_THAT(err(), IsEmpty());
  EXPECT_THAT(out(), StartsWith("warmed 4 of 4"));
}

TEST_F(MainTest, WarmupNamesFailuresAndSaysPartly) {
  control::WarmupProgress partly = Warmed(3, 4, true);
  partly.set_files_failed(1);
  *partly.add_failures() = Failure("/mnt/data/x\ny", "gone");
  server_.warmup = {partly};
  EXPECT_EQ(Run({"warmup", "--meta", "file:///data"}), kExitPartly);
  EXPECT_EQ(err(), "mlcachectl: /mnt/data/x\\ny: gone\n");
  EXPECT_EQ(Lines().back()["failures"], 1);
  EXPECT_TRUE(server_.request().metadata_only());
  partly.set_files_done(0);
  server_.warmup = {partly};
  EXPECT_EQ(Run({"warmup", "file:///data"}), kExitFailure);
}

TEST_F(MainTest, PathsOutsideEveryMountAreNamed) {
  server_.AddMount("/mnt/data");
  server_.warmup = {Warmed(1, 1, true)};
  EXPECT_EQ(Run({"warmup", "/not/in/a/mount"}), kExitFailure);
  EXPECT_THAT(err(), HasSubstr("/not/in/a/mount: not below a live mount"));
  EXPECT_EQ(Run({"warmup", "/mnt/data", "/not/in/a/mount"}), kExitPartly);
  EXPECT_THAT(err(), HasSubstr("/not/in/a/mount"));
  EXPECT_EQ(server_.request().targets_size(), 1);
}

TEST_F(MainTest, ListsOfPathsComeFromFiles) {
  server_.AddMount("/mnt/data");
  server_.evict.set_files(2);
  server_.evict.set_bytes(1234);
  const std::string list = directory_.Write("list", "/mnt/data/a b\n\n/mnt/data/c\n");
  EXPECT_EQ(Run({"evict", "-f", list}), kExitOk);
  EXPECT_EQ(out(), "evicted 1,234 bytes of 2 files\n");
  ASSERT_EQ(server_.request().targets_size(), 2);
  EXPECT_EQ(server_.request().targets(0).path(), "a b");
  EXPECT_EQ(Run({"evict", "-f", directory_.path() + "/none"}), kExitFailure);
  EXPECT_THAT(err(), HasSubstr(directory_.path() + "/none"));
}

TEST_F(MainTest, CheckSumsUpExactly) {
  control::CheckReply full;
  full.set_path("/mnt/data/a");
  full.set_size(100);
  full.set_cached_bytes(100);
  full.set_tier("disk");
  control::CheckReply part = full;
  part.set_path("/mnt/data/b");
  part.set_cached_bytes(1);
  control::CheckReply none;
  none.set_path("/mnt/data/c");
  none.set_size(1800);
  server_.check = {full, part, none};
  EXPECT_EQ(Run({"check", "file:///data"}), kExitOk);
  EXPECT_THAT(out(), HasSubstr("  100 %  100 of 100  disk  /mnt/data/a\n"));
  EXPECT_THAT(out(), HasSubstr("  1.0 %  1 of 100  disk  /mnt/data/b\n"));
  EXPECT_THAT(out(), EndsWith("3 files: 1 complete, 1 in part, 1 not cached; 101 of 2,000 bytes (5.0 %)\n"));
  control::CheckReply failed;
  *failed.mutable_failure() = Failure("/mnt/data/d", "gone");
  server_.check.push_back(failed);
  EXPECT_EQ(Run({"check", "file:///data"}), kExitPartly);
  EXPECT_THAT(err(), HasSubstr("/mnt/data/d: gone"));
  server_.check = {failed};
  EXPECT_EQ(Run({"check", "file:///data"}), kExitFailure);
}

TEST_F(MainTest, EvictAndInvalidateReportFailures) {
  *server_.invalidate.add_failures() = Failure("file:///x", "no such store");
  EXPECT_EQ(Run({"invalidate", "file:///x"}), kExitFailure);
  EXPECT_THAT(err(), HasSubstr("file:///x: no such store"));
  EXPECT_EQ(Run({"invalidate", "file:///x", "file:///y"}), kExitPartly);
  EXPECT_THAT(out(), StartsWith("invalidated 0 entries"));
  EXPECT_THAT(out(), Not(HasSubstr("no such store")));
}

}  // namespace
}  // namespace mlcache::ctl
