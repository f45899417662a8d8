// A view over a real mount. The test is the keeper here: mlcache-mount serves the FUSE mount, and this process puts
// views in its place.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <sstream>
#include <string>

#include "cached/seal/erofs_image.h"
#include "common/view_layout.h"
#include "shim/mountpoint.h"
#include "shim/view.h"
#include "tests/shim/mount_fixture.h"

namespace mlcache::shim::testing {

namespace fs = std::filesystem;
using seal::ErofsImage;

inline std::string Slurp(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

inline std::string ReadAt(int fd, size_t length) {
  std::string bytes(length, '\0');
  const ssize_t done = ::pread(fd, bytes.data(), length, 0);
  bytes.resize(done < 0 ? 0 : static_cast<size_t>(done));
  return bytes;
}

inline size_t MountsAt(const std::string& path) {
  size_t count = 0;
  for (const MountedFileSystem& mount : ParseMountInfo(Slurp("/proc/self/mountinfo")))
    count += mount.mountpoint == path ? 1 : 0;
  return count;
}

inline size_t MountsInAll() { return ParseMountInfo(Slurp("/proc/self/mountinfo")).size(); }

// True if `body` ends within 5 s in a process of its own: a hang must not be the test's.
inline bool Ends(const std::function<bool()>& body) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(body() ? 0 : 1);
  int status = -1;
  const bool ended = Eventually([&] { return ::waitpid(child, &status, WNOHANG) == child; });
  if (!ended) {
    ::kill(child, SIGKILL);
    return false;
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

constexpr ErofsImage::Node kTree = 1;  // of EmptyImage

class ViewTest : public MountTest {
 protected:
  void SetUp() override {
    MountTest::SetUp();
    if (IsSkipped()) return;
    daemon_ = std::make_unique<FakeDaemon>(socket_dir_, FakeDaemonOptions{.entry_timeout_ns = 1'000'000'000'000'000,
                                                                          .attr_timeout_ns = 1'000'000'000'000'000});
    data_ = directory_ + "/data";
    fs::create_directories(data_ + "/" + kViewObjects);
    fs::permissions(data_, fs::perms::owner_all);
    before_ = MountsInAll();
  }

  void TearDown() override {
    view_.reset();
    if (!mountpoint_.empty()) ::umount2(mountpoint_.c_str(), MNT_DETACH);
    if (::testing::Test::HasFatalFailure() || directory_.empty()) {
      MountTest::TearDown();
      return;
    }
    MountTest::TearDown();
    EXPECT_EQ(MountsInAll(), before_);
  }

  static bool IsSkipped() { return ::testing::Test::IsSkipped(); }

  // sub/s and top come from the view, fuse/u from the mount alone. All have bytes that tell from where.
  void StartFuse() {
    const uint64_t sub = daemon_->AddDirectory(1, "sub");
    daemon_->AddFile(sub, "s", 20);
    daemon_->AddFile(1, "top", 20);
    const uint64_t other = daemon_->AddDirectory(1, "fuse");
    daemon_->AddFile(other, "u", 20);
    daemon_->Start();
    Mount({"-o", "allow_other"});
    device_ = FindMount(mountpoint_)->device;
  }

  std::string AddObject(const std::string& bytes) {
    const std::string name = std::string(kViewObjects) + "/object" + std::to_string(++objects_);
    std::ofstream(data_ + "/" + name) << bytes;
    fs::permissions(data_ + "/" + name, fs::perms::owner_read);
    return "/" + name;
  }

  // `root`: of the tree to be shown.
  static ErofsImage EmptyImage(bool opaque, ErofsImage::Node* root) {
    ErofsImage image({.permissions = 0755}, false);
    *root = image.AddDirectory(ErofsImage::kRoot, kViewTree, {.permissions = 0755, .nlink = 2}, opaque);
    const auto fence = image.AddDirectory(ErofsImage::kRoot, kViewFence, {.permissions = 0755}, false);
    image.AddWhiteout(fence, kViewObjects);
    return image;
  }

  ErofsImage SmallImage(bool whole) {
    ErofsImage::Node root = 0;
    ErofsImage image = EmptyImage(whole, &root);
    const auto sub = image.AddDirectory(root, "sub", {.permissions = 0755, .nlink = 2}, true);
    image.AddFile(sub, "s", {.size = 8}, AddObject("sealed s"));
    if (whole) image.AddFile(root, "top", {.size = 10}, AddObject("sealed top"));
    return image;
  }

  ViewParts PartsOf(ErofsImage& image, bool whole) {
    const std::string path = directory_ + "/image" + std::to_string(++images_);
    const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    EXPECT_TRUE(image.Write(fd.get()).has_value());
    ViewParts parts;
    parts.id = images_;
    parts.metadata.Reset(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    parts.layers.push_back({UniqueFd(::open(data_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)), data_});
    parts.over_mount = !whole;
    return parts;
  }

  ViewOptions Options() { return {.mountpoint = mountpoint_, .source = "mlcache:file:///fake", .daemon_uid = 0}; }

  Status Seal(const ViewParts& parts, const ViewOptions& options) {
    MLCACHE_ASSIGN_OR_RETURN(const auto build, ViewBuild::Start(parts, options, device_));
    pollfd waiting{build->fd(), POLLIN, 0};
    ::poll(&waiting, 1, 10'000);
    std::optional<Result<UniqueFd>> mount = build->Take();
    if (!mount.has_value()) return Fail(Code::kDeadlineExceeded, "no view within 10 s");
    if (!mount->has_value()) return std::unexpected(mount->error());
    MLCACHE_ASSIGN_OR_RETURN(UniqueFd fuse, FuseRoot(mountpoint_, device_));
    MLCACHE_ASSIGN_OR_RETURN(view_, SealedView::Show(parts.id, std::move(**mount), std::move(fuse), mountpoint_));
    return {};
  }

  void SealSmall(bool whole) {
    ErofsImage image = SmallImage(whole);
    const Status sealed = Seal(PartsOf(image, whole), Options());
    ASSERT_TRUE(sealed.has_value()) << sealed.error();
  }

  // The keeper's part once a user has unmounted; everything has to end then.
  void ExpectTheEnd() {
    ASSERT_EQ(::umount2(mountpoint_.c_str(), 0), 0) << strerror(errno);
    EXPECT_FALSE(view_ != nullptr && view_->IsShown());
    view_.reset();
    int status = 0;
    ASSERT_TRUE(Eventually([&] { return ::waitpid(keeper_, &status, WNOHANG) == keeper_; }));
    keeper_ = -1;
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    EXPECT_EQ(MountsAt(mountpoint_), 0U);
    EXPECT_EQ(MountsInAll(), before_);
  }

  std::unique_ptr<SealedView> view_;
  std::string device_;
  std::string data_;
  size_t before_ = 0;
  uint64_t images_ = 0;
  int objects_ = 0;
};

}  // namespace mlcache::shim::testing
