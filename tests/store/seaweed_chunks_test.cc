// Which chunk holds which byte, and what an entry of the filer means; without a cluster.
#include "cached/store/seaweed_chunks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <set>

#include "cached/store/seaweed_entry.h"
#include "proto/filer.pb.h"

namespace mlcache::store {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

SeaweedChunk Chunk(uint64_t offset, uint64_t size, int64_t time) {
  return {.offset = offset, .size = size, .modified_ts_ns = time};
}

TEST(VisibleChunks, OneAfterTheOtherWithHolesBetween) {
  EXPECT_TRUE(VisibleChunks({}).empty());
  EXPECT_THAT(VisibleChunks({Chunk(100, 50, 1), Chunk(0, 10, 2), Chunk(10, 0, 9)}),
              ElementsAre(ChunkView{.begin = 0, .end = 10, .chunk = 1, .offset_in_chunk = 0},
                          ChunkView{.begin = 100, .end = 150, .chunk = 0, .offset_in_chunk = 0}));
}

TEST(VisibleChunks, TheLaterOneWins) {
  // A write into the middle, told of before and after what it overwrites.
  const std::vector<ChunkView> around = {{.begin = 0, .end = 40, .chunk = 0, .offset_in_chunk = 0},
                                         {.begin = 40, .end = 60, .chunk = 1, .offset_in_chunk = 0},
                                         {.begin = 60, .end = 100, .chunk = 0, .offset_in_chunk = 60}};
  EXPECT_EQ(VisibleChunks({Chunk(0, 100, 1), Chunk(40, 20, 2)}), around);
  EXPECT_THAT(VisibleChunks({Chunk(40, 20, 1), Chunk(0, 100, 2)}),
              ElementsAre(ChunkView{.begin = 0, .end = 100, .chunk = 1, .offset_in_chunk = 0}));
  // Over the end of one and the begin of the next.
  EXPECT_THAT(VisibleChunks({Chunk(0, 50, 1), Chunk(50, 50, 2), Chunk(30, 40, 3)}),
              ElementsAre(ChunkView{.begin = 0, .end = 30, .chunk = 0, .offset_in_chunk = 0},
                          ChunkView{.begin = 30, .end = 70, .chunk = 2, .offset_in_chunk = 0},
                          ChunkView{.begin = 70, .end = 100, .chunk = 1, .offset_in_chunk = 20}));
}

TEST(VisibleChunks, OfOneTimeTheOneThatBeginsFirst) {
  EXPECT_THAT(VisibleChunks({Chunk(5, 10, 1), Chunk(0, 10, 1)}),
              ElementsAre(ChunkView{.begin = 0, .end = 10, .chunk = 1, .offset_in_chunk = 0},
                          ChunkView{.begin = 10, .end = 15, .chunk = 0, .offset_in_chunk = 5}));
}

// Against painting each byte.
TEST(VisibleChunks, AgreesWithPaintingByteByByte) {
  for (uint32_t seed = 0; seed < 300; ++seed) {
    std::mt19937 random(seed);
    const auto below = [&](uint32_t limit) { return std::uniform_int_distribution<uint32_t>(0, limit - 1)(random); };
    std::vector<SeaweedChunk> chunks;
    std::set<int64_t> times;
    for (uint32_t count = below(12); chunks.size() < count;) {
      const int64_t time = below(1000);
      if (times.insert(time).second) chunks.push_back(Chunk(below(200), below(80), time));
    }
    std::vector<int> painted(300, -1);
    for (const int64_t time : times) {
      for (size_t i = 0; i < chunks.size(); ++i) {
        if (chunks[i].modified_ts_ns != time) continue;
        for (uint64_t at = chunks[i].offset; at < chunks[i].end(); ++at) painted[at] = static_cast<int>(i);
      }
    }
    std::vector<int> seen(300, -1);
    uint64_t last = 0;
    for (const ChunkView& view : VisibleChunks(chunks)) {
      ASSERT_LT(view.begin, view.end) << "seed " << seed;
      ASSERT_GE(view.begin, last) << "seed " << seed;
      EXPECT_EQ(view.offset_in_chunk, view.begin - chunks[view.chunk].offset) << "seed " << seed;
      for (uint64_t at = view.begin; at < view.end; ++at) seen[at] = static_cast<int>(view.chunk);
      last = view.end;
    }
    EXPECT_EQ(seen, painted) << "seed " << seed;
  }
}

TEST(SeaweedChunk, FileIdsAreTheServers) {
  filer_pb::FileChunk chunk;
  chunk.mutable_fid()->set_volume_id(3);
  chunk.mutable_fid()->set_file_key(1);
  chunk.mutable_fid()->set_cookie(0x637037d6);
  EXPECT_EQ(ParseSeaweedChunk(chunk)->FileId(), "3,01637037d6");
  chunk.mutable_fid()->set_file_key(0x1abcd);
  chunk.mutable_fid()->set_cookie(0x2a);
  EXPECT_EQ(ParseSeaweedChunk(chunk)->FileId(), "3,01abcd0000002a");

  filer_pb::FileChunk older;
  for (const char* id : {"3,01637037d6", "12345,fedcba98765432101234abcd", "7,0500000001"}) {
    older.set_file_id(id);
    EXPECT_EQ(ParseSeaweedChunk(older)->FileId(), id);
  }
  for (const char* id : {"", "3", "3,", "3,637037d6", "x,01637037d6", "3,01637037dg", "3,0fedcba98765432101234abcd"}) {
    older.set_file_id(id);
    EXPECT_FALSE(ParseSeaweedChunk(older)) << id;
  }
}

TEST(SeaweedChunk, UnsoundPlacesAreRefused) {
  filer_pb::FileChunk chunk;
  chunk.mutable_fid()->set_volume_id(3);
  chunk.set_offset(-1);
  EXPECT_EQ(ParseSeaweedChunk(chunk).error().code(), Code::kDataLoss);
  chunk.set_offset(INT64_MAX);
  chunk.set_size(1);
  EXPECT_EQ(ParseSeaweedChunk(chunk).error().code(), Code::kDataLoss);
  chunk.set_offset(0);
  chunk.set_size(UINT64_MAX);
  EXPECT_THAT(ParseSeaweedChunk(chunk).error().message(), HasSubstr("lies outside any file"));
}

filer_pb::Entry File() {
  filer_pb::Entry entry;
  entry.mutable_attributes()->set_file_mode(0640);
  entry.mutable_attributes()->set_mtime(1'700'000'000);
  entry.mutable_attributes()->set_mtime_ns(5);
  entry.mutable_attributes()->set_file_size(10);
  filer_pb::FileChunk* chunk = entry.add_chunks();
  chunk->mutable_fid()->set_volume_id(3);
  chunk->mutable_fid()->set_file_key(1);
  chunk->set_size(10);
  chunk->set_modified_ts_ns(77);
  return entry;
}

SeaweedEntry Parsed(const filer_pb::Entry& entry) {
  const Result<std::optional<SeaweedEntry>> parsed = ParseSeaweedEntry(entry);
  EXPECT_TRUE(parsed.has_value() && parsed->has_value());
  return parsed.has_value() && parsed->has_value() ? **parsed : SeaweedEntry{};
}

TEST(SeaweedEntry, AttributesAreThoseOfStat) {
  filer_pb::Entry entry = File();
  entry.mutable_attributes()->set_uid(7);
  entry.set_hard_link_counter(3);
  const ObjectInfo file = Parsed(entry).info;
  EXPECT_EQ(file.type, FileType::kRegular);
  EXPECT_EQ(file.mode, 0640U);
  EXPECT_EQ(file.uid, 7U);
  EXPECT_EQ(file.nlink, 3U);
  EXPECT_EQ(file.mtime_ns, 1'700'000'000'000'000'005);
  EXPECT_EQ(file.ctime_ns, file.mtime_ns);
  // Go's bits of type and setuid are elsewhere.
  entry.mutable_attributes()->set_file_mode(1U << 23 | 1U << 20 | 0755);
  EXPECT_EQ(Parsed(entry).info.mode, 05755U);
  entry.mutable_attributes()->set_file_mode(1U << 27 | 0777);
  entry.mutable_attributes()->set_symlink_target("../elsewhere");
  EXPECT_EQ(Parsed(entry).info.type, FileType::kSymlink);
  EXPECT_EQ(Parsed(entry).info.symlink_target, "../elsewhere");
  EXPECT_EQ(Parsed(entry).info.size, 12U);
  for (const int bit : {19, 21, 24, 25, 26}) {
    entry.mutable_attributes()->set_file_mode(1U << bit | 0644);
    EXPECT_FALSE(ParseSeaweedEntry(entry)->has_value()) << bit;
  }
  entry.mutable_attributes()->set_mtime(INT64_MAX);  // whatever somebody wrote
  entry.mutable_attributes()->set_file_mode(0644);
  EXPECT_GT(Parsed(entry).info.mtime_ns, 0);
}

TEST(SeaweedEntry, TheSizeIsTheLargestThatAnythingSays) {
  filer_pb::Entry entry = File();
  EXPECT_EQ(Parsed(entry).info.size, 10U);
  entry.mutable_attributes()->set_file_size(1000);  // sparse
  EXPECT_EQ(Parsed(entry).info.size, 1000U);
  entry.mutable_chunks(0)->set_offset(2000);
  EXPECT_EQ(Parsed(entry).info.size, 2010U);
  entry.clear_chunks();
  entry.set_content(std::string(1500, 'x'));
  EXPECT_EQ(Parsed(entry).info.size, 1500U);
}

TEST(SeaweedEntry, AnotherVersionForEveryOtherContent) {
  std::set<std::string> versions;
  const auto add = [&](const filer_pb::Entry& entry) {
    const SeaweedEntry parsed = Parsed(entry);
    EXPECT_EQ(parsed.info.version, parsed.layout->version);
    EXPECT_EQ(parsed.info.version, Parsed(entry).info.version);
    EXPECT_TRUE(versions.insert(parsed.info.version).second);
  };
  add(File());
  filer_pb::Entry entry = File();
  entry.mutable_chunks(0)->mutable_fid()->set_file_key(2);
  add(entry);
  entry.mutable_chunks(0)->mutable_fid()->set_cookie(9);
  add(entry);
  entry.mutable_chunks(0)->set_modified_ts_ns(78);
  add(entry);
  entry.mutable_attributes()->set_mtime_ns(6);
  add(entry);
  entry.mutable_attributes()->set_file_size(11);
  add(entry);
  entry.clear_chunks();
  add(entry);
  entry.set_content("a");
  add(entry);
  entry.set_content("b");
  add(entry);
  entry.clear_content();
  entry.mutable_remote_entry()->set_remote_size(11);
  add(entry);
  entry.mutable_remote_entry()->set_remote_e_tag("x");
  add(entry);
  // What does not change the bytes does not change the version.
  entry.mutable_attributes()->set_uid(5);
  entry.mutable_attributes()->set_file_mode(0600);
  EXPECT_TRUE(versions.contains(Parsed(entry).info.version));
}

}  // namespace
}  // namespace mlcache::store
