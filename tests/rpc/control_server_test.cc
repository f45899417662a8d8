#include "cached/rpc/control_server.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <thread>

#include "proto/control.grpc.pb.h"
#include "proto/control_address.h"
#include "tests/fakes/temp_directory.h"
#include "tests/rpc/world.h"

namespace mlcache::rpc {
namespace {

using testing::TempDirectory;
using testing::World;

class ControlServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Start();
    stub_ = control::Control::NewStub(
        grpc::CreateChannel(GrpcUnixAddress(ControlSocketPath(socket_dir_)), grpc::InsecureChannelCredentials()));
  }

  void Start() {
    auto server = ControlServer::Start({.socket_dir = socket_dir_, .metrics_address = "127.0.0.1:1234"},
                                       {.cache = world_.cache,
                                        .fetcher = *world_.fetcher,
                                        .sessions = world_.sessions,
                                        .metrics = world_.metrics,
                                        .clock = SystemClock()});
    ASSERT_TRUE(server.has_value()) << server.error();
    server_ = *std::move(server);
  }

  static control::TargetRequest At(const std::string& path) {
    control::TargetRequest request;
    control::Target& target = *request.add_targets();
    target.set_mountpoint(World::kMountpoint);
    target.set_path(path);
    return request;
  }

  control::WarmupProgress Warm(const std::string& path) {
    grpc::ClientContext context;
    const auto stream = stub_->Warmup(&context, At(path));
    control::WarmupProgress last;
    while (stream->Read(&last)) {
    }
    const grpc::Status status = stream->Finish();
    EXPECT_TRUE(status.ok()) << status.error_message();
    return last;
  }

  std::vector<control::CheckReply> Check(const std::string& path) {
    grpc::ClientContext context;
    const auto stream = stub_->Check(&context, At(path));
    std::vector<control::CheckReply> replies;
    for (control::CheckReply reply; stream->Read(&reply);) replies.push_back(reply);
    EXPECT_TRUE(stream->Finish().ok());
    return replies;
  }

  TempDirectory directory_;
  World world_;
  // A name that a URI would have to escape.
  std::string socket_dir_ = [this] {
    std::string path = directory_.path() + "/run 100%";
    std::filesystem::create_directory(path);
    return path;
  }();
  std::unique_ptr<ControlServer> server_;
  std::unique_ptr<control::Control::Stub> stub_;
};

TEST_F(ControlServerTest, StatusTellsTheDaemonAndItsTiers) {
  grpc::ClientContext context;
  control::StatusReply reply;
  ASSERT_TRUE(stub_->Status(&context, {}, &reply).ok());
  EXPECT_EQ(reply.pid(), getpid());
  EXPECT_EQ(reply.mounts(), 1U);
  EXPECT_EQ(reply.socket_dir(), socket_dir_);
  EXPECT_EQ(reply.metrics_address(), "127.0.0.1:1234");
  ASSERT_EQ(reply.tiers_size(), 1);
  EXPECT_EQ(reply.tiers(0).directory(), "fake");
  EXPECT_EQ(reply.tiers(0).state(), "ok");
  EXPECT_TRUE(reply.alarms().empty());
}

TEST_F(ControlServerTest, MountsAndStats) {
  grpc::ClientContext context;
  control::MountsReply mounts;
  ASSERT_TRUE(stub_->Mounts(&context, {}, &mounts).ok());
  ASSERT_EQ(mounts.mounts_size(), 1);
  EXPECT_EQ(mounts.mounts(0).mountpoint(), World::kMountpoint);
  EXPECT_EQ(mounts.mounts(0).job(), "train");
  grpc::ClientContext other;
  control::StatsReply stats;
  world_.metrics.mounts.Set(1);
  ASSERT_TRUE(stub_->Stats(&other, {}, &stats).ok());
  EXPECT_EQ(stats.json(), world_.metrics.Json());
}

TEST_F(ControlServerTest, WarmupCheckAndEvictAgreeToTheByte) {
  const std::string odd_name = "d/\xff\xfe not UTF-8\n";
  world_.store->Put("d/a", std::string(100'000, 'a'));
  world_.store->Put(odd_name, "12345");
  world_.store->Put("e", "123");
  const control::WarmupProgress warmed = Warm("d");
  EXPECT_TRUE(warmed.done());
  EXPECT_EQ(warmed.files_done(), 2U);
  EXPECT_EQ(warmed.bytes_done(), 100'005U);

  const auto checked = Check("");
  ASSERT_EQ(checked.size(), 3U);
  uint64_t cached = 0;
  for (const control::CheckReply& reply : checked) {
    cached += reply.cached_bytes();
    EXPECT_FALSE(reply.version().empty());
    EXPECT_EQ(reply.cached_bytes(), reply.path() == "/mnt/data/e" ? 0 : reply.size()) << reply.path();
    EXPECT_EQ(reply.tier(), reply.cached_bytes() == 0 ? "" : "memory");
  }
  EXPECT_EQ(cached, 100'005U);

  grpc::ClientContext context;
  control::EvictReply evicted;
  ASSERT_TRUE(stub_->Evict(&context, At(odd_name), &evicted).ok());
  EXPECT_EQ(evicted.bytes(), 5U);
  EXPECT_EQ(evicted.files(), 1U);
  EXPECT_EQ(world_.cache.used_bytes(), 100'000U);
}

TEST_F(ControlServerTest, FailuresAreNamedNotThrown) {
  const auto checked = Check("missing");
  ASSERT_EQ(checked.size(), 1U);
  EXPECT_EQ(checked[0].failure().path(), "/mnt/data/missing");
  EXPECT_EQ(checked[0].failure().code(), static_cast<int>(Code::kNotFound));
  control::TargetRequest request;
  request.add_targets()->set_mountpoint("/no/mount");
  grpc::ClientContext context;
  control::InvalidateReply reply;
  ASSERT_TRUE(stub_->Invalidate(&context, request, &reply).ok());
  ASSERT_EQ(reply.failures_size(), 1);
  EXPECT_EQ(reply.failures(0).path(), "/no/mount");
}

TEST_F(ControlServerTest, InvalidateForgetsAndTellsTheMounts) {
  world_.store->Put("d/a", "1");
  ASSERT_TRUE(world_.volume->List("d", Nanos::zero(), {}).has_value());
  const uint64_t lists = world_.store->lists();
  grpc::ClientContext context;
  control::InvalidateReply reply;
  ASSERT_TRUE(stub_->Invalidate(&context, At("d"), &reply).ok());
  EXPECT_GE(reply.entries(), 1U);
  EXPECT_EQ(world_.sessions.notified(), std::vector<std::string>{"d"});
  ASSERT_TRUE(world_.volume->List("d", Nanos::max(), {}).has_value());
  EXPECT_EQ(world_.store->lists(), lists + 1);
}

TEST_F(ControlServerTest, AClientThatLeavesStopsItsWarmup) {
  for (int i = 0; i < 20; ++i) world_.store->Put(std::to_string(i), "123");
  world_.store->BlockReads();
  {
    grpc::ClientContext context;
    const auto stream = stub_->Warmup(&context, At(""));
    control::WarmupProgress first;
    ASSERT_TRUE(stream->Read(&first));
    world_.store->WaitForBlockedReads(1);
    context.TryCancel();
    EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  // Returns only when no handler runs any more, although no read was ever answered.
  server_.reset();
  EXPECT_EQ(world_.cache.used_bytes(), 0U);
}

TEST_F(ControlServerTest, ShutdownCallsOffWhatRuns) {
  world_.store->Put("file", "123");
  world_.store->BlockReads();
  grpc::ClientContext context;
  const auto stream = stub_->Warmup(&context, At(""));
  world_.store->WaitForBlockedReads(1);
  server_.reset();
  control::WarmupProgress progress;
  while (stream->Read(&progress)) {
  }
  EXPECT_FALSE(stream->Finish().ok());
}

TEST_F(ControlServerTest, TheSocketIsPrivateReplacedAndRemoved) {
  const std::string path = ControlSocketPath(socket_dir_);
  struct stat attributes{};
  ASSERT_EQ(stat(path.c_str(), &attributes), 0);
  EXPECT_EQ(attributes.st_mode & 07777, 0660U);
  server_.reset();
  EXPECT_FALSE(std::filesystem::exists(path));
  // What a daemon that was killed leaves behind.
  directory_.Write("run 100%/control.sock", "");
  Start();
  ASSERT_EQ(stat(path.c_str(), &attributes), 0);
  EXPECT_TRUE(S_ISSOCK(attributes.st_mode));
}

TEST_F(ControlServerTest, ADirectoryThatIsMissingIsAnErrorThatNamesIt) {
  const auto server =
      ControlServer::Start({.socket_dir = "/no/such/directory", .metrics_address = ""}, {.cache = world_.cache,
                                                                                         .fetcher = *world_.fetcher,
                                                                                         .sessions = world_.sessions,
                                                                                         .metrics = world_.metrics,
                                                                                         .clock = SystemClock()});
  ASSERT_FALSE(server.has_value());
  EXPECT_NE(server.error().message().find("/no/such/directory/control.sock"), std::string::npos) << server.error();
}

}  // namespace
}  // namespace mlcache::rpc
