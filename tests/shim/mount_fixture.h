// Runs mlcache-mount against a FakeDaemon, in a mount namespace of the test's own, and cleans up whatever happens.
#pragma once

#include <gtest/gtest.h>
#include <sys/types.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/shim/fake_daemon.h"

namespace mlcache::shim::testing {

// True within `timeout`; looks every few milliseconds.
bool Eventually(const std::function<bool()>& condition,
                std::chrono::milliseconds timeout = std::chrono::milliseconds(5000));

struct Finished {
  int exit_code = -1;  // -1: ended by a signal
  std::string output;  // both streams
};
Finished RunProgram(const std::vector<std::string>& arguments);

std::vector<pid_t> ChildrenOf(pid_t pid);
char StateOf(pid_t pid);  // as in proc(5): 'T' stopped, 'Z' a zombie; 'X' when there is no such process
inline bool IsAlive(pid_t pid) { return StateOf(pid) != 'X' && StateOf(pid) != 'Z'; }
bool IsMountpoint(const std::string& path);

class MountTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite();  // the private mount namespace
  void SetUp() override;
  void TearDown() override;

  // `daemon_` must be started. Returns when the mount answers.
  void Mount(const std::vector<std::string>& more = {}, const std::string& program = MLCACHE_MOUNT_BINARY);
  // umount(2), then waits for the keeper to end.
  void Unmount();
  pid_t server() const;  // the keeper's present child
  std::string Path(const std::string& relative) const { return mountpoint_ + "/" + relative; }

  std::string directory_;
  std::string mountpoint_;
  std::string socket_dir_;
  std::unique_ptr<FakeDaemon> daemon_;
  pid_t keeper_ = -1;
};

}  // namespace mlcache::shim::testing
