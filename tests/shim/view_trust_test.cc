// Views whose image, layers or readers are not to be trusted: what is refused, and what nobody gets at.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "tests/shim/view_fixture.h"

namespace mlcache::shim::testing {
namespace {

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
