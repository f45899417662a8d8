// What every ObjectStore owes its callers, run over the fakes, a directory, two third-party S3 servers and, where one
// is named, a real SeaweedFS cluster.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <condition_variable>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "cached/store/object_store.h"
#include "common/units.h"
#include "tests/store/backend.h"
#include "tests/store/s3_server.h"

namespace mlcache::store {
namespace {

std::string RandomBytes(size_t size, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::string bytes(size, '\0');
  for (size_t i = 0; i < size; i += 8) {
    const uint64_t word = random();
    bytes.replace(i, std::min<size_t>(8, size - i), reinterpret_cast<const char*>(&word),
                  std::min<size_t>(8, size - i));
  }
  return bytes;
}

std::string Join(const std::string& directory, const std::string& name) { return directory + "/" + name; }

class StoreContract : public ::testing::TestWithParam<BackendKind> {
 protected:
  void SetUp() override {
    if (GetParam().name == "S3rver" && S3rverDirectory().empty()) {
      GTEST_SKIP() << "no s3rver here: npm install --prefix build/s3rver s3rver@3.7.1";
    }
    if (GetParam().name.starts_with("S3") && SkipS3())
      GTEST_SKIP() << "MLCACHE_SKIP_S3=1: no third-party S3 server here";
    if (GetParam().name == "RealSeaweed" && !HasRealSeaweed()) {
      GTEST_SKIP() << "no MLCACHE_TEST_SEAWEEDFS=HOST:PORT: no real SeaweedFS cluster here";
    }
    backend_ = GetParam().make();
  }

  ObjectStore& store() { return backend_->store(); }

  ObjectRef Ref(const std::string& path) {
    const Result<ObjectInfo> info = store().Stat(path, {});
    if (!info) {
      ADD_FAILURE() << info.error();
      return {};
    }
    EXPECT_FALSE(info->version.empty());
    EXPECT_LE(info->version.size(), 255U);
    return {.path = path, .version = info->version, .size = info->size, .layout = info->layout};
  }

  Result<std::string> Read(const ObjectRef& ref, uint64_t offset, uint64_t length, const CallContext& context = {}) {
    std::string bytes;
    const ByteSink sink = [&](std::span<const std::byte> piece) -> Status {
      bytes.append(reinterpret_cast<const char*>(piece.data()), piece.size());
      return {};
    };
    MLCACHE_RETURN_IF_ERROR(store().ReadRange(ref, offset, length, sink, context));
    return bytes;
  }

  // An old version can be read no more, or only its own bytes.
  void ExpectOldVersion(const ObjectRef& ref, const std::string& bytes) {
    const Result<std::string> read = Read(ref, 0, ref.size);
    if (read) {
      EXPECT_TRUE(backend_->keeps_old_versions());
      EXPECT_EQ(*read, bytes);
    } else {
      EXPECT_EQ(read.error().code(), Code::kFailedPrecondition) << read.error();
    }
  }

  Code ReadCode(const ObjectRef& ref, uint64_t offset, uint64_t length, const CallContext& context = {}) {
    const Result<std::string> bytes = Read(ref, offset, length, context);
    EXPECT_FALSE(bytes) << "a read that should have failed";
    return bytes ? Code::kUnknown : bytes.error().code();
  }

  std::vector<ListEntry> ListAll(const std::string& path, size_t* pages = nullptr) {
    std::vector<ListEntry> entries;
    std::string token;
    do {
      Result<ListPage> page = store().List(path, token, {});
      if (!page) {
        ADD_FAILURE() << page.error();
        break;
      }
      std::ranges::move(page->entries, std::back_inserter(entries));
      token = page->next;
      if (pages != nullptr) ++*pages;
    } while (!token.empty());
    return entries;
  }

  std::unique_ptr<Backend> backend_;
};

TEST_P(StoreContract, StatTellsFilesFromDirectories) {
  backend_->Put("dir/sub/file", "12345");
  backend_->PutDirectory("empty");
  const Result<ObjectInfo> file = store().Stat("dir/sub/file", {});
  ASSERT_TRUE(file) << file.error();
  EXPECT_EQ(file->type, FileType::kRegular);
  EXPECT_EQ(file->size, 5U);
  EXPECT_EQ(file->mode & 0400U, 0400U);
  EXPECT_GT(file->mtime_ns, 0);
  EXPECT_TRUE(file->settled);
  for (const char* directory : {"", "dir", "dir/sub", "empty"}) {
    const Result<ObjectInfo> info = store().Stat(directory, {});
    ASSERT_TRUE(info) << directory << ": " << info.error();
    EXPECT_EQ(info->type, FileType::kDirectory) << directory;
    EXPECT_EQ(info->mode & 0500U, 0500U) << directory;
  }
}

TEST_P(StoreContract, WhatIsNotThereIsNotFound) {
  backend_->Put("file", "x");
  backend_->Put("dir/file", "x");
  for (const char* path : {"none", "dir/none", "none/none", "file/below", "fil", "filee", "di", "outside"}) {
    const Result<ObjectInfo> info = store().Stat(path, {});
    ASSERT_FALSE(info) << path;
    EXPECT_EQ(info.error().code(), Code::kNotFound) << path << ": " << info.error();
    EXPECT_THAT(info.error().message(), ::testing::HasSubstr(path));
  }
  for (const char* path : {"none", "file", "dir/file"}) {
    const Result<ListPage> page = store().List(path, "", {});
    ASSERT_FALSE(page) << path;
    EXPECT_EQ(page.error().code(), Code::kNotFound) << path << ": " << page.error();
  }
}

TEST_P(StoreContract, PathsOutsideTheRootAreRefused) {
  backend_->Put("dir/file", "x");
  for (const char* path : {"..", "../outside", "dir/../../outside", "dir/..", "/dir", "dir//file", "dir/", "./dir"}) {
    EXPECT_FALSE(store().Stat(path, {})) << path;
    EXPECT_FALSE(store().List(path, "", {})) << path;
    EXPECT_FALSE(Read({.path = path, .version = "v", .size = 1, .layout = nullptr}, 0, 1)) << path;
  }
}

TEST_P(StoreContract, ReadsEveryByteOfEverySize) {
  for (const uint64_t size : {uint64_t{0}, uint64_t{1}, uint64_t{4095}, 64 * kKiB - 1, 64 * kKiB, 64 * kKiB + 1,
                              4 * kMiB - 1, 4 * kMiB, 4 * kMiB + 1}) {
    const std::string path = "size-" + std::to_string(size);
    const std::string bytes = RandomBytes(size, size);
    backend_->Put(path, bytes);
    const ObjectRef ref = Ref(path);
    ASSERT_EQ(ref.size, size);
    const Result<std::string> whole = Read(ref, 0, size);
    ASSERT_TRUE(whole) << whole.error();
    EXPECT_TRUE(*whole == bytes) << "size " << size;
    if (size < 2) continue;
    for (const auto& [offset, length] : std::map<uint64_t, uint64_t>{
             {0, 1}, {1, size - 1}, {size - 1, 1}, {size / 2, std::min<uint64_t>(size - size / 2, 100'000)}}) {
      if (!backend_->can_read(offset, length)) continue;
      const Result<std::string> part = Read(ref, offset, length);
      ASSERT_TRUE(part) << part.error();
      EXPECT_TRUE(*part == bytes.substr(offset, length)) << "size " << size << " at " << offset << "+" << length;
    }
    EXPECT_EQ(ReadCode(ref, size, 1), Code::kOutOfRange);
    EXPECT_EQ(ReadCode(ref, 1, size), Code::kOutOfRange);
    EXPECT_EQ(ReadCode(ref, UINT64_MAX, 2), Code::kOutOfRange);
  }
}

TEST_P(StoreContract, ListAgreesWithStat) {
  backend_->Put("top", "1");
  backend_->Put("dir/a", "22");
  backend_->Put("dir/b/c", "333");
  backend_->PutDirectory("dir/empty");
  std::map<std::string, FileType> seen;
  for (const ListEntry& entry : ListAll("dir")) {
    EXPECT_TRUE(seen.emplace(entry.name, entry.info.type).second) << entry.name << " twice";
    const Result<ObjectInfo> info = store().Stat("dir/" + entry.name, {});
    ASSERT_TRUE(info) << info.error();
    EXPECT_EQ(info->type, entry.info.type);
    EXPECT_EQ(info->size, entry.info.size);
    EXPECT_EQ(info->version, entry.info.version);
    EXPECT_EQ(info->mtime_ns, entry.info.mtime_ns);
    EXPECT_EQ(info->mode, entry.info.mode);
  }
  EXPECT_THAT(
      seen, ::testing::ElementsAre(::testing::Pair("a", FileType::kRegular), ::testing::Pair("b", FileType::kDirectory),
                                   ::testing::Pair("empty", FileType::kDirectory)));
  EXPECT_TRUE(ListAll("dir/empty").empty());
  EXPECT_THAT(ListAll(""), ::testing::SizeIs(2));
}

TEST_P(StoreContract, NamesAloneAreTheSameNamesAndTypes) {
  backend_->Put("top/file", "1");
  backend_->PutDirectory("top/dir");
  const Result<ListPage> page = store().List("top", "", {.names_suffice = true});
  ASSERT_TRUE(page) << page.error();
  ASSERT_THAT(page->entries, ::testing::SizeIs(2));
  for (const ListEntry& entry : page->entries) {
    EXPECT_EQ(entry.info.type, entry.name == "dir" ? FileType::kDirectory : FileType::kRegular) << entry.name;
    if (!entry.described) continue;
    const Result<ObjectInfo> info = store().Stat("top/" + entry.name, {});
    ASSERT_TRUE(info) << info.error();
    EXPECT_EQ(info->size, entry.info.size);
    EXPECT_EQ(info->version, entry.info.version);
  }
  for (const ListEntry& entry : ListAll("top")) EXPECT_TRUE(entry.described) << entry.name;
}

TEST_P(StoreContract, PagesShowEveryEntryOnceInOneOrder) {
  const size_t count = backend_->many_entries();
  std::vector<std::string> expected;
  for (size_t i = 0; i < count; ++i) {
    expected.push_back("n" + std::to_string(i));
    backend_->Put("many/" + expected.back(), "");
  }
  const auto names = [&](size_t* pages) {
    std::vector<std::string> names;
    for (const ListEntry& entry : ListAll("many", pages)) names.push_back(entry.name);
    return names;
  };
  size_t pages = 0;
  const std::vector<std::string> first = names(&pages);
  EXPECT_GE(pages, 2U);
  EXPECT_EQ(first, names(nullptr));
  EXPECT_THAT(first, ::testing::UnorderedElementsAreArray(expected));
}

TEST_P(StoreContract, NamesAreBytes) {
  const std::vector<std::string> names = {"with space",
                                          " leading and trailing ",
                                          "plus+and%41percent%",
                                          "a&b=c;d,e",
                                          "<xml> \"quoted\" 'too' \\ `",
                                          "(){}[]!*~:@$^|",
                                          "grüße-日本語-😀",
                                          "...",
                                          "-rf",
                                          std::string(255, 'n'),
                                          "new\nline\r\ttab"};
  std::vector<std::string> expected;
  for (const std::string& name : names) {
    if (!backend_->can_name(name)) continue;
    expected.push_back(name);
    backend_->Put("odd/" + name, "content of " + name);
    backend_->Put(Join(Join("deep", name), name), name);
  }
  std::vector<std::string> listed;
  for (const ListEntry& entry : ListAll("odd")) listed.push_back(entry.name);
  EXPECT_THAT(listed, ::testing::UnorderedElementsAreArray(expected));
  for (const std::string& name : expected) {
    const std::string content = "content of " + name;
    EXPECT_EQ(Read(Ref("odd/" + name), 0, content.size()), content) << name;
    EXPECT_EQ(Read(Ref(Join(Join("deep", name), name)), 0, name.size()), name) << name;
    const std::vector<ListEntry> below = ListAll("deep/" + name);
    ASSERT_EQ(below.size(), 1U) << name;
    EXPECT_EQ(below[0].name, name);
  }
}

TEST_P(StoreContract, AReplacedObjectIsAnotherVersion) {
  backend_->Put("file", "old bytes");
  const ObjectRef old = Ref("file");
  EXPECT_EQ(Ref("file").version, old.version);
  EXPECT_EQ(Read(old, 0, 3), "old");
  backend_->Put("file", "new bytes");
  ExpectOldVersion(old, "old bytes");
  const ObjectRef renewed = Ref("file");
  EXPECT_NE(renewed.version, old.version);
  EXPECT_EQ(Read(renewed, 0, 9), "new bytes");
  backend_->Put("file", "short");
  ExpectOldVersion(renewed, "new bytes");
}

TEST_P(StoreContract, ARemovedObjectFailsThePrecondition) {
  backend_->Put("dir/file", "bytes");
  const ObjectRef ref = Ref("dir/file");
  backend_->Remove("dir/file");
  ExpectOldVersion(ref, "bytes");
}

TEST_P(StoreContract, TheSinksErrorEndsTheRead) {
  backend_->Put("file", RandomBytes(3 * kMiB, 7));
  int calls = 0;
  const ByteSink sink = [&](std::span<const std::byte>) -> Status {
    ++calls;
    return Fail(Code::kAborted, "enough");
  };
  const Status status = store().ReadRange(Ref("file"), 0, 3 * kMiB, sink, {});
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code(), Code::kAborted);
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(Read(Ref("file"), 5, 1)->size(), 1U);  // the store goes on working
}

TEST_P(StoreContract, AStopRequestEndsEveryCall) {
  backend_->Put("dir/file", RandomBytes(4 * kMiB, 8));
  const ObjectRef ref = Ref("dir/file");
  std::stop_source stop;
  const CallContext context{.stop = stop.get_token()};
  const ByteSink sink = [&](std::span<const std::byte>) -> Status {
    stop.request_stop();
    return {};
  };
  const Status status = store().ReadRange(ref, 0, ref.size, sink, context);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code(), Code::kCancelled);
  EXPECT_EQ(store().Stat("dir", context).error().code(), Code::kCancelled);
  EXPECT_EQ(store().List("dir", "", context).error().code(), Code::kCancelled);
  EXPECT_EQ(ReadCode(ref, 0, 1, context), Code::kCancelled);
}

TEST_P(StoreContract, APastDeadlineEndsEveryCall) {
  backend_->Put("dir/file", "bytes");
  const ObjectRef ref = Ref("dir/file");
  const CallContext context{.deadline = SystemClock().Now()};
  EXPECT_EQ(store().Stat("dir", context).error().code(), Code::kDeadlineExceeded);
  EXPECT_EQ(store().List("dir", "", context).error().code(), Code::kDeadlineExceeded);
  EXPECT_EQ(ReadCode(ref, 0, 1, context), Code::kDeadlineExceeded);
}

TEST_P(StoreContract, ManyThreadsReadAtOnce) {
  const std::string bytes = RandomBytes(kMiB, 9);
  backend_->Put("file", bytes);
  const ObjectRef ref = Ref("file");
  std::vector<std::jthread> threads;
  threads.reserve(8);
  for (uint64_t thread = 0; thread < 8; ++thread) {
    threads.emplace_back([&, thread] {
      for (uint64_t round = 0; round < 8; ++round) {
        const uint64_t offset = (thread * 8 + round) * 16'000;
        const Result<std::string> part = Read(ref, offset, 20'000);
        EXPECT_TRUE(part && *part == bytes.substr(offset, 20'000)) << "at " << offset;
      }
    });
  }
}

TEST_P(StoreContract, CapacityIsTrueOrZero) {
  const Result<StoreCapacity> capacity = store().Capacity({});
  ASSERT_TRUE(capacity) << capacity.error();
  EXPECT_GE(capacity->total_bytes, capacity->free_bytes);
  EXPECT_GE(capacity->total_files, capacity->free_files);
}

TEST_P(StoreContract, WithoutAChangeFeedWatchSaysSo) {
  if (backend_->has_change_feed()) GTEST_SKIP() << "this store has a change feed";
  const Status status = store().Watch("", [](const ChangeEvent&) {}, {});
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code(), Code::kUnimplemented);
}

TEST_P(StoreContract, AChangeFeedTellsOfChangesBelowItsPath) {
  if (!backend_->has_change_feed()) GTEST_SKIP() << "this store has no change feed";
  backend_->Put("dir/file", "old");
  std::mutex mutex;
  std::condition_variable_any changed;
  std::vector<std::string> told;
  const auto sink = [&](const ChangeEvent& event) {
    const std::lock_guard lock(mutex);
    told.push_back(event.path);
    changed.notify_all();
  };
  std::jthread feed([&](const std::stop_token& stop) {
    const Status status = store().Watch("dir", sink, {.stop = stop});
    EXPECT_TRUE(status) << status.error();
  });
  std::unique_lock lock(mutex);
  const auto sees = [&](const std::string& path) { return std::ranges::find(told, path) != told.end(); };
  // The first changes may come before the feed is open.
  for (int round = 0; round < 200 && !sees("dir/file"); ++round) {
    lock.unlock();
    backend_->Put("outside of dir", std::to_string(round));
    backend_->Put("dir/file", std::to_string(round));
    lock.lock();
    changed.wait_for(lock, std::chrono::milliseconds(100), [&] { return sees("dir/file"); });
  }
  EXPECT_TRUE(sees("dir/file"));
  lock.unlock();
  backend_->Remove("dir/file");
  backend_->Put("dir/sub/new", "x");
  lock.lock();
  EXPECT_TRUE(changed.wait_for(lock, std::chrono::seconds(20), [&] { return sees("dir/sub/new"); }));
  EXPECT_THAT(told, ::testing::Each(::testing::StartsWith("dir")));
}

INSTANTIATE_TEST_SUITE_P(All, StoreContract,
                         ::testing::Values(BackendKind{"Fake", &MakeFakeBackend}, BackendKind{"File", &MakeFileBackend},
                                           BackendKind{"S3", &MakeS3Backend}, BackendKind{"S3rver", &MakeS3rverBackend},
                                           BackendKind{"Seaweed", &MakeSeaweedBackend},
                                           BackendKind{"RealSeaweed", &MakeRealSeaweedBackend}),
                         [](const auto& parameter) { return parameter.param.name; });

}  // namespace
}  // namespace mlcache::store
