// What applications see of a view while it comes and goes, and what is left of it.
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>

#include "shim/view_service.h"
#include "tests/shim/view_fixture.h"

namespace mlcache::shim::testing {
namespace {

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

}  // namespace
}  // namespace mlcache::shim::testing
