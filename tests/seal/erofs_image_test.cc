// The image is judged by the kernel: mounted as a file system, its tree is compared with what was asked for.
#include "cached/seal/erofs_image.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <random>
#include <set>

#include "common/unique_fd.h"

namespace mlcache::seal {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kTiB = uint64_t{1} << 40;

class ErofsImageTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (::geteuid() != 0) return;
    ASSERT_EQ(::unshare(CLONE_NEWNS), 0);
    ASSERT_EQ(::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0);
  }

  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "mounting needs root";
    std::string made = fs::temp_directory_path() / "mlcache-erofs-XXXXXX";
    ASSERT_NE(::mkdtemp(made.data()), nullptr);
    directory_ = made;
    fs::create_directory(directory_ + "/mnt");
  }

  void TearDown() override {
    if (directory_.empty()) return;
    if (mounted_) {
      EXPECT_EQ(::umount2((directory_ + "/mnt").c_str(), 0), 0);
    }
    fs::remove_all(directory_);
  }

  // Writes and mounts; skipped where the kernel cannot mount an image from a file.
  void Mount(ErofsImage& image) {
    const std::string path = directory_ + "/image";
    const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    const auto written = image.Write(fd.get());
    ASSERT_TRUE(written.has_value()) << written.error();
    bytes_ = *written;
    ASSERT_EQ(fs::file_size(path), bytes_);
    if (::mount(path.c_str(), (directory_ + "/mnt").c_str(), "erofs", MS_RDONLY, nullptr) != 0) {
      if (errno == ENODEV || errno == ENOTBLK) GTEST_SKIP() << "this kernel mounts no EROFS image from a file";
      FAIL() << "mount: " << strerror(errno);
    }
    mounted_ = true;
  }

  std::string Path(const std::string& relative) const { return directory_ + "/mnt/" + relative; }

  struct stat StatOf(const std::string& relative) const {
    struct stat info{};
    EXPECT_EQ(::lstat(Path(relative).c_str(), &info), 0) << relative << ": " << strerror(errno);
    return info;
  }

  std::string Xattr(const std::string& relative, const char* name) const {
    std::array<char, 256> value{};
    const ssize_t length = ::lgetxattr(Path(relative).c_str(), name, value.data(), value.size());
    return length < 0 ? "none" : std::string(value.data(), static_cast<size_t>(length));
  }

  std::set<std::string> NamesIn(const std::string& relative) const {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(Path(relative))) names.insert(entry.path().filename());
    return names;
  }

  std::string directory_;
  uint64_t bytes_ = 0;
  bool mounted_ = false;
};

TEST_F(ErofsImageTest, AttributesAreThoseAskedFor) {
  ErofsImage image({.permissions = 0751, .uid = 7, .gid = 8, .nlink = 3, .mtime_ns = 1'700'000'000'123'456'789}, true);
  const auto dir = image.AddDirectory(ErofsImage::kRoot, "sub",
                                      {.permissions = 0500, .uid = 70000, .gid = 0xfffffffd, .nlink = 2}, false);
  image.AddFile(dir, "f",
                {.permissions = 0640, .uid = 12, .gid = 13, .nlink = 2, .size = 12345, .mtime_ns = -1'500'000'000},
                "/0123456789abcdef0123456789abcdef");
  image.AddSymlink(ErofsImage::kRoot, "link", {.permissions = 0777, .mtime_ns = 5'000'000'006}, "sub/f");
  Mount(image);
  const struct stat root = StatOf(".");
  EXPECT_EQ(root.st_mode, S_IFDIR | 0751U);
  EXPECT_EQ(root.st_uid, 7U);
  EXPECT_EQ(root.st_gid, 8U);
  EXPECT_EQ(root.st_nlink, 3U);
  EXPECT_EQ(root.st_mtim.tv_sec, 1'700'000'000);
  EXPECT_EQ(root.st_mtim.tv_nsec, 123'456'789);
  const struct stat sub = StatOf("sub");
  EXPECT_EQ(sub.st_mode, S_IFDIR | 0500U);
  EXPECT_EQ(sub.st_uid, 70000U);
  EXPECT_EQ(sub.st_gid, 0xfffffffdU);
  const struct stat file = StatOf("sub/f");
  EXPECT_EQ(file.st_mode, S_IFREG | 0640U);
  EXPECT_EQ(file.st_size, 12345);
  EXPECT_EQ(file.st_nlink, 2U);
  EXPECT_EQ(file.st_mtim.tv_sec, -2);
  EXPECT_EQ(file.st_mtim.tv_nsec, 500'000'000);
  EXPECT_EQ(StatOf("link").st_mode, S_IFLNK | 0777U);
  EXPECT_EQ(fs::read_symlink(Path("link")), "sub/f");
  EXPECT_EQ(Xattr("sub/f", "trusted.overlay.metacopy"), "");
  EXPECT_EQ(Xattr("sub/f", "trusted.overlay.redirect"), "/0123456789abcdef0123456789abcdef");
  EXPECT_EQ(Xattr(".", "trusted.overlay.opaque"), "y");
  EXPECT_EQ(Xattr("sub", "trusted.overlay.opaque"), "none");
}

TEST_F(ErofsImageTest, FilesOfAnySizeAreHolesThatTakeNoSpace) {
  ErofsImage image({.permissions = 0755}, true);
  const std::vector<uint64_t> sizes = {
      0, 1, 4095, 4096, 4097, 1 << 20, 1 << 30, 5ULL << 30, kTiB - 1, kTiB, 7 * kTiB + 12345};
  for (size_t i = 0; i < sizes.size(); ++i) {
    image.AddFile(ErofsImage::kRoot, "f" + std::to_string(i), {.size = sizes[i]}, "/x");
  }
  Mount(image);
  for (size_t i = 0; i < sizes.size(); ++i) {
    const std::string name = "f" + std::to_string(i);
    EXPECT_EQ(static_cast<uint64_t>(StatOf(name).st_size), sizes[i]);
    if (sizes[i] == 0) continue;
    const UniqueFd fd(::open(Path(name).c_str(), O_RDONLY));
    char byte = 'x';
    EXPECT_EQ(::pread(fd.get(), &byte, 1, static_cast<off_t>(sizes[i] - 1)), 1) << sizes[i] << strerror(errno);
    EXPECT_EQ(byte, '\0');
    EXPECT_EQ(::pread(fd.get(), &byte, 1, static_cast<off_t>(sizes[i])), 0);
  }
  EXPECT_LE(bytes_, 8192U);
}

TEST_F(ErofsImageTest, OddNamesAreFound) {
  ErofsImage image({.permissions = 0755}, true);
  const std::vector<std::string> names = {"-",
                                          "!",
                                          "...",
                                          "..a",
                                          ".hidden",
                                          " space ",
                                          "tab\t",
                                          "nl\n",
                                          "\x01",
                                          "\xff\xfe",
                                          "a",
                                          "a.",
                                          "aa",
                                          "A",
                                          "caf\xc3\xa9",
                                          "\\",
                                          "\"q\"",
                                          "100%",
                                          std::string(255, 'n'),
                                          std::string(255, '\xf0')};
  for (const std::string& name : names) image.AddFile(ErofsImage::kRoot, name, {.size = name.size()}, "/x");
  Mount(image);
  EXPECT_EQ(NamesIn("."), std::set<std::string>(names.begin(), names.end()));
  for (const std::string& name : names) EXPECT_EQ(static_cast<size_t>(StatOf(name).st_size), name.size());
  struct stat info{};
  EXPECT_NE(::lstat(Path("b").c_str(), &info), 0);
  EXPECT_EQ(errno, ENOENT);
}

TEST_F(ErofsImageTest, LinksOfEveryLengthAndHardLinks) {
  ErofsImage image({.permissions = 0755}, true);
  const std::vector<size_t> lengths = {1, 59, 60, 255, 1000, 4000, 4031, 4032, 4033, 4095};
  for (const size_t length : lengths) {
    image.AddSymlink(ErofsImage::kRoot, "l" + std::to_string(length), {}, std::string(length, 't'));
  }
  const auto file = image.AddFile(ErofsImage::kRoot, "one", {.nlink = 2, .size = 9}, "/x");
  const auto dir = image.AddDirectory(ErofsImage::kRoot, "dir", {.permissions = 0755, .nlink = 2}, true);
  image.AddName(dir, "two", file);
  Mount(image);
  for (const size_t length : lengths) {
    EXPECT_EQ(fs::read_symlink(Path("l" + std::to_string(length))).string(), std::string(length, 't')) << length;
  }
  EXPECT_EQ(StatOf("one").st_ino, StatOf("dir/two").st_ino);
  EXPECT_EQ(StatOf("one").st_nlink, 2U);
  EXPECT_EQ(StatOf("dir/..").st_ino, StatOf(".").st_ino);
  EXPECT_EQ(StatOf("dir/.").st_ino, StatOf("dir").st_ino);
}

// Directories of every size around the borders of blocks, each name looked up and listed.
TEST_F(ErofsImageTest, DirectoriesOfManySizes) {
  std::mt19937 random(42);
  ErofsImage image({.permissions = 0755}, true);
  std::map<std::string, std::set<std::string>> wanted;
  for (size_t count = 0; count < 700; count += count < 12 ? 1 : 37) {
    const std::string name = "d" + std::to_string(count);
    const auto dir = image.AddDirectory(ErofsImage::kRoot, name, {.permissions = 0755, .nlink = 2}, false);
    while (wanted[name].size() < count) {
      std::string child(1 + random() % 200, 'x');
      for (char& letter : child) letter = static_cast<char>('!' + random() % 90);
      std::ranges::replace(child, '/', '_');
      if (child == "." || child == ".." || !wanted[name].insert(child).second) continue;
      image.AddFile(dir, child, {.size = child.size()}, "/x");
    }
  }
  Mount(image);
  for (const auto& [directory, names] : wanted) {
    EXPECT_EQ(NamesIn(directory), names) << directory;
    for (const std::string& name : names) {
      std::string path = directory;
      path.append("/").append(name);
      EXPECT_EQ(static_cast<size_t>(StatOf(path).st_size), name.size());
    }
  }
}

TEST_F(ErofsImageTest, AHundredThousandFilesTakeLessThan512BytesEach) {
  constexpr uint64_t kFiles = 100'000;
  ErofsImage image({.permissions = 0755}, true);
  const auto flat = image.AddDirectory(ErofsImage::kRoot, "flat", {.permissions = 0755}, true);
  const auto deep = image.AddDirectory(ErofsImage::kRoot, "deep", {.permissions = 0755}, true);
  const std::string redirect = "/.mlcache-objects/" + std::string(32, 'a');
  ErofsImage::Node directory = deep;
  for (uint64_t i = 0; i < kFiles; ++i) {
    if (i % 2 == 0) {
      image.AddFile(flat, "sample-" + std::to_string(i) + ".jpeg", {.size = i}, redirect);
    } else {
      // Five files a directory.
      if (i % 10 == 1) directory = image.AddDirectory(deep, "n" + std::to_string(i), {.permissions = 0755}, true);
      image.AddFile(directory, "f" + std::to_string(i), {.size = i}, redirect);
    }
  }
  Mount(image);
  RecordProperty("bytes_a_file", std::to_string(bytes_ / kFiles));
  EXPECT_LT(bytes_, kFiles * 512);
  EXPECT_EQ(NamesIn("flat").size(), kFiles / 2);
  EXPECT_EQ(NamesIn("deep").size(), kFiles / 10);
  for (uint64_t i = 0; i < kFiles; i += 997) {
    const std::string name = i % 2 == 0 ? "flat/sample-" + std::to_string(i) + ".jpeg"
                                        : "deep/n" + std::to_string(i / 10 * 10 + 1) + "/f" + std::to_string(i);
    EXPECT_EQ(static_cast<uint64_t>(StatOf(name).st_size), i) << name;
  }
}

}  // namespace
}  // namespace mlcache::seal
