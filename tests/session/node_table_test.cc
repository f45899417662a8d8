#include "cached/session/node_table.h"

#include <gtest/gtest.h>

#include <set>
#include <thread>

#include "cached/session/attributes.h"
#include "cached/session/codec.h"
#include "cached/session/path.h"
#include "tests/fakes/fake_key_value.h"

namespace mlcache::session {
namespace {

store::ObjectInfo File(const std::string& version, uint64_t size = 10) { return {.size = size, .version = version}; }

uint64_t AssignOne(NodeTable& table, const std::string& path, const store::ObjectInfo& info,
                   const std::string& identity = "file://") {
  const NodeRequest request{.path = path, .info = &info};
  const auto ids = table.Assign(identity, std::span(&request, 1));
  EXPECT_TRUE(ids.has_value());
  return ids.has_value() ? ids->front() : 0;
}

TEST(NodeTable, NamesVersionsOfPathsOfStores) {
  cache::FakeKeyValue rows;
  NodeTable table(rows);
  const uint64_t node = AssignOne(table, "a/b", File("1"));
  EXPECT_EQ(AssignOne(table, "a/b", File("1")), node);
  EXPECT_EQ(table.PeekId("file://", "a/b", File("1")), node);
  EXPECT_EQ(rows.size(), 1U);
  EXPECT_NE(AssignOne(table, "a/b", File("2")), node);
  EXPECT_NE(AssignOne(table, "a/c", File("1")), node);
  EXPECT_NE(AssignOne(table, "a/b", File("1"), "s3://bucket"), node);
  store::ObjectInfo directory{.type = store::FileType::kDirectory};
  const uint64_t changing = AssignOne(table, "a", directory);
  directory.mtime_ns = 5;
  EXPECT_EQ(AssignOne(table, "a", directory), changing);
  EXPECT_EQ(table.Get(node).value()->path, "a/b");
  EXPECT_EQ(table.Get(node).value()->info.size, 10U);
  EXPECT_EQ(table.Get(12345).error().code(), Code::kNotFound);
  EXPECT_EQ(table.Find("file://", "a", directory), changing);
  EXPECT_EQ(table.Find("file://", "zzz", directory), std::nullopt);
  EXPECT_EQ(table.NamesBelow("file://", "a"), (std::vector<std::string>{"b", "c"}));
}

TEST(NodeTable, MeansTheSameAfterARestart) {
  cache::FakeKeyValue rows;
  uint64_t node = 0;
  {
    NodeTable table(rows);
    node = AssignOne(table, "dir/file", File(std::string("v\0\xff", 3), 77));
  }
  NodeTable table(rows);
  EXPECT_EQ(table.Peek(node), nullptr);
  const NodePtr row = table.Get(node).value();
  EXPECT_EQ(row->path, "dir/file");
  EXPECT_EQ(row->info.size, 77U);
  EXPECT_EQ(row->info.version, std::string("v\0\xff", 3));
  EXPECT_NE(table.Peek(node), nullptr);
  EXPECT_EQ(AssignOne(table, "dir/file", File(std::string("v\0\xff", 3))), node);
  EXPECT_EQ(rows.size(), 1U);
}

// With hashes cut to a few bits, ids collide and stay apart, in memory and through the map.
TEST(NodeTable, CollidingKeysGetIdsOfTheirOwn) {
  cache::FakeKeyValue rows;
  constexpr int kKeys = 60;
  std::set<uint64_t> ids;
  {
    NodeTable table(rows, 8, 0xff);
    for (int i = 0; i < kKeys; ++i) ids.insert(AssignOne(table, "f" + std::to_string(i), File("1")));
    EXPECT_LE(table.rows_in_memory(), 8U);
  }
  EXPECT_EQ(ids.size(), size_t{kKeys});
  EXPECT_FALSE(ids.contains(0));
  EXPECT_FALSE(ids.contains(1));
  NodeTable table(rows, 8, 0xff);
  for (int i = kKeys - 1; i >= 0; --i) {
    const uint64_t id = AssignOne(table, "f" + std::to_string(i), File("1"));
    EXPECT_EQ(table.Get(id).value()->path, "f" + std::to_string(i));
  }
  EXPECT_EQ(rows.size(), size_t{kKeys});
  // When no probe finds room it is an error, not an alias.
  bool refused = false;
  for (int i = kKeys; i < 400 && !refused; ++i) {
    const store::ObjectInfo info = File("1");
    const NodeRequest request{.path = "f" + std::to_string(i), .info = &info};
    refused = !table.Assign("file://", std::span(&request, 1)).has_value();
  }
  EXPECT_TRUE(refused);
}

TEST(NodeTable, NothingIsGivenOutThatIsNotDurable) {
  cache::FakeKeyValue rows;
  NodeTable table(rows);
  rows.FailWith(Error(Code::kUnavailable, "disk full"));
  const store::ObjectInfo info = File("1");
  const NodeRequest request{.path = "f", .info = &info};
  EXPECT_FALSE(table.Assign("file://", std::span(&request, 1)).has_value());
  EXPECT_EQ(table.rows_in_memory(), 0U);
  rows.FailWith(std::nullopt);
  EXPECT_EQ(table.PeekId("file://", "f", info), std::nullopt);
  EXPECT_NE(AssignOne(table, "f", info), 0U);
}

TEST(NodeTable, ConcurrentAssignmentsAgree) {
  cache::FakeKeyValue rows;
  NodeTable table(rows, 50, 0xfff);
  std::vector<std::vector<uint64_t>> seen(4);
  {
    std::vector<std::jthread> threads;
    for (auto& ids : seen) {
      threads.emplace_back([&table, &ids] {
        for (int i = 0; i < 200; ++i) ids.push_back(AssignOne(table, "f" + std::to_string(i), File("1")));
      });
    }
  }
  for (const auto& ids : seen) EXPECT_EQ(ids, seen.front());
  EXPECT_EQ(rows.size(), 200U);
}

TEST(Codec, DamageIsNoticed) {
  Listing listing;
  listing.entries.push_back({.name = std::string(255, 'n'), .info = File("v", 5)});
  listing.entries.push_back(
      {.name = "x\n\xc3\xa9", .info = {.type = store::FileType::kSymlink, .symlink_target = "t"}});
  const std::string bytes = EncodeListing(listing, Nanos(42));
  const auto decoded = DecodeListing(bytes);
  ASSERT_TRUE(decoded);
  EXPECT_EQ(decoded->fetched_wall, Nanos(42));
  ASSERT_EQ(decoded->listing.entries.size(), 2U);
  EXPECT_EQ(decoded->listing.entries[1].name, "x\n\xc3\xa9");
  EXPECT_EQ(decoded->listing.entries[1].info.symlink_target, "t");
  EXPECT_EQ(EntriesHash(bytes), EntriesHash(EncodeListing(listing, Nanos(43))));
  const std::string row = EncodeNode({.identity = "file://", .path = "a", .info = File("v")});
  ASSERT_TRUE(DecodeNode(row));
  constexpr size_t kTime = 12;  // the time is not under the hash: its bytes may be any
  for (size_t i = 0; i < bytes.size(); ++i) {
    EXPECT_FALSE(DecodeListing(bytes.substr(0, i)) && i != bytes.size()) << i;
    std::string damaged = bytes;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x10);
    if (i < kTime || i >= kTime + 8) {
      EXPECT_FALSE(DecodeListing(damaged)) << i;
    }
  }
  for (size_t i = 0; i < row.size(); ++i) {
    std::string damaged = row;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x10);
    EXPECT_FALSE(DecodeNode(damaged)) << i;
    EXPECT_FALSE(DecodeNode(row.substr(0, i))) << i;
  }
}

TEST(Path, Rules) {
  EXPECT_TRUE(IsValidName("a b\n\xff"));
  EXPECT_TRUE(IsValidName(std::string(255, 'x')));
  for (const std::string& bad : {std::string(), std::string("."), std::string(".."), std::string("a/b"),
                                 std::string("\0", 1), std::string(256, 'x')})
    EXPECT_FALSE(IsValidName(bad)) << bad;
  EXPECT_TRUE(IsValidPath(""));
  EXPECT_TRUE(IsValidPath("a/b"));
  for (const char* bad : {"/", "/a", "a/", "a//b", "a/../b", "./a"}) EXPECT_FALSE(IsValidPath(bad)) << bad;
  EXPECT_EQ(JoinPath("", "a"), "a");
  EXPECT_EQ(JoinPath("a", ""), "a");
  EXPECT_EQ(ParentOf("a/b/c"), "a/b");
  EXPECT_EQ(ParentOf("a"), "");
  EXPECT_EQ(NameOf("a/b"), "b");
  EXPECT_TRUE(IsWithin("a/b", "a"));
  EXPECT_FALSE(IsWithin("ab", "a"));
  EXPECT_EQ(Below("a/b", "a"), "b");
  EXPECT_EQ(Below("a", "a"), "");
  EXPECT_EQ(Below("a", ""), "a");
}

TEST(Attributes, Timeouts) {
  View view{.attr_ttl = std::chrono::seconds(5), .negative_ttl = std::chrono::seconds(10)};
  const Nanos now = std::chrono::hours(1);
  EXPECT_EQ(TimeoutOf(view, true, now, now), 5'000'000'000U);
  EXPECT_EQ(TimeoutOf(view, true, now - std::chrono::seconds(4), now), 1'000'000'000U);
  EXPECT_EQ(TimeoutOf(view, true, now - std::chrono::seconds(6), now), 0U);
  EXPECT_EQ(TimeoutOf(view, true, Nanos::min(), now), 0U);
  EXPECT_EQ(TimeoutOf(view, true, now + std::chrono::seconds(3), now), 5'000'000'000U);
  EXPECT_EQ(TimeoutOf(view, false, now, now), 0U);
  EXPECT_EQ(NegativeTimeoutOf(view, now, now), 5'000'000'000U);
  view.immutable = true;
  EXPECT_EQ(TimeoutOf(view, false, now, now), 0U);
  EXPECT_GT(TimeoutOf(view, true, Nanos::min(), now), uint64_t{365} * 24 * 3600 * 1'000'000'000);
}

}  // namespace
}  // namespace mlcache::session
