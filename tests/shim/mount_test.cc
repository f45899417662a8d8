// What applications see through a real mount.
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <fstream>
#include <random>
#include <set>
#include <sstream>
#include <thread>

#include "common/ring/wire.h"
#include "common/unique_fd.h"
#include "shim/mountpoint.h"
#include "tests/shim/mount_fixture.h"

namespace mlcache::shim::testing {
namespace {

std::string Slurp(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

void ExpectPattern(const unsigned char* bytes, size_t length, uint64_t node, uint64_t offset) {
  for (size_t i = 0; i < length; ++i) ASSERT_EQ(bytes[i], PatternByte(node, offset + i)) << "at " << offset + i;
}

TEST_F(MountTest, EveryByteOfEverySize) {
  std::map<uint64_t, uint64_t> sizes;
  for (const uint64_t size : {0, 1, 4095, 4096, 65535, 65537, 1048575, 1048577, 3000001}) {
    sizes[daemon_->AddFile(1, "f" + std::to_string(size), size)] = size;
  }
  daemon_->Start();
  Mount();
  for (const auto& [node, size] : sizes) {
    const std::string bytes = Slurp(Path("f" + std::to_string(size)));
    ASSERT_EQ(bytes.size(), size);
    ExpectPattern(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), node, 0);
  }
  EXPECT_TRUE(Eventually([&] { return daemon_->SlotsInUse() == 0; })) << daemon_->SlotsInUse();
  Unmount();
}

TEST_F(MountTest, RandomReadsDirectReadsAndMappings) {
  constexpr uint64_t kSize = 5'000'000;
  const uint64_t node = daemon_->AddFile(1, "big", kSize);
  daemon_->Start();
  Mount();
  constexpr unsigned kSeed = 20261;
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  std::mt19937 random(kSeed);
  const UniqueFd direct(::open(Path("big").c_str(), O_RDONLY | O_DIRECT));
  const UniqueFd plain(::open(Path("big").c_str(), O_RDONLY));
  ASSERT_TRUE(direct.valid() && plain.valid());
  void* const aligned = std::aligned_alloc(4096, 1 << 20);
  for (int i = 0; i < 50; ++i) {
    const uint64_t page = random() % (kSize / 4096);
    const ssize_t got = ::pread(direct.get(), aligned, 65536, static_cast<off_t>(page * 4096));
    ASSERT_EQ(got, std::min<ssize_t>(65536, static_cast<ssize_t>(kSize - page * 4096)));
    ExpectPattern(static_cast<unsigned char*>(aligned), static_cast<size_t>(got), node, page * 4096);
    std::array<unsigned char, 1000> few{};
    const uint64_t at = random() % (kSize - few.size());
    ASSERT_EQ(::pread(plain.get(), few.data(), few.size(), static_cast<off_t>(at)), 1000);
    ExpectPattern(few.data(), few.size(), node, at);
  }
  std::free(aligned);
  auto* const mapped = static_cast<unsigned char*>(::mmap(nullptr, kSize, PROT_READ, MAP_SHARED, plain.get(), 0));
  ASSERT_NE(mapped, MAP_FAILED);
  ExpectPattern(mapped, kSize, node, 0);
  ::munmap(mapped, kSize);
}

TEST_F(MountTest, WarmReadsAskNothing) {
  daemon_->AddFile(1, "warm", 200'000);
  daemon_->Start();
  Mount({"-o", "immutable"});
  const std::string first = Slurp(Path("warm"));
  const uint64_t reads = daemon_->Count(ring::Op::kRead);
  EXPECT_GT(reads, 0U);
  EXPECT_EQ(Slurp(Path("warm")), first);
  EXPECT_EQ(daemon_->Count(ring::Op::kRead), reads);
}

TEST_F(MountTest, ReadaheadIsAtLeastOneMebibyte) {
  daemon_->AddFile(1, "big", 64 << 20);
  daemon_->Start();
  Mount();
  const auto mount = FindMount(mountpoint_);
  ASSERT_TRUE(mount.has_value());
  EXPECT_EQ(Slurp("/sys/class/bdi/" + mount->device + "/read_ahead_kb"), "1024\n");
  EXPECT_EQ(mount->source, "file:///fake");
  EXPECT_EQ(mount->type, "fuse.mlcache");
  Slurp(Path("big"));
  // In requests of 1 MiB, but for the first few while the window grows.
  EXPECT_LT(daemon_->Count(ring::Op::kRead), 80U);
}

TEST_F(MountTest, ListsManyAndSeeks) {
  constexpr int kFiles = 5000;
  const uint64_t directory = daemon_->AddDirectory(1, "many");
  std::set<std::string> expected = {".", ".."};
  for (int i = 0; i < kFiles; ++i) {
    expected.insert("file" + std::to_string(i));
    daemon_->AddFile(directory, "file" + std::to_string(i), 10);
  }
  daemon_->Start();
  Mount();
  DIR* const listing = ::opendir(Path("many").c_str());
  ASSERT_NE(listing, nullptr);
  std::vector<std::pair<long, std::string>> places;
  std::set<std::string> seen;
  for (long place = ::telldir(listing); const dirent* entry = ::readdir(listing); place = ::telldir(listing)) {
    places.emplace_back(place, entry->d_name);
    EXPECT_TRUE(seen.insert(entry->d_name).second) << entry->d_name << " twice";
  }
  EXPECT_EQ(seen, expected);
  for (const size_t i : {size_t{4000}, size_t{17}, size_t{0}, size_t{2}, places.size() - 1}) {
    ::seekdir(listing, places[i].first);
    const dirent* const entry = ::readdir(listing);
    ASSERT_NE(entry, nullptr);
    EXPECT_EQ(entry->d_name, places[i].second);
  }
  ::closedir(listing);
}

TEST_F(MountTest, OddNames) {
  const std::vector<std::string> names = {"with space",          "new\nline", "späß-名前-🙂",
                                          std::string(255, 'x'), "-o",        "a,b\\c"};
  std::map<std::string, uint64_t> nodes;
  for (const std::string& name : names) nodes[name] = daemon_->AddFile(1, name, 100);
  daemon_->Start();
  Mount();
  for (const std::string& name : names) {
    const std::string bytes = Slurp(Path(name));
    ASSERT_EQ(bytes.size(), 100U) << name;
    ExpectPattern(reinterpret_cast<const unsigned char*>(bytes.data()), 100, nodes[name], 0);
  }
  struct stat attributes{};
  EXPECT_EQ(::stat(Path(std::string(256, 'x')).c_str(), &attributes), -1);
  EXPECT_EQ(errno, ENAMETOOLONG);
}

TEST_F(MountTest, AbsentNamesAreRemembered) {
  daemon_.reset();
  daemon_ = std::make_unique<FakeDaemon>(socket_dir_, FakeDaemonOptions{.entry_timeout_ns = 3600'000'000'000});
  daemon_->Start();
  Mount();
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(::access(Path("absent").c_str(), F_OK), -1);
    EXPECT_EQ(errno, ENOENT);
  }
  EXPECT_EQ(daemon_->Count(ring::Op::kLookup), 1U);
  // Until the daemon says otherwise.
  ring::Notification notification{.notice = ring::Notice::kInvalidateEntry, .name_length = 6, .node = 1};
  std::ranges::copy(std::string("absent"), notification.name.begin());
  daemon_->Notify(notification);
  EXPECT_TRUE(Eventually([&] {
    EXPECT_EQ(::access(Path("absent").c_str(), F_OK), -1);
    return daemon_->Count(ring::Op::kLookup) == 2;
  }));
}

TEST_F(MountTest, NotificationWaitsForItsDirectory) {
  daemon_->AddFile(1, "slow", 10);
  daemon_->AddFile(1, "other", 10);
  daemon_->Start();
  Mount();
  daemon_->Hold([](const ring::Submission& one) { return one.op == ring::Op::kLookup; });
  std::thread waiting([&] { EXPECT_EQ(::access(Path("slow").c_str(), F_OK), 0); });
  ASSERT_TRUE(Eventually([&] { return daemon_->held() == 1; }));
  ring::Notification notification{.notice = ring::Notice::kInvalidateEntry, .name_length = 5, .node = 1};
  std::ranges::copy(std::string("other"), notification.name.begin());
  daemon_->Notify(notification);
  // The server must still be able to do everything, and to die.
  struct statvfs space{};
  EXPECT_EQ(::statvfs(mountpoint_.c_str(), &space), 0);
  const pid_t first = server();
  ::kill(first, SIGKILL);
  EXPECT_TRUE(Eventually([&] { return server() > 0 && server() != first; }));
  ASSERT_TRUE(Eventually([&] { return daemon_->held() == 1; }));
  daemon_->Release();
  waiting.join();
}

TEST_F(MountTest, WritesNothing) {
  daemon_->AddFile(1, "file", 10);
  daemon_->AddDirectory(1, "dir");
  daemon_->Start();
  Mount();
  const auto expect_refused = [&] {
    EXPECT_EQ(::open(Path("file").c_str(), O_WRONLY), -1);
    EXPECT_EQ(errno, EROFS);
    EXPECT_EQ(::open(Path("new").c_str(), O_CREAT | O_WRONLY, 0600), -1);
    EXPECT_EQ(errno, EROFS);
    EXPECT_EQ(::mkdir(Path("newdir").c_str(), 0700), -1);
    EXPECT_EQ(errno, EROFS);
    EXPECT_EQ(::unlink(Path("file").c_str()), -1);
    EXPECT_EQ(errno, EROFS);
    EXPECT_EQ(::rename(Path("file").c_str(), Path("moved").c_str()), -1);
    EXPECT_EQ(errno, EROFS);
    EXPECT_EQ(::truncate(Path("file").c_str(), 0), -1);
    EXPECT_EQ(errno, EROFS);
    EXPECT_EQ(::chmod(Path("file").c_str(), 0600), -1);
    EXPECT_EQ(errno, EROFS);
  };
  expect_refused();
}

TEST_F(MountTest, AttributesLinksSpaceAndXattrs) {
  const uint64_t file = daemon_->AddFile(1, "file", 1234);
  daemon_->AddLink(1, "link", "some/where");
  daemon_->Start();
  Mount();
  struct stat attributes{};
  ASSERT_EQ(::stat(Path("file").c_str(), &attributes), 0);
  EXPECT_EQ(attributes.st_size, 1234);
  EXPECT_EQ(attributes.st_ino, file + 1'000'000);
  EXPECT_EQ(attributes.st_mode, static_cast<mode_t>(S_IFREG | 0644));
  EXPECT_EQ(attributes.st_blocks, 3);
  EXPECT_EQ(attributes.st_mtim.tv_sec, 1'600'000'000);
  EXPECT_EQ(attributes.st_mtim.tv_nsec, 123'456'789);
  std::array<char, 64> target{};
  EXPECT_EQ(::readlink(Path("link").c_str(), target.data(), target.size()), 10);
  EXPECT_STREQ(target.data(), "some/where");
  struct statvfs space{};
  ASSERT_EQ(::statvfs(mountpoint_.c_str(), &space), 0);
  EXPECT_EQ(space.f_blocks, 1000U);
  EXPECT_EQ(space.f_bavail, 400U);
  EXPECT_TRUE((space.f_flag & ST_NOSUID) != 0 && (space.f_flag & ST_NODEV) != 0 && (space.f_flag & ST_RDONLY) != 0);
  std::array<char, 64> value{};
  EXPECT_EQ(::getxattr(Path("file").c_str(), "user.mlcache.version", value.data(), value.size()), 6);
  EXPECT_STREQ(value.data(), "etag-7");
  EXPECT_EQ(::getxattr(Path("file").c_str(), "user.mlcache.version", nullptr, 0), 6);
  EXPECT_EQ(::getxattr(Path("file").c_str(), "user.mlcache.version", value.data(), 3), -1);
  EXPECT_EQ(errno, ERANGE);
  EXPECT_EQ(::listxattr(Path("file").c_str(), value.data(), value.size()), 21);
  const uint64_t asked = daemon_->Count(ring::Op::kGetXattr);
  for (const char* name : {"trusted.overlay.redirect", "security.capability", "user.other"}) {
    EXPECT_EQ(::getxattr(Path("file").c_str(), name, value.data(), value.size()), -1);
    EXPECT_EQ(errno, ENODATA) << name;
  }
  EXPECT_EQ(daemon_->Count(ring::Op::kGetXattr), asked);
}

TEST_F(MountTest, ControlFiles) {
  daemon_->AddFile(1, "file", 10);
  daemon_->AddDirectory(1, ".mlcache");  // hidden by ours
  daemon_->Start();
  Mount();
  EXPECT_EQ(Slurp(Path(".mlcache/stats")), "reads 0\n");
  Slurp(Path("file"));
  EXPECT_EQ(Slurp(Path(".mlcache/stats")), "reads 1\n");
  // One text for one open, whatever happens meanwhile.
  const UniqueFd stats(::open(Path(".mlcache/stats").c_str(), O_RDONLY));
  std::array<char, 64> part{};
  EXPECT_EQ(::read(stats.get(), part.data(), 6), 6);
  EXPECT_EQ(::read(stats.get(), part.data(), 64), 2);
  EXPECT_EQ(::read(stats.get(), part.data(), 64), 0);
  const auto list = [](const std::string& path) {
    std::set<std::string> names;
    DIR* const listing = ::opendir(path.c_str());
    if (listing == nullptr) return names;
    while (const dirent* entry = ::readdir(listing)) names.insert(entry->d_name);
    ::closedir(listing);
    return names;
  };
  EXPECT_EQ(list(mountpoint_), (std::set<std::string>{".", "..", "file"}));
  EXPECT_EQ(list(Path(".mlcache")), (std::set<std::string>{".", "..", "stats"}));
  EXPECT_EQ(::access(Path(".mlcache/nothing").c_str(), F_OK), -1);
  EXPECT_EQ(errno, ENOENT);
  EXPECT_EQ(::open(Path(".mlcache/stats").c_str(), O_WRONLY), -1);
}

class InterruptTest : public MountTest, public ::testing::WithParamInterface<ring::Op> {};

TEST_P(InterruptTest, AKilledReaderEndsAtOnce) {
  daemon_->AddFile(1, "file", 100'000);
  daemon_->Start();
  Mount();
  daemon_->Hold([](const ring::Submission& one) { return one.op == GetParam(); });
  const pid_t reader = ::fork();
  if (reader == 0) {
    std::array<char, 100> buffer{};
    const int file = ::open(Path("file").c_str(), O_RDONLY);
    ::_exit(::read(file, buffer.data(), buffer.size()) == 100 ? 0 : 1);
  }
  ASSERT_TRUE(Eventually([&] { return daemon_->held() > 0; }));
  ::kill(reader, SIGKILL);
  int status = 0;
  EXPECT_TRUE(
      Eventually([&] { return ::waitpid(reader, &status, WNOHANG) == reader; }, std::chrono::milliseconds(1000)));
  daemon_->Release();
  EXPECT_TRUE(Eventually([&] { return daemon_->SlotsInUse() == 0; }));
  EXPECT_EQ(Slurp(Path("file")).size(), 100'000U);
}

INSTANTIATE_TEST_SUITE_P(Ops, InterruptTest, ::testing::Values(ring::Op::kRead, ring::Op::kOpen, ring::Op::kLookup));

TEST_F(MountTest, InterruptedWhileTheDaemonIsAway) {
  daemon_->AddFile(1, "file", 100);
  daemon_->Start();
  Mount();
  daemon_->Stop();
  const pid_t reader = ::fork();
  if (reader == 0) {
    ::open(Path("file").c_str(), O_RDONLY);
    ::_exit(0);
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(200));  // nothing tells that it waits by now
  EXPECT_TRUE(IsAlive(reader));
  ::kill(reader, SIGKILL);
  int status = 0;
  EXPECT_TRUE(
      Eventually([&] { return ::waitpid(reader, &status, WNOHANG) == reader; }, std::chrono::milliseconds(1000)));
}

TEST_F(MountTest, IoTimeoutEndsAnOperation) {
  daemon_->AddFile(1, "file", 100);
  daemon_->Start();
  Mount({"-o", "io_timeout=1s"});
  const UniqueFd file(::open(Path("file").c_str(), O_RDONLY));
  ASSERT_TRUE(file.valid());
  daemon_->Hold([](const ring::Submission& one) { return one.op == ring::Op::kLookup; });
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(::access(Path("other").c_str(), F_OK), -1);
  EXPECT_EQ(errno, ETIMEDOUT);
  const auto took = std::chrono::steady_clock::now() - start;
  EXPECT_GT(took, std::chrono::milliseconds(900));
  EXPECT_LT(took, std::chrono::milliseconds(3000));
  daemon_->Release();
}

}  // namespace
}  // namespace mlcache::shim::testing
