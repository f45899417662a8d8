// What is particular to directories: rooting, links, special files, young versions, changes under a read.
#include "cached/store/file_store.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "common/units.h"
#include "tests/fakes/fake_clock.h"
#include "tests/store/backend.h"

namespace mlcache::store {
namespace {

namespace fs = std::filesystem;
using mlcache::testing::FakeClock;
using ::testing::HasSubstr;

class FileStoreTest : public ::testing::Test {
 protected:
  FileStoreTest() : clock_(SystemClock().Now(), SystemClock().WallNow() + std::chrono::hours(1)) {
    Result<std::shared_ptr<FileStore>> store = FileStore::Open(root_.Path(), clock_, 100);
    EXPECT_TRUE(store) << store.error();
    store_ = *store;
  }

  std::string At(const std::string& path) const { return root_.Path() + "/" + path; }
  void Write(const std::string& path, const std::string& bytes) const {
    fs::create_directories(fs::path(At(path)).parent_path());
    std::ofstream(At(path), std::ios::binary) << bytes;
  }
  ObjectRef Ref(const std::string& path) {
    const Result<ObjectInfo> info = store_->Stat(path, {});
    EXPECT_TRUE(info) << info.error();
    return {.path = path, .version = info->version, .size = info->size, .layout = nullptr};
  }
  // Calls `at_first_piece` once the first piece has come.
  Status Read(const ObjectRef& ref, const std::function<void()>& at_first_piece) {
    bool first = true;
    const ByteSink sink = [&](std::span<const std::byte>) -> Status {
      if (std::exchange(first, false)) at_first_piece();
      return {};
    };
    return store_->ReadRange(ref, 0, ref.size, sink, {});
  }

  TempDir root_;
  FakeClock clock_;
  std::shared_ptr<FileStore> store_;
};

TEST_F(FileStoreTest, AttributesAreTheFiles) {
  Write("file", "12345");
  chmod(At("file").c_str(), 0640);
  fs::create_hard_link(At("file"), At("second"));
  struct stat status{};
  ASSERT_EQ(stat(At("file").c_str(), &status), 0);
  const Result<ObjectInfo> info = store_->Stat("file", {});
  ASSERT_TRUE(info) << info.error();
  EXPECT_EQ(info->mode, 0640U);
  EXPECT_EQ(info->uid, status.st_uid);
  EXPECT_EQ(info->gid, status.st_gid);
  EXPECT_EQ(info->nlink, 2U);
  EXPECT_EQ(info->mtime_ns, status.st_mtim.tv_sec * 1'000'000'000LL + status.st_mtim.tv_nsec);
  EXPECT_EQ(info->ctime_ns, status.st_ctim.tv_sec * 1'000'000'000LL + status.st_ctim.tv_nsec);
}

TEST_F(FileStoreTest, LinksAreReportedAndNeverFollowed) {
  TempDir outside;
  std::ofstream(outside.Path() + "/secret") << "secret";
  Write("dir/file", "inside");
  fs::create_symlink(outside.Path(), At("out"));
  fs::create_symlink("dir", At("in"));
  fs::create_symlink(outside.Path() + "/secret", At("dir/link"));
  const Result<ObjectInfo> link = store_->Stat("dir/link", {});
  ASSERT_TRUE(link) << link.error();
  EXPECT_EQ(link->type, FileType::kSymlink);
  EXPECT_EQ(link->symlink_target, outside.Path() + "/secret");
  const Result<ListPage> page = store_->List("", "", {});
  ASSERT_TRUE(page) << page.error();
  ASSERT_EQ(page->entries.size(), 3U);
  EXPECT_EQ(page->entries[1].name, "in");
  EXPECT_EQ(page->entries[1].info.symlink_target, "dir");
  for (const char* path : {"out/secret", "in/file", "dir/link/x"}) {
    EXPECT_EQ(store_->Stat(path, {}).error().code(), Code::kNotFound) << path;
  }
  EXPECT_EQ(store_->List("out", "", {}).error().code(), Code::kNotFound);
  ObjectRef ref = Ref("dir/file");
  for (const char* path : {"in/file", "dir/link", "out/secret"}) {
    ref.path = path;
    EXPECT_EQ(Read(ref, [] { FAIL() << "bytes came through a link"; }).error().code(), Code::kFailedPrecondition);
  }
}

TEST_F(FileStoreTest, NamesAreListedWithoutTheirAttributes) {
  Write("file", "x");
  fs::create_directory(At("dir"));
  fs::create_symlink("file", At("link"));
  ASSERT_EQ(mkfifo(At("pipe").c_str(), 0600), 0);
  const Result<ListPage> page = store_->List("", "", {.names_suffice = true});
  ASSERT_TRUE(page) << page.error();
  ASSERT_EQ(page->entries.size(), 3U);
  const FileType types[] = {FileType::kDirectory, FileType::kRegular, FileType::kSymlink};
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_FALSE(page->entries[i].described);
    EXPECT_EQ(page->entries[i].info.type, types[i]);
    EXPECT_EQ(page->entries[i].info.version, "");
  }
}

TEST_F(FileStoreTest, PipesSocketsAndDevicesDoNotExist) {
  Write("file", "x");
  ASSERT_EQ(mkfifo(At("pipe").c_str(), 0600), 0);
  const UniqueFd socket_fd(socket(AF_UNIX, SOCK_STREAM, 0));
  sockaddr_un address{.sun_family = AF_UNIX};
  At("socket").copy(address.sun_path, sizeof(address.sun_path) - 1);
  ASSERT_EQ(bind(socket_fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  const Result<ListPage> page = store_->List("", "", {});
  ASSERT_TRUE(page) << page.error();
  ASSERT_EQ(page->entries.size(), 1U);
  EXPECT_EQ(store_->Stat("pipe", {}).error().code(), Code::kNotFound);
  EXPECT_EQ(store_->Stat("socket", {}).error().code(), Code::kNotFound);
  // One that took a file's place: the read must neither hang nor succeed.
  ObjectRef ref = Ref("file");
  for (const char* path : {"pipe", "socket"}) {
    ref.path = path;
    EXPECT_EQ(Read(ref, [] {}).error().code(), Code::kFailedPrecondition) << path;
  }
}

TEST_F(FileStoreTest, YoungVersionsAreNotSettled) {
  Write("file", "x");
  const Result<ObjectInfo> info = store_->Stat("file", {});
  ASSERT_TRUE(info) << info.error();
  const Nanos changed(std::max(info->mtime_ns, info->ctime_ns));
  const auto settled_at = [&](Nanos wall_now) {
    clock_.SetWall(wall_now);
    const bool listed = store_->List("", "", {})->entries[0].info.settled;
    EXPECT_EQ(store_->Stat("file", {})->settled, listed);
    return listed;
  };
  EXPECT_FALSE(settled_at(changed));
  EXPECT_FALSE(settled_at(changed + std::chrono::seconds(2) - Nanos(1)));
  EXPECT_TRUE(settled_at(changed + std::chrono::seconds(2)));
  EXPECT_FALSE(settled_at(changed - std::chrono::hours(1))) << "from the future";
}

TEST_F(FileStoreTest, EveryKindOfChangeIsAnotherVersion) {
  Write("file", "12345");
  const std::string first = Ref("file").version;
  struct stat status{};
  ASSERT_EQ(stat(At("file").c_str(), &status), 0);
  // Same size, mtime put back: the ctime tells.
  Write("file", "54321");
  const timespec times[2] = {status.st_atim, status.st_mtim};
  ASSERT_EQ(utimensat(AT_FDCWD, At("file").c_str(), times, 0), 0);
  const std::string second = Ref("file").version;
  EXPECT_NE(first, second);
  // Replaced by rename: the inode tells.
  Write("new", "54321");
  fs::rename(At("new"), At("file"));
  EXPECT_NE(Ref("file").version, second);
}

TEST_F(FileStoreTest, AChangeDuringTheReadFailsIt) {
  const std::string bytes(3 * kMiB, 'a');
  Write("file", bytes);
  ObjectRef ref = Ref("file");
  Status status = Read(ref, [&] { Write("file", std::string(3 * kMiB, 'b')); });
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code(), Code::kFailedPrecondition);
  EXPECT_THAT(status.error().message(), HasSubstr(At("file")));

  ref = Ref("file");
  status = Read(ref, [&] { fs::resize_file(At("file"), kMiB); });
  EXPECT_EQ(status.error().code(), Code::kFailedPrecondition) << "truncated";

  Write("file", bytes);
  ref = Ref("file");
  status = Read(ref, [&] { std::ofstream(At("file"), std::ios::app) << "more"; });
  EXPECT_EQ(status.error().code(), Code::kFailedPrecondition) << "appended to";

  Write("file", bytes);
  ref = Ref("file");
  // Unlinking changes the ctime of what was read, so this is refused as well; a rename into place does the same.
  status = Read(ref, [&] { fs::remove(At("file")); });
  EXPECT_EQ(status.error().code(), Code::kFailedPrecondition) << "removed";
}

TEST_F(FileStoreTest, HolesReadAsZeros) {
  Write("sparse", "begin");
  fs::resize_file(At("sparse"), 64 * kMiB);
  const ObjectRef ref = Ref("sparse");
  uint64_t zeros = 0;
  const ByteSink sink = [&](std::span<const std::byte> piece) -> Status {
    zeros += static_cast<uint64_t>(std::ranges::count(piece, std::byte{0}));
    EXPECT_LE(piece.size(), kMiB);
    return {};
  };
  ASSERT_TRUE(store_->ReadRange(ref, 0, ref.size, sink, {}));
  EXPECT_EQ(zeros, 64 * kMiB - 5);
}

TEST_F(FileStoreTest, AListingOutlivesItsSnapshotAndChanges) {
  for (int i = 0; i < 250; ++i) Write("many/" + std::to_string(10'000 + i), "");
  const Result<ListPage> first = store_->List("many", "", {});
  ASSERT_TRUE(first) << first.error();
  EXPECT_EQ(first->entries.front().name, "10000");
  // What vanishes after the directory was read is skipped.
  fs::remove(At("many/10249"));
  fs::remove(At("many/" + first->entries.back().name));
  // Other listings throw the snapshot out.
  for (int i = 0; i < 17; ++i) ASSERT_TRUE(store_->List("many", "", {}));
  Write("many/10249a", "");
  std::string last = first->entries.back().name;
  size_t count = first->entries.size();
  for (std::string token = first->next; !token.empty();) {
    const Result<ListPage> page = store_->List("many", token, {});
    ASSERT_TRUE(page) << page.error();
    for (const ListEntry& entry : page->entries) {
      EXPECT_LT(last, entry.name);
      last = entry.name;
      ++count;
    }
    token = page->next;
  }
  EXPECT_EQ(count, 250U);
  EXPECT_EQ(last, "10249a");
  for (const char* token : {"no token", "7", "x/y", "/"}) {
    EXPECT_EQ(store_->List("many", token, {}).error().code(), Code::kInvalidArgument) << token;
  }
}

TEST_F(FileStoreTest, ABadRootSaysWhatToMend) {
  const auto error = [&](const std::string& root) {
    const Result<std::shared_ptr<FileStore>> store = FileStore::Open(root, clock_);
    return store ? Error(Code::kUnknown, "opened " + root) : store.error();
  };
  EXPECT_EQ(error(At("none")).code(), Code::kNotFound);
  Write("file", "x");
  EXPECT_EQ(error(At("file")).code(), Code::kInvalidArgument);
  fs::create_symlink("nowhere", At("dangling"));
  EXPECT_EQ(error(At("dangling")).code(), Code::kNotFound);
}

TEST_F(FileStoreTest, ARootThroughALinkIsWhatTheLinkLedTo) {
  Write("first/file", "1");
  Write("second/file", "22");
  fs::create_directory_symlink("first", At("link"));
  const Result<std::shared_ptr<FileStore>> store = FileStore::Open(At("link"), clock_);
  ASSERT_TRUE(store) << store.error();
  fs::remove(At("link"));
  fs::create_directory_symlink("second", At("link"));
  EXPECT_EQ((*store)->Stat("file", {})->size, 1U);
}

TEST_F(FileStoreTest, AnUnreadableDirectorySaysWhatToMend) {
  fs::create_directories(At("closed"));
  Write("dir/closed/file", "x");
  Write("dir/unreadable", "x");
  const ObjectRef ref = Ref("dir/unreadable");
  chmod(At("closed").c_str(), 0);
  chmod(At("dir/closed").c_str(), 0);
  chmod(At("dir/unreadable").c_str(), 0);
  chmod(root_.Path().c_str(), 0755);
  const uid_t user = geteuid();
  if (user == 0) {
    ASSERT_EQ(seteuid(65534), 0);
  }
  const Result<std::shared_ptr<FileStore>> closed = FileStore::Open(At("closed"), clock_);
  const Result<ListPage> page = store_->List("dir/closed", "", {});
  const Result<ObjectInfo> below = store_->Stat("dir/closed/file", {});
  const Status read = Read({.path = "dir/unreadable", .version = ref.version, .size = 1, .layout = nullptr}, [] {});
  if (user == 0) {
    ASSERT_EQ(seteuid(0), 0);
  }
  chmod(At("closed").c_str(), 0700);
  chmod(At("dir/closed").c_str(), 0700);
  ASSERT_FALSE(closed);
  EXPECT_EQ(closed.error().code(), Code::kPermissionDenied);
  for (const char* remedy : {"usermod", "setfacl", "systemctl edit mlcached"}) {
    EXPECT_THAT(closed.error().message(), HasSubstr(remedy));
  }
  EXPECT_EQ(page.error().code(), Code::kPermissionDenied) << page.error();
  EXPECT_EQ(below.error().code(), Code::kPermissionDenied) << below.error();
  EXPECT_EQ(read.error().code(), Code::kPermissionDenied) << read.error();
}

}  // namespace
}  // namespace mlcache::store
