// Every kind of file that a SeaweedFS cluster keeps, and what reading it costs.
#include "cached/store/seaweed_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <thread>

#include "common/units.h"
#include "tests/store/seaweed_world.h"

namespace mlcache::store {
namespace {

using ::testing::HasSubstr;

class SeaweedStoreTest : public SeaweedWorld {};

TEST_F(SeaweedStoreTest, EveryWayToKeepAFileReadsTheSame) {
  const std::map<std::string, FileOptions> kinds = {
      {"plain", {}},
      {"small chunks", {.chunk_size = 7 * kKiB}},
      {"compressed", {.chunk_size = 64 * kKiB, .compressed = true}},
      {"encrypted", {.chunk_size = 64 * kKiB, .encrypted = true}},
      {"encrypted and compressed", {.chunk_size = 64 * kKiB, .compressed = true, .encrypted = true}},
      {"inline", {.inline_content = true}},
      {"by a list", {.chunk_size = 32 * kKiB, .manifest = true}},
  };
  const auto store = Open();
  for (const auto& [name, options] : kinds) {
    const std::string bytes = RandomBytes(300'001, 1) + std::string(50'000, 'z');
    cluster_.Put("/" + name, bytes, options);
    const ObjectRef ref = Ref(*store, name);
    ASSERT_EQ(ref.size, bytes.size()) << name;
    EXPECT_TRUE(Read(*store, ref, 0, ref.size) == bytes) << name;
    for (const auto& [offset, length] : std::map<uint64_t, uint64_t>{
             {0, 1}, {1, 64 * kKiB}, {64 * kKiB - 1, 2}, {ref.size - 1, 1}, {100'000, 200'000}}) {
      const Result<std::string> part = Read(*store, ref, offset, length);
      ASSERT_TRUE(part) << name << ": " << part.error();
      EXPECT_TRUE(*part == bytes.substr(offset, length)) << name << " at " << offset << "+" << length;
    }
    // As after a restart, when the layout is no longer known.
    const ObjectRef bare{.path = ref.path, .version = ref.version, .size = ref.size, .layout = nullptr};
    EXPECT_TRUE(Read(*store, bare, 5, 300'000) == bytes.substr(5, 300'000)) << name;
  }
}

TEST_F(SeaweedStoreTest, HolesAreZerosAndLaterChunksWin) {
  filer_pb::Entry entry;
  entry.mutable_attributes()->set_file_size(1000);
  const auto add = [&](int64_t offset, const std::string& bytes, int64_t time) {
    filer_pb::FileChunk* chunk = entry.add_chunks();
    *chunk = cluster_.Store(bytes);
    chunk->set_offset(offset);
    chunk->set_modified_ts_ns(time);
  };
  add(100, std::string(300, 'a'), 5);
  add(200, std::string(50, 'b'), 9);
  add(150, std::string(200, 'c'), 7);
  cluster_.PutEntry("/file", entry);
  std::string expected(1000, '\0');
  expected.replace(100, 300, std::string(300, 'a'));
  expected.replace(150, 200, std::string(200, 'c'));
  expected.replace(200, 50, std::string(50, 'b'));
  const auto store = Open();
  EXPECT_EQ(Read(*store, "file"), expected);
  const ObjectRef ref = Ref(*store, "file");
  EXPECT_EQ(Read(*store, ref, 120, 300), expected.substr(120, 300));
  EXPECT_EQ(Read(*store, ref, 500, 500), std::string(500, '\0'));
}

TEST_F(SeaweedStoreTest, LinksAndSpecialFilesInAListing) {
  cluster_.Put("/dir/file", "bytes");
  filer_pb::Entry link;
  link.mutable_attributes()->set_file_mode(1U << 27 | 0777);
  link.mutable_attributes()->set_symlink_target("file");
  cluster_.PutEntry("/dir/link", link);
  filer_pb::Entry hard = cluster_.Find("/dir/file");
  hard.set_hard_link_id("id");
  hard.set_hard_link_counter(2);
  cluster_.PutEntry("/dir/hard", hard);
  filer_pb::Entry pipe;
  pipe.mutable_attributes()->set_file_mode(1U << 25 | 0644);
  cluster_.PutEntry("/dir/pipe", pipe);
  const auto store = Open();
  const Result<ListPage> page = store->List("dir", "", {});
  ASSERT_TRUE(page) << page.error();
  ASSERT_EQ(page->entries.size(), 3U);
  EXPECT_EQ(page->entries[1].name, "hard");
  EXPECT_EQ(page->entries[1].info.nlink, 2U);
  EXPECT_EQ(page->entries[2].info.symlink_target, "file");
  EXPECT_EQ(Read(*store, "dir/hard"), "bytes");
  EXPECT_EQ(store->Stat("dir/pipe", {}).error().code(), Code::kNotFound);
  EXPECT_EQ(store->Stat("dir/\xff\xfe", {}).error().code(), Code::kNotFound);
}

TEST_F(SeaweedStoreTest, ARemoteFileIsBroughtIntoTheClusterByItsFirstRead) {
  filer_pb::Entry entry;
  entry.mutable_attributes()->set_file_size(12);
  entry.mutable_remote_entry()->set_remote_size(12);
  entry.mutable_remote_entry()->set_remote_e_tag("etag");
  cluster_.PutEntry("/remote", entry);
  cluster_.SetRemote("/remote", "remote bytes");
  const auto store = Open();
  const ObjectRef ref = Ref(*store, "remote");
  EXPECT_EQ(Read(*store, ref, 0, 12), "remote bytes");
  EXPECT_EQ(Read(*store, ref, 7, 5), "bytes");
  EXPECT_EQ(Read(*store, "remote"), "remote bytes");
  // Another object than the one that was opened.
  cluster_.PutEntry("/changed", entry);
  cluster_.SetRemote("/changed", "shorter");
  EXPECT_EQ(Read(*store, "changed").error().code(), Code::kFailedPrecondition);
}

TEST_F(SeaweedStoreTest, WhatTheGatewayEncryptedIsRefusedWithTheWayOut) {
  cluster_.Put("/file", "bytes");
  filer_pb::Entry entry = cluster_.Find("/file");
  entry.mutable_chunks(0)->set_sse_type(3);
  cluster_.PutEntry("/file", entry);
  const auto store = Open();
  const Result<std::string> read = Read(*store, "file");
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code(), Code::kUnimplemented);
  EXPECT_THAT(read.error().message(), HasSubstr("s3://"));
}

TEST_F(SeaweedStoreTest, NothingIsAskedTwice) {
  for (int i = 0; i < 40; ++i) cluster_.Put("/dir/f" + std::to_string(i), RandomBytes(1000, 1));
  options_.page_entries = 16;
  const auto store = Open();
  std::vector<ListEntry> entries;
  std::string token;
  do {
    Result<ListPage> page = store->List("dir", token, {});
    ASSERT_TRUE(page) << page.error();
    std::ranges::move(page->entries, std::back_inserter(entries));
    token = page->next;
  } while (!token.empty());
  ASSERT_EQ(entries.size(), 40U);
  {
    std::vector<std::jthread> readers;
    for (size_t reader = 0; reader < 8; ++reader) {
      readers.emplace_back([&, reader] {
        for (size_t i = reader; i < entries.size(); i += 8) {
          const ObjectInfo& info = entries[i].info;
          EXPECT_TRUE(Read(
              *store,
              {.path = "dir/" + entries[i].name, .version = info.version, .size = info.size, .layout = info.layout}, 0,
              info.size));
        }
      });
    }
  }
  EXPECT_EQ(cluster_.listings(), 3);
  EXPECT_EQ(cluster_.lookups(), 0);
  EXPECT_EQ(cluster_.volume_lookups(), 1);
  EXPECT_EQ(cluster_.gets(), 40U);
  EXPECT_EQ(cluster_.proxied(), 0U);
}

TEST_F(SeaweedStoreTest, AListOfChunksIsReadOnceAVersion) {
  cluster_.Put("/big", RandomBytes(400'000, 2), {.chunk_size = 100'000, .manifest = true});
  const auto store = Open();
  const ObjectRef ref = Ref(*store, "big");
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(Read(*store, ref, 0, 100'000));
  EXPECT_EQ(cluster_.gets(), 4U);
  // A chunk outside the range of its list.
  filer_pb::Entry entry = cluster_.Find("/big");
  filer_pb::FileChunkManifest manifest;
  *manifest.add_chunks() = cluster_.Store("x");
  manifest.mutable_chunks(0)->set_offset(99);
  *entry.mutable_chunks(0) = cluster_.Store(manifest.SerializeAsString());
  entry.mutable_chunks(0)->set_is_chunk_manifest(true);
  entry.mutable_chunks(0)->set_offset(100);
  entry.mutable_chunks(0)->set_size(400'000);
  cluster_.PutEntry("/lying", entry);
  EXPECT_THAT(Read(*store, "lying").error().message(), HasSubstr("outside its own range"));
}

TEST_F(SeaweedStoreTest, AnEncryptedChunkIsFetchedOnceForItsPieces) {
  const std::string bytes = RandomBytes(200'000, 3);
  cluster_.Put("/secret", bytes, {.encrypted = true});
  const auto store = Open();
  const ObjectRef ref = Ref(*store, "secret");
  for (uint64_t at = 0; at < bytes.size(); at += 50'000)
    EXPECT_EQ(Read(*store, ref, at, 50'000), bytes.substr(at, 50'000));
  EXPECT_EQ(cluster_.gets(), 1U);
}

TEST_F(SeaweedStoreTest, AChunkThatWasCutShortIsReadToItsNewEnd) {
  const std::map<std::string, FileOptions> kinds = {
      {"plain", {.chunk_size = 10'000}},
      {"compressed", {.chunk_size = 10'000, .compressed = true}},
      {"encrypted", {.chunk_size = 10'000, .encrypted = true}},
      {"encrypted and compressed", {.chunk_size = 10'000, .compressed = true, .encrypted = true}},
  };
  const std::string bytes = RandomBytes(20'000, 11);
  const auto store = Open();
  for (const auto& [name, options] : kinds) {
    SCOPED_TRACE(name);
    cluster_.Put("/" + name, bytes, options);
    EXPECT_TRUE(Read(*store, name) == bytes);
    // As `weed mount` shortens a file: in its metadata alone.
    filer_pb::Entry entry = cluster_.Find("/" + name);
    entry.mutable_chunks(1)->set_size(2'345);
    entry.mutable_attributes()->set_file_size(12'345);
    cluster_.PutEntry("/" + name, entry);
    const ObjectRef ref = Ref(*store, name);
    ASSERT_EQ(ref.size, 12'345U);
    const size_t before = cluster_.gets();
    const Result<std::string> whole = Read(*store, ref, 0, ref.size);
    ASSERT_TRUE(whole) << whole.error();
    EXPECT_TRUE(*whole == bytes.substr(0, 12'345));
    EXPECT_LE(cluster_.gets() - before, 3U) << "one more request for the chunk that was cut";
    EXPECT_TRUE(Read(*store, ref, 12'000, 345) == bytes.substr(12'000, 345));
    EXPECT_TRUE(Read(*store, ref, 9'999, 2) == bytes.substr(9'999, 2));
    // And made longer again: what was cut off is not seen again.
    entry.mutable_attributes()->set_file_size(15'000);
    cluster_.PutEntry("/" + name, entry);
    EXPECT_TRUE(Read(*store, name) == bytes.substr(0, 12'345) + std::string(2'655, '\0'));
  }
}

TEST_F(SeaweedStoreTest, AListOfChunksThatWasCutShortIsReadToItsNewEnd) {
  const std::string bytes = RandomBytes(400'000, 13);
  cluster_.Put("/big", bytes, {.chunk_size = 100'000, .manifest = true});
  filer_pb::Entry entry = cluster_.Find("/big");
  entry.mutable_chunks(0)->set_size(123'456);
  entry.mutable_attributes()->set_file_size(150'000);  // cut, then made longer again
  cluster_.PutEntry("/big", entry);
  const auto store = Open();
  const Result<std::string> read = Read(*store, "big");
  ASSERT_TRUE(read) << read.error();
  EXPECT_TRUE(*read == bytes.substr(0, 123'456) + std::string(26'544, '\0'));
}

TEST_F(SeaweedStoreTest, OneEncryptedBlobUnderTwoSizesIsNeverReadPastItsEnd) {
  const std::string bytes = RandomBytes(1'000, 12);
  cluster_.Put("/right", bytes, {.encrypted = true});
  filer_pb::Entry entry = cluster_.Find("/right");
  entry.mutable_chunks(0)->set_size(100'000);
  entry.mutable_attributes()->set_file_size(100'000);
  cluster_.PutEntry("/wrong", entry);
  const auto store = Open();
  EXPECT_TRUE(Read(*store, "right") == bytes);
  const ObjectRef wrong = Ref(*store, "wrong");
  for (const uint64_t at : {0U, 900U, 50'000U}) {
    const Result<std::string> read = Read(*store, wrong, at, 500);
    ASSERT_FALSE(read) << "the blob is known, and shorter";
    EXPECT_EQ(read.error().code(), Code::kDataLoss);
    EXPECT_THAT(read.error().message(), HasSubstr("has 1000 bytes instead of 100000"));
  }
}

TEST_F(SeaweedStoreTest, ARewriteIsAnotherVersionAndTheOldOneIsNeverMixed) {
  cluster_.Put("/file", RandomBytes(100'000, 4), {.chunk_size = 10'000});
  const auto store = Open();
  const ObjectRef old = Ref(*store, "file");
  cluster_.Put("/file", RandomBytes(100'000, 5), {.chunk_size = 10'000});
  EXPECT_NE(Ref(*store, "file").version, old.version);
  EXPECT_EQ(Read(*store, old, 0, 100'000).error().code(), Code::kFailedPrecondition);
  const ObjectRef bare{.path = "file", .version = old.version, .size = old.size, .layout = nullptr};
  EXPECT_EQ(Read(*store, bare, 0, 10).error().code(), Code::kFailedPrecondition);
  cluster_.Remove("/file");
  EXPECT_EQ(Read(*store, bare, 0, 10).error().code(), Code::kFailedPrecondition);
}

TEST_F(SeaweedStoreTest, AMissingChunkOfALiveFileIsALoss) {
  cluster_.Put("/file", "bytes");
  cluster_.DropBlob(cluster_.Find("/file").chunks(0));
  const auto store = Open();
  const Result<std::string> read = Read(*store, "file");
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code(), Code::kDataLoss);
  EXPECT_THAT(read.error().message(), HasSubstr("the filer still lists it"));
}

TEST_F(SeaweedStoreTest, AMountBelowADirectorySeesOnlyThat) {
  cluster_.Put("/a/b/file", "inside");
  cluster_.Put("/a/other", "outside");
  const auto store = Open("", {}, "", "a/b");
  EXPECT_EQ(Read(*store, "file"), "inside");
  EXPECT_EQ(store->Stat("other", {}).error().code(), Code::kNotFound);
  EXPECT_FALSE(store->Stat("../other", {}));
}

}  // namespace
}  // namespace mlcache::store
