// What no application may notice: the daemon away, servers dying and hanging; and what must be left when it ends.
#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "common/ring/wire.h"
#include "common/unique_fd.h"
#include "tests/shim/mount_fixture.h"

namespace mlcache::shim::testing {
namespace {

constexpr uint64_t kBigSize = 64 << 20;
constexpr int kSmallFiles = 50;

// Reads and verifies without pause until told to stop; every error counts.
class Load {
 public:
  Load(std::string mountpoint, uint64_t big_node) : mountpoint_(std::move(mountpoint)), big_node_(big_node) {
    threads_.emplace_back([this] { ReadDirect(1); });
    threads_.emplace_back([this] { ReadDirect(2); });
    threads_.emplace_back([this] { OpenMany(); });
  }
  ~Load() { Stop(); }

  void Stop() {
    stop_ = true;
    threads_.clear();
  }
  uint64_t rounds() const { return rounds_; }
  uint64_t errors() const { return errors_; }

 private:
  void ReadDirect(uint64_t seed) {
    const UniqueFd file(::open((mountpoint_ + "/big").c_str(), O_RDONLY | O_DIRECT));
    auto* const buffer = static_cast<unsigned char*>(std::aligned_alloc(4096, 1 << 17));
    for (uint64_t i = seed; !stop_; ++i, ++rounds_) {
      const uint64_t at = (i * 7919 % (kBigSize / 131072)) * 131072;
      if (::pread(file.get(), buffer, 131072, static_cast<off_t>(at)) != 131072) {
        Complain("pread");
        continue;
      }
      for (uint64_t k = 0; k < 131072; k += 997) {
        if (buffer[k] != PatternByte(big_node_, at + k)) Complain("wrong byte");
      }
    }
    std::free(buffer);
  }

  void OpenMany() {
    for (uint64_t i = 0; !stop_; ++i, ++rounds_) {
      const std::string name = mountpoint_ + "/small" + std::to_string(i % kSmallFiles);
      const UniqueFd file(::open(name.c_str(), O_RDONLY));
      std::array<char, 200> bytes{};
      if (!file.valid() || ::read(file.get(), bytes.data(), bytes.size()) != 100) Complain("small file");
      if (::access((name + "-absent").c_str(), F_OK) == 0 || errno != ENOENT) Complain("absent file");
    }
  }

  void Complain(const char* what) {
    if (errors_++ < 10) ADD_FAILURE() << what << ": " << std::strerror(errno);
  }

  const std::string mountpoint_;
  const uint64_t big_node_;
  std::atomic<bool> stop_ = false;
  std::atomic<uint64_t> rounds_ = 0;
  std::atomic<uint64_t> errors_ = 0;
  std::vector<std::jthread> threads_;
};

class SurvivalTest : public MountTest {
 protected:
  void SetUp() override {
    MountTest::SetUp();
    if (IsSkipped()) return;
    // Nothing is remembered, so that each access is a request.
    daemon_ = std::make_unique<FakeDaemon>(socket_dir_, FakeDaemonOptions{.entry_timeout_ns = 0, .attr_timeout_ns = 0});
    big_ = daemon_->AddFile(1, "big", kBigSize);
    for (int i = 0; i < kSmallFiles; ++i) daemon_->AddFile(1, "small" + std::to_string(i), 100);
    daemon_->Start();
  }

  uint64_t big_ = 0;
};

TEST_F(SurvivalTest, TenServersKilledUnderLoad) {
  Mount();
  Load load(mountpoint_, big_);
  for (int i = 0; i < 10; ++i) {
    const uint64_t before = load.rounds();
    ASSERT_TRUE(Eventually([&] { return load.rounds() > before + 50; })) << "no progress after " << i << " deaths";
    const pid_t victim = server();
    ASSERT_GT(victim, 0);
    ::kill(victim, SIGKILL);
    ASSERT_TRUE(Eventually([&] { return server() > 0 && server() != victim; }));
  }
  const uint64_t before = load.rounds();
  EXPECT_TRUE(Eventually([&] { return load.rounds() > before + 50; }));
  load.Stop();
  EXPECT_EQ(load.errors(), 0U);
  EXPECT_TRUE(Eventually([&] { return daemon_->SlotsInUse() == 0; }));
  Unmount();
}

TEST_F(SurvivalTest, DaemonRestartedUnderLoad) {
  Mount();
  Load load(mountpoint_, big_);
  for (int i = 0; i < 5; ++i) {
    const uint64_t before = load.rounds();
    ASSERT_TRUE(Eventually([&] { return load.rounds() > before + 50; })) << "no progress after restart " << i;
    daemon_->Stop();
    daemon_->Start();
  }
  const uint64_t before = load.rounds();
  EXPECT_TRUE(Eventually([&] { return load.rounds() > before + 50; }));
  load.Stop();
  EXPECT_EQ(load.errors(), 0U);
  // Each session said that it belongs to the same mount.
  for (const session::Hello& hello : daemon_->hellos()) EXPECT_EQ(hello.mount_id(), daemon_->hellos()[0].mount_id());
  Unmount();
}

TEST_F(SurvivalTest, WhatWaitsGoesOnWhenTheDaemonIsBack) {
  Mount();
  daemon_->Stop();
  std::atomic<int> opened = -2;
  std::jthread waiting([&] {
    const UniqueFd file(::open(Path("small1").c_str(), O_RDONLY));
    opened = file.get();
  });
  // A server that starts while the daemon is away waits as well.
  const pid_t first = server();
  ::kill(first, SIGKILL);
  ASSERT_TRUE(Eventually([&] { return server() > 0 && server() != first; }));
  EXPECT_EQ(opened, -2);
  daemon_->Start();
  EXPECT_TRUE(Eventually([&] { return opened >= 0; }));
}

TEST_F(SurvivalTest, AHangingServerIsReplaced) {
  Mount({"--hang_timeout=2s"});
  const pid_t first = server();
  ::kill(first, SIGSTOP);
  ASSERT_TRUE(Eventually([&] { return StateOf(first) == 'T'; }));
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(::access(Path("small1").c_str(), F_OK), 0);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(6));
  EXPECT_NE(server(), first);
  EXPECT_FALSE(IsAlive(first));
}

TEST_F(SurvivalTest, AHangingWorkerIsReplacedAndItsRequestRefused) {
  Mount({"--hang_timeout=1s"}, MLCACHE_FAULTY_MOUNT_BINARY);
  EXPECT_EQ(::access(Path("hang").c_str(), F_OK), -1);
  EXPECT_EQ(errno, EIO);
  EXPECT_EQ(::access(Path("small1").c_str(), F_OK), 0);
}

TEST_F(SurvivalTest, ARequestThatKillsServersIsRefused) {
  Mount({}, MLCACHE_FAULTY_MOUNT_BINARY);
  EXPECT_EQ(::access(Path("poison").c_str(), F_OK), -1);
  EXPECT_EQ(errno, EIO);
  EXPECT_EQ(::access(Path("small1").c_str(), F_OK), 0);
  EXPECT_EQ(::access(Path("poison").c_str(), F_OK), -1);
  EXPECT_EQ(errno, EIO);
}

TEST_F(SurvivalTest, TheServerHasNoPrivileges) {
  Mount();
  std::ifstream file("/proc/" + std::to_string(server()) + "/status");
  int seen = 0;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("CapEff:") || line.starts_with("CapPrm:") || line.starts_with("CapBnd:")) {
      EXPECT_TRUE(line.ends_with("\t0000000000000000")) << line;
      ++seen;
    }
    if (line.starts_with("NoNewPrivs:")) {
      EXPECT_TRUE(line.ends_with("1")) << line;
      ++seen;
    }
  }
  EXPECT_EQ(seen, 4);
}

TEST_F(SurvivalTest, UmountLeavesNothing) {
  Mount();
  const pid_t last = server();
  {
    const UniqueFd file(::open(Path("small1").c_str(), O_RDONLY));
    EXPECT_EQ(::umount2(mountpoint_.c_str(), 0), -1);
    EXPECT_EQ(errno, EBUSY);
    EXPECT_EQ(::access(Path("small2").c_str(), F_OK), 0);
  }
  Unmount();
  EXPECT_FALSE(IsAlive(last));
  EXPECT_FALSE(IsMountpoint(mountpoint_));
  EXPECT_TRUE(Eventually([&] { return daemon_->sessions() == 0; }));
}

TEST_F(SurvivalTest, SigtermUnmountsEvenWhenBusy) {
  Mount();
  const pid_t last = server();
  const UniqueFd file(::open(Path("small1").c_str(), O_RDONLY));
  ::kill(keeper_, SIGTERM);
  int status = 0;
  ASSERT_TRUE(Eventually([&] { return ::waitpid(keeper_, &status, WNOHANG) == keeper_; }));
  keeper_ = -1;
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  EXPECT_FALSE(IsAlive(last));
  EXPECT_FALSE(IsMountpoint(mountpoint_));
}

TEST_F(SurvivalTest, ADeadKeeperTakesItsServerAlong) {
  Mount();
  const pid_t last = server();
  ::kill(keeper_, SIGKILL);
  ::waitpid(keeper_, nullptr, 0);
  keeper_ = -1;
  EXPECT_TRUE(Eventually([&] { return !IsAlive(last); }));
  EXPECT_TRUE(Eventually([&] { return ::access(Path("small1").c_str(), F_OK) != 0 && errno == ENOTCONN; }));
  // And the next mount says what is in the way.
  const Finished again = RunProgram({MLCACHE_MOUNT_BINARY, "file:///fake", mountpoint_, "--socket_dir=" + socket_dir_});
  EXPECT_EQ(again.exit_code, 1);
  EXPECT_NE(again.output.find("umount"), std::string::npos) << again.output;
}

TEST_F(SurvivalTest, GoesToTheBackgroundOnceItAnswers) {
  const Finished mounted = RunProgram({MLCACHE_MOUNT_BINARY, "file:///fake", mountpoint_, "--socket_dir=" + socket_dir_,
                                       "--log_file=" + directory_ + "/log"});
  ASSERT_EQ(mounted.exit_code, 0) << mounted.output;
  EXPECT_EQ(mounted.output, "");
  const pid_t keeper = daemon_->hellos().back().keeper_pid();
  EXPECT_TRUE(IsAlive(keeper));
  EXPECT_EQ(::access(Path("small1").c_str(), F_OK), 0);
  const Finished busy = RunProgram({MLCACHE_MOUNT_BINARY, "file:///fake", mountpoint_, "--socket_dir=" + socket_dir_});
  EXPECT_EQ(busy.exit_code, 1);
  EXPECT_NE(busy.output.find("busy"), std::string::npos) << busy.output;
  EXPECT_EQ(::umount2(mountpoint_.c_str(), 0), 0);
  EXPECT_TRUE(Eventually([&] { return !IsAlive(keeper); }));
}

TEST_F(SurvivalTest, RefusalsLeaveNothing) {
  daemon_->Stop();
  const std::vector<std::string> command = {MLCACHE_MOUNT_BINARY, "file:///fake", mountpoint_,
                                            "--socket_dir=" + socket_dir_};
  const Finished unreachable = RunProgram(command);
  EXPECT_EQ(unreachable.exit_code, 3);
  EXPECT_NE(unreachable.output.find("mlcached"), std::string::npos) << unreachable.output;
  FakeDaemon strict(socket_dir_, {.refuse_code = 7, .refuse_message = "uid 0 may not mount file:///fake"});
  strict.Start();
  const Finished refused = RunProgram(command);
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_NE(refused.output.find("uid 0 may not mount"), std::string::npos) << refused.output;
  EXPECT_FALSE(IsMountpoint(mountpoint_));
}

TEST_F(SurvivalTest, MemoryStaysSmallOverManyFiles) {
#ifdef MLCACHE_SANITIZED
  GTEST_SKIP() << "a sanitizer's own memory would be measured";
#endif
  Mount();
  for (int i = 0; i < 20'000; ++i) {
    const UniqueFd file(::open(Path("small" + std::to_string(i % kSmallFiles)).c_str(), O_RDONLY));
    ASSERT_TRUE(file.valid());
  }
  const UniqueFd big(::open(Path("big").c_str(), O_RDONLY));
  std::vector<char> buffer(1 << 20);
  while (::read(big.get(), buffer.data(), buffer.size()) > 0) {
  }
  std::ifstream file("/proc/" + std::to_string(server()) + "/status");
  long kib = 0;
  for (std::string word; file >> word;) {
    if (word == "VmRSS:") file >> kib;
  }
  RecordProperty("server_rss_kib", static_cast<int>(kib));
  std::cout << "server RSS " << kib << " KiB\n";
  EXPECT_GT(kib, 0);
  EXPECT_LE(kib, 40 * 1024);
}

}  // namespace
}  // namespace mlcache::shim::testing
