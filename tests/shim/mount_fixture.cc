#include "tests/shim/mount_fixture.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "common/unique_fd.h"
#include "shim/mountpoint.h"

namespace mlcache::shim::testing {
namespace {

pid_t Launch(const std::vector<std::string>& arguments, int output) {
  std::vector<char*> argv;
  argv.reserve(arguments.size() + 1);
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    if (output >= 0) {
      ::dup2(output, STDOUT_FILENO);
      ::dup2(output, STDERR_FILENO);
    }
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  return child;
}

}  // namespace

bool Eventually(const std::function<bool()>& condition, std::chrono::milliseconds timeout) {
  const auto give_up = std::chrono::steady_clock::now() + timeout;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > give_up) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

Finished RunProgram(const std::vector<std::string>& arguments) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return {};
  const UniqueFd from(ends[0]);
  UniqueFd to(ends[1]);
  const pid_t child = Launch(arguments, to.get());
  to.Reset();
  Finished finished;
  // To its end, as a shell's $(…) would: a process left in the background must not hold it open.
  std::array<char, 4096> text{};
  for (ssize_t length = 0; (length = ::read(from.get(), text.data(), text.size())) > 0;) {
    finished.output.append(text.data(), static_cast<size_t>(length));
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  if (WIFEXITED(status)) finished.exit_code = WEXITSTATUS(status);
  return finished;
}

std::vector<pid_t> ChildrenOf(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/task/" + std::to_string(pid) + "/children");
  std::vector<pid_t> children;
  for (pid_t child = 0; file >> child;) children.push_back(child);
  return children;
}

char StateOf(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  return std::getline(file, text) ? text[text.rfind(')') + 2] : 'X';
}

bool IsMountpoint(const std::string& path) { return FindMount(path).has_value(); }

void MountTest::SetUpTestSuite() {
  if (::geteuid() != 0 || ::access("/dev/fuse", F_OK) != 0) return;
  ASSERT_EQ(::unshare(CLONE_NEWNS), 0);
  ASSERT_EQ(::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0);
}

void MountTest::SetUp() {
  if (::access("/dev/fuse", F_OK) != 0) GTEST_SKIP() << "no /dev/fuse on this machine";
  ASSERT_EQ(::geteuid(), 0U) << "mounting in a private namespace needs root";
  std::string made = std::filesystem::temp_directory_path() / "mlcache-shim-XXXXXX";
  ASSERT_NE(::mkdtemp(made.data()), nullptr);
  directory_ = made;
  mountpoint_ = directory_ + "/mnt";
  socket_dir_ = directory_ + "/run";
  std::filesystem::create_directory(mountpoint_);
  std::filesystem::create_directory(socket_dir_);
  daemon_ = std::make_unique<FakeDaemon>(socket_dir_);
}

void MountTest::TearDown() {
  if (keeper_ > 0) {
    ::umount2(mountpoint_.c_str(), MNT_DETACH);
    ::kill(keeper_, SIGKILL);  // takes the server along, which ends the connection
    ::waitpid(keeper_, nullptr, 0);
  }
  if (directory_.empty()) return;
  ::umount2(mountpoint_.c_str(), MNT_DETACH);
  daemon_.reset();
  std::filesystem::remove_all(directory_);
}

void MountTest::Mount(const std::vector<std::string>& more, const std::string& program) {
  std::vector<std::string> arguments = {program, "file:///fake", mountpoint_, "--socket_dir=" + socket_dir_,
                                        "--foreground"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  keeper_ = Launch(arguments, -1);
  ASSERT_TRUE(Eventually([&] { return !IsAlive(keeper_) || IsMountpoint(mountpoint_); }));
  struct stat attributes{};
  ASSERT_EQ(::stat(mountpoint_.c_str(), &attributes), 0) << "the mount does not answer";
  ASSERT_TRUE(IsMountpoint(mountpoint_));
}

void MountTest::Unmount() {
  ASSERT_EQ(::umount2(mountpoint_.c_str(), 0), 0);
  int status = 0;
  ASSERT_TRUE(Eventually([&] { return ::waitpid(keeper_, &status, WNOHANG) == keeper_; }));
  keeper_ = -1;
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

pid_t MountTest::server() const {
  const std::vector<pid_t> children = ChildrenOf(keeper_);
  return children.empty() ? -1 : children.front();
}

}  // namespace mlcache::shim::testing
