// A view over a real mount: what applications see while it comes and goes, and what is left of it. The test is the
// keeper here: mlcache-mount serves the FUSE mount, and this process puts views in its place.
#include "shim/view.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>

#include "cached/seal/erofs_image.h"
#include "common/view_layout.h"
#include "shim/mountpoint.h"
#include "shim/view_service.h"
#include "tests/shim/mount_fixture.h"

namespace mlcache::shim::testing {
namespace {

namespace fs = std::filesystem;
using seal::ErofsImage;

std::string Slurp(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

std::string ReadAt(int fd, size_t length) {
  std::string bytes(length, '\0');
  const ssize_t done = ::pread(fd, bytes.data(), length, 0);
  bytes.resize(done < 0 ? 0 : static_cast<size_t>(done));
  return bytes;
}

size_t MountsAt(const std::string& path) {
  size_t count = 0;
  for (const MountedFileSystem& mount : ParseMountInfo(Slurp("/proc/self/mountinfo")))
    count += mount.mountpoint == path ? 1 : 0;
  return count;
}

size_t MountsInAll() { return ParseMountInfo(Slurp("/proc/self/mountinfo")).size(); }

// True if `body` ends within 5 s in a process of its own: a hang must not be the test's.
bool Ends(const std::function<bool()>& body) {
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

TEST_F(ViewTest, AWholeTreeIsShownAndOneUmountEndsAll) {
  StartFuse();
  SealSmall(true);
  EXPECT_EQ(MountsAt(mountpoint_), 1U);
  const auto shown = FindMount(mountpoint_);
  EXPECT_EQ(shown->type, "overlay");
  EXPECT_EQ(shown->source, "mlcache:file:///fake");
  EXPECT_EQ(Slurp(Path("top")), "sealed top");
  EXPECT_EQ(Slurp(Path("sub/s")), "sealed s");
  EXPECT_FALSE(fs::exists(Path("fuse")));
  EXPECT_TRUE(view_->IsShown());
  ExpectTheEnd();
}

TEST_F(ViewTest, WhatIsNotSealedFallsThrough) {
  StartFuse();
  const std::string unsealed = Slurp(Path("fuse/u"));
  SealSmall(false);
  EXPECT_EQ(MountsAt(mountpoint_), 1U);
  EXPECT_EQ(Slurp(Path("sub/s")), "sealed s");
  EXPECT_EQ(Slurp(Path("fuse/u")), unsealed);
  EXPECT_EQ(Slurp(Path("top")).size(), 20U);
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(mountpoint_)) names.insert(entry.path().filename());
  EXPECT_TRUE(names.contains("sub") && names.contains("fuse") && names.contains("top"));
  ExpectTheEnd();
}

// Trap (c): with the server stopped nothing sealed waits, neither for a lookup, a listing nor a read.
TEST_F(ViewTest, NothingSealedWaitsForAStoppedServer) {
  StartFuse();
  for (const bool whole : {true, false}) {
    SealSmall(whole);
    const pid_t stopped = server();
    ASSERT_EQ(::kill(stopped, SIGSTOP), 0);
    ASSERT_TRUE(Eventually([&] { return StateOf(stopped) == 'T'; }));
    EXPECT_TRUE(Ends([&] {
      struct stat info{};
      const bool absent = ::stat(Path("sub/none").c_str(), &info) != 0 && errno == ENOENT;
      size_t count = 0;
      for (const auto& entry : fs::directory_iterator(Path("sub"))) count += entry.is_regular_file() ? 1 : 0;
      return absent && count == 1 && Slurp(Path("sub/s")) == "sealed s" &&
             (!whole || Slurp(Path("top")) == "sealed top");
    })) << (whole ? "whole" : "in part");
    ASSERT_EQ(::kill(stopped, SIGCONT), 0);
    ASSERT_TRUE(view_->Withdraw().has_value());
    view_.reset();
    EXPECT_EQ(Slurp(Path("top")).size(), 20U);
  }
  Unmount();
}

TEST_F(ViewTest, OpenDescriptorsSurviveEachChange) {
  StartFuse();
  const std::string from_fuse = Slurp(Path("top"));
  const UniqueFd before(::open(Path("top").c_str(), O_RDONLY));
  const UniqueFd directory_before(::open(mountpoint_.c_str(), O_RDONLY | O_DIRECTORY));
  SealSmall(true);
  const UniqueFd during(::open(Path("top").c_str(), O_RDONLY));
  EXPECT_EQ(ReadAt(before.get(), 99), from_fuse);
  EXPECT_EQ(ReadAt(during.get(), 99), "sealed top");
  ASSERT_TRUE(view_->Withdraw().has_value());
  view_.reset();
  EXPECT_EQ(Slurp(Path("top")), from_fuse);
  EXPECT_EQ(ReadAt(before.get(), 99), from_fuse);
  EXPECT_EQ(ReadAt(during.get(), 99), "sealed top");
  struct stat info{};
  EXPECT_EQ(::fstatat(directory_before.get(), "sub/s", &info, 0), 0);
  SealSmall(true);
  EXPECT_EQ(ReadAt(before.get(), 99), from_fuse);
  EXPECT_EQ(ReadAt(during.get(), 99), "sealed top");
  ASSERT_TRUE(view_->Withdraw().has_value());
  view_.reset();
}

// Trap (d): however often, there is one mount, the depth does not grow and no reader ever misses the file.
TEST_F(ViewTest, SomethingIsVisibleAtEveryInstant) {
  StartFuse();
  std::atomic<bool> stop = false;
  std::atomic<uint64_t> reads = 0;
  std::atomic<uint64_t> misses = 0;
  std::jthread reader([&] {
    while (!stop) {
      const std::string bytes = Slurp(Path("top"));
      ++reads;
      if (bytes.size() != 20 && bytes != "sealed top") ++misses;
    }
  });
  for (int round = 0; round < 20; ++round) {
    SealSmall(true);
    EXPECT_EQ(MountsAt(mountpoint_), 1U);
    const Status withdrawn = view_->Withdraw();
    ASSERT_TRUE(withdrawn.has_value()) << withdrawn.error();
    view_.reset();
    EXPECT_EQ(MountsAt(mountpoint_), 1U);
    EXPECT_EQ(FindMount(mountpoint_)->type, kFileSystemType);
  }
  stop = true;
  reader.join();
  EXPECT_GT(reads, 20U);
  EXPECT_EQ(misses, 0U) << "of " << reads;
  Unmount();
}

TEST_F(ViewTest, EveryWayOfMountingTheMetadataShowsTheSame) {
  StartFuse();
  const auto listing = [&] {
    std::string text;
    for (const auto& entry : fs::recursive_directory_iterator(mountpoint_)) {
      struct stat info{};
      EXPECT_EQ(::lstat(entry.path().c_str(), &info), 0);
      text += entry.path().lexically_relative(mountpoint_).string() + " " + std::to_string(info.st_mode) + " " +
              std::to_string(info.st_uid) + " " + std::to_string(info.st_gid) + " " +
              std::to_string(S_ISDIR(info.st_mode) ? 0 : info.st_size) + " " + std::to_string(info.st_mtim.tv_sec) +
              "." + std::to_string(info.st_mtim.tv_nsec) + " ";
      if (entry.is_symlink()) text += fs::read_symlink(entry.path()).string();
      if (S_ISREG(info.st_mode)) text += Slurp(entry.path());
      text += '\n';
    }
    return text;
  };
  std::string first;
  for (const auto& [way, stage] :
       {std::pair(MetadataWay::kFile, false), std::pair(MetadataWay::kFile, true), std::pair(MetadataWay::kLoop, false),
        std::pair(MetadataWay::kTmpfs, false), std::pair(MetadataWay::kTmpfs, true)}) {
    ErofsImage image = SmallImage(true);
    const auto deep = image.AddDirectory(
        kTree, "deep", {.permissions = 0711, .uid = 5, .gid = 6, .nlink = 2, .mtime_ns = 1'234'567'890'123}, true);
    image.AddFile(deep, "odd \n name", {.permissions = 0440, .uid = 7, .gid = 8, .size = 3, .mtime_ns = 42},
                  AddObject("odd"));
    image.AddSymlink(deep, "link", {.permissions = 0777, .mtime_ns = 77}, "../top");
    ViewOptions options = Options();
    options.ways = {way};
    options.stage = stage;
    const Status sealed = Seal(PartsOf(image, true), options);
    ASSERT_TRUE(sealed.has_value()) << sealed.error();
    const std::string seen = listing();
    EXPECT_NE(seen.find("sealed top"), std::string::npos);
    if (first.empty()) first = seen;
    EXPECT_EQ(seen, first);
    ASSERT_TRUE(view_->Withdraw().has_value());
    view_.reset();
  }
  Unmount();
}

// A loop device is freed with the mount that used it.
TEST_F(ViewTest, NoLoopDeviceIsLeft) {
  StartFuse();
  const std::string before = RunProgram({"/usr/sbin/losetup", "-n", "-l", "-O", "NAME"}).output;
  ErofsImage image = SmallImage(true);
  ViewOptions options = Options();
  options.ways = {MetadataWay::kLoop};
  ASSERT_TRUE(Seal(PartsOf(image, true), options).has_value());
  EXPECT_NE(RunProgram({"/usr/sbin/losetup", "-n", "-l", "-O", "NAME"}).output, before);
  ExpectTheEnd();
  EXPECT_TRUE(Eventually([&] { return RunProgram({"/usr/sbin/losetup", "-n", "-l", "-O", "NAME"}).output == before; }));
}

// Trap (a): a FUSE layer may not name objects of the data layer, and the data layer is private to the daemon.
TEST_F(ViewTest, OnlyThePrivateDirectoryOfTheDaemonIsShown) {
  StartFuse();
  ErofsImage image = SmallImage(true);
  ViewOptions options = Options();
  options.daemon_uid = 12345;
  const Status foreign = Seal(PartsOf(image, true), options);
  ASSERT_FALSE(foreign.has_value());
  EXPECT_NE(foreign.error().message().find("no file of the daemon's"), std::string::npos) << foreign.error();
  fs::permissions(data_, fs::perms::owner_all | fs::perms::others_read);
  ErofsImage again = SmallImage(true);
  const Status open = Seal(PartsOf(again, true), Options());
  ASSERT_FALSE(open.has_value());
  EXPECT_NE(open.error().message().find("no private directory"), std::string::npos) << open.error();
  fs::permissions(data_, fs::perms::owner_all);
  ViewParts moved = PartsOf(again = SmallImage(true), true);
  moved.layers.front().path = directory_;
  EXPECT_FALSE(Seal(moved, Options()).has_value());
  EXPECT_EQ(FindMount(mountpoint_)->type, kFileSystemType);
  std::array<char, 64> value{};
  EXPECT_LT(::lgetxattr(Path("fuse/u").c_str(), "trusted.overlay.redirect", value.data(), value.size()), 0);
  EXPECT_EQ(errno, ENODATA);
  Unmount();
}

// An object name that the data layer lacks, or one that leads out of it, is an error and nothing else.
TEST_F(ViewTest, ARedirectStaysInTheDataLayer) {
  StartFuse();
  std::ofstream(directory_ + "/secret") << "secret";
  fs::create_symlink(directory_ + "/secret", data_ + std::string("/") + kViewObjects + "/symlink");
  ErofsImage::Node root = 0;
  ErofsImage image = EmptyImage(true, &root);
  image.AddFile(root, "absent", {.size = 6}, std::string("/") + kViewObjects + "/gone");
  image.AddFile(root, "dots", {.size = 6}, std::string("/") + kViewObjects + "/../../secret");
  image.AddFile(root, "link", {.size = 6}, std::string("/") + kViewObjects + "/symlink");
  ASSERT_TRUE(Seal(PartsOf(image, true), Options()).has_value());
  for (const char* name : {"absent", "dots", "link"}) {
    const UniqueFd fd(::open(Path(name).c_str(), O_RDONLY));
    EXPECT_FALSE(fd.valid() && ReadAt(fd.get(), 99) == "secret") << name;
    EXPECT_FALSE(fd.valid()) << name;
  }
  ExpectTheEnd();
}

// Modes decide, as on the FUSE mount, although the object files are the daemon's alone.
TEST_F(ViewTest, ModesAreThoseOfTheImage) {
  StartFuse();
  ErofsImage::Node root = 0;
  ErofsImage image = EmptyImage(true, &root);
  image.AddFile(root, "open", {.permissions = 0444, .size = 4}, AddObject("open"));
  image.AddFile(root, "shut", {.permissions = 0400, .size = 4}, AddObject("shut"));
  image.AddFile(root, "suid", {.permissions = 04755, .size = 4}, AddObject("suid"));
  ASSERT_TRUE(Seal(PartsOf(image, true), Options()).has_value());
  fs::permissions(directory_, fs::perms::owner_all | fs::perms::others_exec | fs::perms::group_exec);
  EXPECT_TRUE(Ends([&] {
    if (::setresgid(65534, 65534, 65534) != 0 || ::setresuid(65534, 65534, 65534) != 0) return false;
    return Slurp(Path("open")) == "open" && ::open(Path("shut").c_str(), O_RDONLY) < 0 && errno == EACCES;
  }));
  EXPECT_LT(::open(Path("open").c_str(), O_WRONLY), 0);
  EXPECT_EQ(errno, EROFS);
  const std::string flags = [&] {
    std::istringstream lines(Slurp("/proc/self/mountinfo"));
    for (std::string line; std::getline(lines, line);)
      if (line.find(" " + mountpoint_ + " ") != std::string::npos) return line;
    return std::string();
  }();
  for (const char* flag : {"ro,", "nosuid", "nodev"}) EXPECT_NE(flags.find(flag), std::string::npos) << flags;
  ExpectTheEnd();
}

TEST_F(ViewTest, FindRsyncExecAndInodeNumbers) {
  StartFuse();
  ErofsImage::Node root = 0;
  ErofsImage image = EmptyImage(true, &root);
  const auto bin = image.AddDirectory(root, "bin", {.permissions = 0755, .nlink = 2}, true);
  const std::string script = "#!/bin/sh\necho ran\n";
  const std::string program = Slurp("/bin/true");
  image.AddFile(bin, "script", {.permissions = 0755, .size = script.size()}, AddObject(script));
  image.AddFile(bin, "program", {.permissions = 0755, .size = program.size()}, AddObject(program));
  for (int i = 0; i < 300; ++i) {
    image.AddFile(root, "f" + std::to_string(i), {.size = 5, .mtime_ns = 1'600'000'000'000'000'000},
                  AddObject("12345"));
  }
  image.AddSymlink(root, "link", {.permissions = 0777}, "bin/script");
  ASSERT_TRUE(Seal(PartsOf(image, true), Options()).has_value());
  EXPECT_EQ(RunProgram({Path("link")}).output, "ran\n");
  EXPECT_EQ(RunProgram({Path("bin/program")}).exit_code, 0);
  const std::string found = RunProgram({"/usr/bin/find", mountpoint_, "-type", "f", "-size", "-5"}).output;
  EXPECT_EQ(std::ranges::count(found, '\n'), 301);  // program is larger
  std::set<ino_t> inodes;
  size_t files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(mountpoint_)) {
    struct stat info{};
    struct stat again{};
    ASSERT_EQ(::lstat(entry.path().c_str(), &info), 0);
    ASSERT_EQ(::lstat(entry.path().c_str(), &again), 0);
    EXPECT_EQ(info.st_ino, again.st_ino);
    EXPECT_EQ(info.st_dev, again.st_dev);
    inodes.insert(info.st_ino);
    ++files;
  }
  EXPECT_EQ(inodes.size(), files);
  if (::access("/usr/bin/rsync", X_OK) == 0) {
    const Finished copied = RunProgram({"/usr/bin/rsync", "-a", mountpoint_ + "/", directory_ + "/copy"});
    EXPECT_EQ(copied.exit_code, 0) << copied.output;
    const Finished again =
        RunProgram({"/usr/bin/rsync", "-a", "--checksum", "--dry-run", "-i", mountpoint_ + "/", directory_ + "/copy"});
    EXPECT_EQ(again.output, "") << again.output;
  }
  ExpectTheEnd();
}

// A process with a mount namespace of its own, stopped at a pipe: what it sees is asked for line by line.
class OtherNamespace {
 public:
  explicit OtherNamespace(unsigned long propagation) {
    std::array<int, 2> to{};
    std::array<int, 2> from{};
    if (::pipe2(to.data(), O_CLOEXEC) != 0 || ::pipe2(from.data(), O_CLOEXEC) != 0) return;
    child_ = ::fork();
    if (child_ == 0) {
      ::close(to[1]);
      ::unshare(CLONE_NEWNS);
      ::mount(nullptr, "/", nullptr, MS_REC | propagation, nullptr);
      [[maybe_unused]] ssize_t done = ::write(from[1], "!", 1);
      std::array<char, 512> path{};
      for (ssize_t length = 0; (length = ::read(to[0], path.data(), path.size())) > 0;) {
        const std::string bytes = Slurp(std::string(path.data(), static_cast<size_t>(length))) + "\n";
        done = ::write(from[1], bytes.data(), bytes.size());
      }
      ::_exit(0);
    }
    ::close(to[0]);
    ::close(from[1]);
    ask_.Reset(to[1]);
    answer_.Reset(from[0]);
    char ready = 0;
    EXPECT_EQ(::read(answer_.get(), &ready, 1), 1);
  }
  ~OtherNamespace() {
    ask_.Reset();
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
  }

  std::string Read(const std::string& path) {
    std::array<char, 512> bytes{};
    if (::write(ask_.get(), path.data(), path.size()) < 0) return "no answer";
    pollfd waiting{answer_.get(), POLLIN, 0};
    if (::poll(&waiting, 1, 5000) != 1) return "no answer";
    const ssize_t length = ::read(answer_.get(), bytes.data(), bytes.size());
    return length > 0 ? std::string(bytes.data(), static_cast<size_t>(length) - 1) : "no answer";
  }

 private:
  pid_t child_ = -1;
  UniqueFd ask_;
  UniqueFd answer_;
};

// Trap (e): namespaces cloned before, while and after; private ones keep what they saw, slaves follow.
TEST_F(ViewTest, NamespacesClonedBeforeDuringAndAfter) {
  ASSERT_EQ(::mount(directory_.c_str(), directory_.c_str(), nullptr, MS_BIND, nullptr), 0);
  ASSERT_EQ(::mount(nullptr, directory_.c_str(), nullptr, MS_SHARED, nullptr), 0);
  StartFuse();
  const std::string from_fuse = Slurp(Path("top"));
  {
    OtherNamespace before_private(MS_PRIVATE);
    OtherNamespace before_slave(MS_SLAVE);
    SealSmall(true);
    OtherNamespace during_private(MS_PRIVATE);
    OtherNamespace during_slave(MS_SLAVE);
    EXPECT_EQ(before_private.Read(Path("top")), from_fuse);
    EXPECT_EQ(before_slave.Read(Path("top")), "sealed top");
    EXPECT_EQ(during_private.Read(Path("top")), "sealed top");
    EXPECT_EQ(during_slave.Read(Path("top")), "sealed top");
    ASSERT_TRUE(view_->Withdraw().has_value());
    view_.reset();
    OtherNamespace after_private(MS_PRIVATE);
    EXPECT_EQ(before_private.Read(Path("top")), from_fuse);
    EXPECT_EQ(before_slave.Read(Path("top")), from_fuse);
    EXPECT_EQ(during_private.Read(Path("sub/s")), "sealed s");
    EXPECT_EQ(during_slave.Read(Path("top")), from_fuse);
    EXPECT_EQ(after_private.Read(Path("top")), from_fuse);
    EXPECT_EQ(MountsAt(mountpoint_), 1U);
    SealSmall(true);
    EXPECT_EQ(before_slave.Read(Path("top")), "sealed top");
    EXPECT_EQ(after_private.Read(Path("top")), from_fuse);
  }
  EXPECT_EQ(Slurp(Path("top")), "sealed top");
  ASSERT_EQ(::umount2(mountpoint_.c_str(), 0), 0);
  view_.reset();
  int status = 0;
  ASSERT_TRUE(Eventually([&] { return ::waitpid(keeper_, &status, WNOHANG) == keeper_; }));
  keeper_ = -1;
  EXPECT_EQ(MountsAt(mountpoint_), 0U);
  ASSERT_EQ(::umount2(directory_.c_str(), MNT_DETACH), 0);
}

TEST_F(ViewTest, AMountOverTheViewIsLeftAlone) {
  StartFuse();
  SealSmall(true);
  ASSERT_EQ(::mount("none", mountpoint_.c_str(), "tmpfs", 0, nullptr), 0);
  const Status withdrawn = view_->Withdraw();
  ASSERT_FALSE(withdrawn.has_value());
  EXPECT_NE(withdrawn.error().message().find("mounted over"), std::string::npos) << withdrawn.error();
  EXPECT_TRUE(view_->IsShown());
  ASSERT_EQ(::umount2(mountpoint_.c_str(), 0), 0);
  EXPECT_EQ(Slurp(Path("top")), "sealed top");
  ExpectTheEnd();
}

// The keeper's death: the sealed files go on, without any process, and one umount is still enough.
TEST_F(ViewTest, SealedFilesOutliveTheWholeMountProgram) {
  StartFuse();
  SealSmall(true);
  view_.reset();  // the clone goes with its holder
  int status = 0;
  ASSERT_TRUE(Eventually([&] { return ::waitpid(keeper_, &status, WNOHANG) == keeper_; }));
  keeper_ = -1;
  EXPECT_EQ(Slurp(Path("top")), "sealed top");
  EXPECT_EQ(MountsAt(mountpoint_), 1U);
  ASSERT_EQ(::umount2(mountpoint_.c_str(), 0), 0);
  EXPECT_EQ(MountsInAll(), before_);
}

// The daemon tells by a lease on the image whether the view's files may go; a tmpfs alone has no image open.
TEST_F(ViewTest, TheImageIsInUseWhileTheKeeperShowsIt) {
  StartFuse();
  auto state = CreateSharedState();
  ASSERT_TRUE(state.has_value());
  for (const MetadataWay way : {MetadataWay::kFile, MetadataWay::kTmpfs}) {
    ViewOptions options = Options();
    options.ways = {way};
    ViewService service(options, device_, "", **state);
    ErofsImage image = SmallImage(true);
    ViewParts parts = PartsOf(image, true);
    const std::string path = directory_ + "/image" + std::to_string(images_);
    const auto in_use = [&] {
      const UniqueFd asked(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
      const bool free = ::fcntl(asked.get(), F_SETLEASE, F_WRLCK) == 0;
      EXPECT_TRUE(free || errno == EAGAIN) << strerror(errno);
      return !free;
    };
    keeper::ShowView wanted;
    wanted.set_view(parts.id);
    wanted.add_layers(data_);
    std::vector<UniqueFd> descriptors;
    descriptors.push_back(std::move(parts.metadata));
    descriptors.push_back(std::move(parts.layers.front().directory));
    ASSERT_TRUE(service.Show(wanted, std::move(descriptors)).has_value());
    ASSERT_TRUE(Eventually([&] {
      service.Progress();
      return service.shown();
    }));
    // The process that mounted it, which has the image open too, is gone.
    for (const pid_t child : ChildrenOf(::getpid())) {
      ASSERT_TRUE(child == keeper_ || Eventually([&] { return ::waitpid(child, nullptr, WNOHANG) != 0; }));
    }
    EXPECT_EQ(Slurp(Path("top")), "sealed top");
    EXPECT_TRUE(in_use());
    ASSERT_TRUE(service.Withdraw().has_value());
    EXPECT_TRUE(Eventually([&] { return !in_use(); }));
  }
  Unmount();
}

// Whatever holds it up, it keeps nothing of the keeper's open: least of all /dev/fuse.
TEST_F(ViewTest, TheProcessThatMountsHasOnlyWhatItNeeds) {
  StartFuse();
  const UniqueFd marker(::memfd_create("marker", 0));
  const pid_t stopped = server();
  ASSERT_EQ(::kill(stopped, SIGSTOP), 0);
  ASSERT_TRUE(Eventually([&] { return StateOf(stopped) == 'T'; }));
  ErofsImage image = SmallImage(false);
  ViewParts parts = PartsOf(image, false);
  auto build = ViewBuild::Start(parts, Options(), device_);
  ASSERT_TRUE(build.has_value());
  pid_t child = -1;
  for (const pid_t pid : ChildrenOf(::getpid())) child = pid == keeper_ ? child : pid;
  ASSERT_GT(child, 0);
  const auto open_files = [&] {
    std::string names;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator("/proc/" + std::to_string(child) + "/fd", error))
      names += fs::read_symlink(entry.path(), error).string() + "\n";
    return names;
  };
  EXPECT_TRUE(Eventually([&] {
    const std::string names = open_files();
    return names.find("/image") != std::string::npos && names.find("marker") == std::string::npos;
  })) << open_files();
  EXPECT_EQ((*build)->Take().has_value(), false) << "it waits for the server";
  ASSERT_EQ(::kill(stopped, SIGCONT), 0);
  pollfd waiting{(*build)->fd(), POLLIN, 0};
  ASSERT_EQ(::poll(&waiting, 1, 10'000), 1);
  {
    const auto mount = (*build)->Take();
    ASSERT_TRUE(mount.has_value());
    EXPECT_TRUE(mount->has_value());
  }
  build->reset();
  ASSERT_TRUE(Eventually([&] { return ::waitpid(child, nullptr, WNOHANG) != 0; }));
  Unmount();
}

// An image that is not one, or is cut off, is refused in words by whatever way it would be mounted.
TEST_F(ViewTest, AnUnsoundImageIsRefused) {
  StartFuse();
  for (const MetadataWay way : {MetadataWay::kFile, MetadataWay::kLoop, MetadataWay::kTmpfs}) {
    ErofsImage image = SmallImage(true);
    const ViewParts parts = PartsOf(image, true);
    ASSERT_EQ(::truncate((directory_ + "/image" + std::to_string(images_)).c_str(), 1100), 0);
    ViewOptions options = Options();
    options.ways = {way};
    const Status sealed = Seal(parts, options);
    ASSERT_FALSE(sealed.has_value());
    EXPECT_NE(sealed.error().message().find("metadata cannot be mounted"), std::string::npos) << sealed.error();
    EXPECT_EQ(FindMount(mountpoint_)->type, kFileSystemType);
  }
  Unmount();
}

// Names cost the kernel memory: an image cannot ask for more of it than goes with its own length.
TEST_F(ViewTest, AnImageWithMoreNamesThanInodesIsRefused) {
  StartFuse();
  ViewOptions options = Options();
  options.ways = {MetadataWay::kTmpfs};
  for (const bool in_itself : {true, false}) {
    ErofsImage::Node root = 0;
    ErofsImage image = EmptyImage(true, &root);
    ErofsImage::Node parent = root;
    for (int depth = 0; depth < 40; ++depth) {
      const auto child = image.AddDirectory(parent, "a", {.permissions = 0755, .nlink = 2}, true);
      image.AddName(parent, "b", in_itself ? parent : child);
      parent = child;
    }
    const Status sealed = Seal(PartsOf(image, true), options);
    ASSERT_FALSE(sealed.has_value());
    EXPECT_NE(sealed.error().message().find("more names than inodes"), std::string::npos) << sealed.error();
  }
  // Many names of one long link.
  ErofsImage::Node root = 0;
  ErofsImage image = EmptyImage(true, &root);
  const auto link = image.AddSymlink(root, "0", {.permissions = 0777}, std::string(3000, 't'));
  for (int i = 1; i < 100; ++i) image.AddName(root, std::to_string(i), link);
  const Status sealed = Seal(PartsOf(image, true), options);
  ASSERT_FALSE(sealed.has_value());
  EXPECT_NE(sealed.error().message().find("more names than inodes"), std::string::npos) << sealed.error();
  Unmount();
}

}  // namespace
}  // namespace mlcache::shim::testing
