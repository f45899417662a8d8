// Every operation of the ring, answered by a real server over real sockets and channels.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "tests/session/harness.h"

namespace mlcache::testing {
namespace {

using ring::kRootNode;
using ring::Op;

std::string Pattern(size_t length, unsigned seed = 1) {
  std::string bytes(length, '\0');
  for (size_t i = 0; i < length; ++i) bytes[i] = static_cast<char>((i * 31 + i / 251 + seed) & 0xff);
  return bytes;
}

class OperationsTest : public SessionTest {};

TEST_F(OperationsTest, LooksUpAndDescribes) {
  store_->Put("a/b/file", "hello");
  store_->Edit("a/b/file", [](auto& info) {
    info.uid = 7;
    info.gid = 8;
    info.mode = 04640;
    info.mtime_ns = 123;
  });
  Start();
  auto client = Mount();
  const uint64_t directory = client->Walk("a/b");
  ASSERT_NE(directory, 0U);
  const Reply file = client->Lookup(directory, "file");
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(file.attributes().size, 5U);
  EXPECT_EQ(file.attributes().mode, static_cast<uint32_t>(S_IFREG | 0640));  // setuid is inert and not shown
  EXPECT_EQ(file.attributes().uid, 7U);
  EXPECT_EQ(file.attributes().gid, 8U);
  EXPECT_EQ(file.attributes().mtime_ns, 123);
  EXPECT_NE(file.attributes().inode, 0U);
  EXPECT_EQ(file.attributes().entry_timeout_ns, 10'000'000'000U);
  EXPECT_GT(file.attributes().node, kRootNode);
  EXPECT_LT(file.attributes().node, 0xffffffff00000000U);
  const Reply again = client->GetAttr(file.attributes().node);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again.attributes().node, file.attributes().node);
  EXPECT_EQ(again.attributes().inode, file.attributes().inode);
  const Reply root = client->GetAttr(kRootNode);
  ASSERT_TRUE(root.ok());
  EXPECT_EQ(root.attributes().mode, static_cast<uint32_t>(S_IFDIR | 0755));
}

TEST_F(OperationsTest, TimeoutsAreWhatIsLeftOfTheAge) {
  store_->Put("file", "x");
  Start();
  auto client = Mount();
  const uint64_t node = client->Lookup(kRootNode, "file").attributes().node;
  const uint64_t asked = store_->stats();
  clock_.Advance(std::chrono::seconds(4));
  EXPECT_EQ(client->GetAttr(node).attributes().attr_timeout_ns, 6'000'000'000U);
  EXPECT_EQ(store_->stats(), asked);
  clock_.Advance(std::chrono::seconds(7));
  EXPECT_EQ(client->GetAttr(node).attributes().attr_timeout_ns, 10'000'000'000U);
  EXPECT_EQ(store_->stats(), asked + 1);
}

TEST_F(OperationsTest, AbsentNamesAreRememberedForTheNegativeTtl) {
  Start();
  auto client = Mount();
  const Reply absent = client->Lookup(kRootNode, "nothing");
  EXPECT_EQ(absent.code(), Code::kNotFound);
  EXPECT_EQ(absent.attributes().entry_timeout_ns, 1'000'000'000U);
  store_->Put("nothing", "now there");
  EXPECT_EQ(client->Lookup(kRootNode, "nothing").code(), Code::kNotFound);
  clock_.Advance(std::chrono::milliseconds(1001));
  EXPECT_TRUE(client->Lookup(kRootNode, "nothing").ok());
}

TEST_F(OperationsTest, OverridesAndImmutableTimeouts) {
  store_->Put("dir/file", "x");
  store_->Edit("dir/file", [](auto& info) { info.mode = 0755; });
  Start();
  session::Hello hello = SessionClient::HelloFor(kUrl);
  hello.mutable_options()->set_uid(1234);
  hello.mutable_options()->set_gid(4321);
  hello.mutable_options()->set_umask(027);
  hello.mutable_options()->set_immutable(true);
  auto client = Mount(hello);
  const Reply directory = client->Lookup(kRootNode, "dir");
  EXPECT_EQ(directory.attributes().mode, static_cast<uint32_t>(S_IFDIR | 0750));
  const Reply file = client->Lookup(directory.attributes().node, "file");
  EXPECT_EQ(file.attributes().mode, static_cast<uint32_t>(S_IFREG | 0750));
  EXPECT_EQ(file.attributes().uid, 1234U);
  EXPECT_EQ(file.attributes().gid, 4321U);
  EXPECT_GE(file.attributes().entry_timeout_ns, uint64_t{365} * 24 * 3600 * 1'000'000'000);
}

TEST_F(OperationsTest, ReadsAllSizesAtAllBorders) {
  for (const size_t size : {size_t{0}, size_t{1}, size_t{4095}, size_t{65536}, size_t{65537}, (size_t{4} << 20) - 1,
                            size_t{4} << 20, (size_t{4} << 20) + 1}) {
    const std::string name = "file" + std::to_string(size);
    store_->Put(name, Pattern(size));
  }
  Start();
  auto client = Mount();
  const auto entries = client->ReadDirectory(kRootNode);
  ASSERT_TRUE(entries);
  ASSERT_EQ(entries->size(), 8U);
  for (const NamedEntry& entry : *entries) {
    const std::string expected = Pattern(entry.entry.attributes.size);
    const auto bytes = client->ReadAll(entry.entry.attributes.node);
    ASSERT_TRUE(bytes) << entry.name;
    EXPECT_TRUE(*bytes == expected) << entry.name;
    const auto again = client->ReadAll(entry.entry.attributes.node, 100'003);
    ASSERT_TRUE(again) << entry.name;
    EXPECT_TRUE(*again == expected) << entry.name;
    // Handle 0 and a stale handle read by the node; reads end at the end.
    for (const uint64_t handle : {uint64_t{0}, uint64_t{77}}) {
      const Reply tail = client->Read(entry.entry.attributes.node, handle, expected.size() / 2, 1 << 20);
      ASSERT_TRUE(tail.ok());
      EXPECT_TRUE(tail.bytes == expected.substr(expected.size() / 2, 1 << 20));
      const Reply behind = client->Read(entry.entry.attributes.node, handle, expected.size(), 10);
      EXPECT_TRUE(behind.ok());
      EXPECT_EQ(behind.bytes, "");
      EXPECT_EQ(behind.completion.slot, ring::kNoSlot);
    }
  }
}

// What a walk costs at a store whose attributes cost a request each, and what it is told.
class DearAttributesTest : public OperationsTest {
 protected:
  static constexpr int kFiles = 40;

  DearAttributesTest() {
    store_->set_dear_attributes(true);
    for (int d = 0; d < 40; ++d) {
      for (int i = 0; i < kFiles; ++i) store_->Put(Directory(d) + "/f" + std::to_string(i), std::string(i, 'x'));
    }
  }

  static std::string Directory(int d) { return "d" + std::to_string(d); }

  // How many of the directory's entries came with their attributes; those must be right.
  int Described(SessionClient& client, int d) {
    const auto entries = client.ReadDirectory(client.Walk(Directory(d)));
    EXPECT_TRUE(entries && entries->size() == kFiles);
    int described = 0;
    for (const NamedEntry& entry : entries.value_or(std::vector<NamedEntry>())) {
      EXPECT_EQ(entry.entry.attributes.mode & S_IFMT, static_cast<uint32_t>(S_IFREG)) << entry.name;
      EXPECT_NE(entry.entry.attributes.inode, 0U);
      if (entry.entry.attributes.node == 0) continue;
      ++described;
      EXPECT_EQ(entry.entry.attributes.size, std::stoull(entry.name.substr(1)));
      EXPECT_GT(entry.entry.attributes.entry_timeout_ns, 0U);
    }
    return described;
  }
};

TEST_F(DearAttributesTest, AWalkOfNamesAsksForOneDirectorysAttributesAndNoMore) {
  Start();
  auto client = Mount();
  EXPECT_EQ(Described(*client, 0), kFiles);
  for (int d = 1; d < 10; ++d) EXPECT_EQ(Described(*client, d), 0);
  EXPECT_LE(store_->stats(), 12U);  // the directories
  EXPECT_LE(store_->lists(), 11U);  // and of one its attributes
}

TEST_F(DearAttributesTest, WhoLooksFilesUpIsGivenAttributesWithTheNamesAgain) {
  Start();
  auto client = Mount();
  Described(*client, 0);
  EXPECT_EQ(Described(*client, 1), 0);
  const Reply file = client->Lookup(client->Walk("d1"), "f7");
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(file.attributes().size, 7U);
  for (int d = 2; d < 34; ++d) EXPECT_EQ(Described(*client, d), kFiles);
  EXPECT_EQ(Described(*client, 34), 0);       // nobody needed them
  EXPECT_EQ(Described(*client, 33), kFiles);  // what memory has costs nothing
}

TEST_F(DearAttributesTest, LookupsInOrderGiveIdsToThoseThatFollow) {
  Start();
  auto client = Mount();
  const uint64_t directory = client->Walk("d1");
  std::set<std::string> names;
  for (int i = 0; i < kFiles; ++i) names.insert("f" + std::to_string(i));
  const size_t before = nodes_.size();
  size_t looked_up = 0;
  for (const std::string& name : names) {
    ASSERT_TRUE(client->Lookup(directory, name).ok());
    // The sixteenth brings the attributes of all, and follows a name that was looked up.
    EXPECT_EQ(nodes_.size() - before, ++looked_up < 16 ? looked_up : kFiles) << name;
  }
  EXPECT_LE(store_->stats(), 18U);
}

TEST_F(DearAttributesTest, AnImmutableMountFetchesAttributesOnceForGood) {
  Start();
  session::Hello hello = SessionClient::HelloFor(kUrl);
  hello.mutable_options()->set_immutable(true);
  auto client = Mount(hello);
  for (int d = 0; d < 4; ++d) EXPECT_EQ(Described(*client, d), kFiles);
  const uint64_t asked = store_->stats() + store_->lists();
  EXPECT_EQ(client->Lookup(client->Walk("d3"), "f9").attributes().size, 9U);
  EXPECT_EQ(store_->stats() + store_->lists(), asked);
}

TEST_F(DearAttributesTest, ADirectoryThatGoesWhileItIsReadKeepsItsNames) {
  Start();
  auto client = Mount();
  const uint64_t directory = client->Walk("d0");
  const Reply opened = client->Call(SessionClient::Make(Op::kOpenDir, directory));
  ASSERT_TRUE(opened.ok());
  store_->Remove("d0");
  const auto entries = client->ReadDirectory(directory, 1 << 20, opened.completion.handle);
  ASSERT_TRUE(entries);
  ASSERT_EQ(entries->size(), static_cast<size_t>(kFiles));
  EXPECT_EQ(entries->front().entry.attributes.node, 0U);
}

TEST_F(OperationsTest, ListsPagesWithStableCookies) {
  for (int i = 0; i < 500; ++i)
    store_->Put("dir/" + std::string(static_cast<size_t>(1 + i % 200), 'n') + std::to_string(i), "x");
  store_->set_page_entries(77);
  Start();
  auto client = Mount();
  const uint64_t directory = client->Walk("dir");
  const auto large = client->ReadDirectory(directory);
  const auto small = client->ReadDirectory(directory, 600);
  const auto bare = client->ReadDirectory(directory, 4096, 0);
  ASSERT_TRUE(large && small && bare);
  ASSERT_EQ(large->size(), 500U);
  ASSERT_EQ(small->size(), 500U);
  ASSERT_EQ(bare->size(), 500U);
  for (size_t i = 0; i < large->size(); ++i) {
    const NamedEntry& entry = (*large)[i];
    if (i > 0) {
      EXPECT_LT((*large)[i - 1].name, entry.name);
    }
    EXPECT_GE(entry.entry.next_cookie, 3U);
    EXPECT_EQ(entry.entry.last, i + 1 == large->size() ? 1 : 0);
    EXPECT_EQ((*small)[i].name, entry.name);
    EXPECT_EQ((*small)[i].entry.next_cookie, entry.entry.next_cookie);
    EXPECT_EQ((*bare)[i].entry.attributes.node, entry.entry.attributes.node);
  }
  EXPECT_EQ(client->Lookup(directory, (*large)[10].name).attributes().node, (*large)[10].entry.attributes.node);
  // A handle keeps the listing it began with.
  const Reply opened = client->Call(SessionClient::Make(Op::kOpenDir, directory));
  store_->Remove("dir");
  store_->PutDirectory("dir");
  clock_.Advance(std::chrono::seconds(11));
  EXPECT_EQ(client->ReadDirectory(directory, 4096, opened.completion.handle)->size(), 500U);
  EXPECT_TRUE(client->ReadDirectory(directory)->empty());
  ring::Submission tiny = SessionClient::Make(Op::kReadDir, directory);
  tiny.handle = opened.completion.handle;
  tiny.length = 40;
  EXPECT_EQ(client->Call(tiny).code(), Code::kInvalidArgument);
}

TEST_F(OperationsTest, NamesOnlyGiveOutNoNodes) {
  store_->PutDirectory("dir");
  store_->Put("dir/file", "bytes");
  Start();
  auto client = Mount();
  const uint64_t directory = client->Walk("dir");
  ring::Submission submission = SessionClient::Make(Op::kReadDir, directory);
  submission.handle = client->Call(SessionClient::Make(Op::kOpenDir, directory)).completion.handle;
  submission.flags = ring::kNamesOnly;
  submission.length = 4096;
  const std::vector<NamedEntry> names = SessionClient::Entries(client->Call(submission).bytes);
  ASSERT_EQ(names.size(), 1U);
  EXPECT_EQ(names[0].name, "file");
  EXPECT_EQ(names[0].entry.attributes.node, 0U);
  const ring::NodeAttributes file = client->Lookup(directory, "file").attributes();
  EXPECT_EQ(names[0].entry.attributes.inode, file.inode);
  EXPECT_EQ(names[0].entry.attributes.mode & S_IFMT, file.mode & S_IFMT);
}

TEST_F(OperationsTest, TheKernelIsToldWhenItsListingIsStillTrue) {
  store_->PutDirectory("dir");
  store_->Put("dir/file", "bytes");
  Start();
  auto client = Mount();
  const uint64_t directory = client->Walk("dir");
  const auto open = [&] { return client->Call(SessionClient::Make(Op::kOpenDir, directory)).completion; };
  const auto close = [&](const ring::Completion& opened) {
    ring::Submission submission = SessionClient::Make(Op::kReleaseDir, directory);
    submission.handle = opened.handle;
    client->Submit(submission);
  };
  const ring::Completion first = open();
  EXPECT_EQ(first.flags & ring::kListingUnchanged, 0U);
  const ring::Completion second = open();
  EXPECT_NE(second.flags & ring::kListingUnchanged, 0U);
  close(second);
  clock_.Advance(std::chrono::seconds(11));
  // `first` may go on filling the kernel's copy from the listing before: nothing of that copy can be trusted.
  const ring::Completion third = open();
  EXPECT_EQ(third.flags & ring::kListingUnchanged, 0U);
  EXPECT_EQ(open().flags & ring::kListingUnchanged, 0U);
  EXPECT_EQ(Mount()->Call(SessionClient::Make(Op::kOpenDir, directory)).completion.flags & ring::kListingUnchanged, 0U);
}

TEST_F(OperationsTest, SymlinksStatFsXattrsStats) {
  store_->PutSymlink("link", "../some where");
  const std::string version = store_->Put("file", Pattern(100'000));
  Start();
  auto client = Mount();
  const uint64_t link = client->Walk("link");
  EXPECT_EQ(client->Call(SessionClient::Make(Op::kReadLink, link)).bytes, "../some where");
  const uint64_t file = client->Walk("file");
  EXPECT_EQ(client->Call(SessionClient::Make(Op::kReadLink, file)).code(), Code::kInvalidArgument);

  const Reply space = client->Call(SessionClient::Make(Op::kStatFs, kRootNode));
  ASSERT_EQ(space.bytes.size(), sizeof(ring::StatFsReply));
  ring::StatFsReply numbers;
  std::memcpy(&numbers, space.bytes.data(), sizeof(numbers));
  EXPECT_EQ(numbers.blocks * numbers.block_bytes, 1U << 30);
  EXPECT_EQ(numbers.blocks_free * numbers.block_bytes, 1U << 29);
  EXPECT_EQ(numbers.files, 1000U);

  EXPECT_EQ(client->GetXattr(file, "user.mlcache.version").bytes, ToHex(std::as_bytes(std::span(version))));
  EXPECT_EQ(client->GetXattr(file, "user.mlcache.cached").bytes, "0/100000");
  EXPECT_EQ(client->GetXattr(file, "user.mlcache.tier").bytes, "none");
  ASSERT_TRUE(client->ReadAll(file));
  EXPECT_TRUE(Eventually([&] { return client->GetXattr(file, "user.mlcache.cached").bytes == "100000/100000"; }));
  EXPECT_EQ(client->GetXattr(file, "user.mlcache.tier", 64).bytes, "memory");
  EXPECT_EQ(client->GetXattr(file, "user.mlcache.tier", 3).code(), Code::kOutOfRange);
  EXPECT_EQ(client->GetXattr(file, "trusted.overlay.redirect").code(), Code::kNotFound);
  EXPECT_EQ(client->GetXattr(kRootNode, "user.mlcache.tier").code(), Code::kNotFound);
  const std::string names = client->Call(SessionClient::Make(Op::kListXattr, file)).bytes;
  EXPECT_EQ(names, std::string("user.mlcache.version\0user.mlcache.cached\0user.mlcache.tier\0", 59));

  const Reply stats = client->Call(SessionClient::Make(Op::kStats, kRootNode));
  const auto json = nlohmann::json::parse(stats.bytes);
  EXPECT_EQ(json["mount"]["mountpoint"], "/mnt/test");
  EXPECT_EQ(json["daemon"]["mounts"], 1);
  EXPECT_EQ(json["daemon"]["requests_total"]["ok"]["readlink"], 1);
}

TEST_F(OperationsTest, AReplacedFileIsStaleAtOpenAndNewAtLookup) {
  store_->Put("file", Pattern(300'000, 1));
  Start();
  auto client = Mount();
  const Reply old = client->Lookup(kRootNode, "file");
  const uint64_t old_node = old.attributes().node;
  const Reply handle = client->Open(old_node);
  ASSERT_TRUE(handle.ok());
  ASSERT_TRUE(client->ReadAll(old_node));
  store_->Put("file", Pattern(200'000, 2));
  EXPECT_TRUE(client->Open(old_node).ok());  // within attr_ttl nobody has looked
  clock_.Advance(std::chrono::seconds(11));
  EXPECT_EQ(client->Open(old_node).code(), Code::kFailedPrecondition);
  const Reply fresh = client->Lookup(kRootNode, "file");
  EXPECT_NE(fresh.attributes().node, old_node);
  EXPECT_EQ(fresh.attributes().inode, old.attributes().inode);
  EXPECT_EQ(fresh.attributes().size, 200'000U);
  EXPECT_TRUE(*client->ReadAll(fresh.attributes().node) == Pattern(200'000, 2));
  // The handle opened before keeps its version, and what fstat says of it stays true.
  EXPECT_TRUE(client->Read(old_node, handle.completion.handle, 1000, 5000).bytes ==
              Pattern(300'000, 1).substr(1000, 5000));
  const Reply attributes = client->GetAttr(old_node);
  EXPECT_EQ(attributes.attributes().size, 300'000U);
  EXPECT_EQ(attributes.attributes().nlink, 0U);
  EXPECT_EQ(attributes.attributes().attr_timeout_ns, 0U);
}

TEST_F(OperationsTest, AVersionThatTheStoreNoLongerHasIsFoundOutByReading) {
  store_->Put("file", Pattern(300'000, 1));
  Start();
  auto client = Mount();
  const uint64_t node = client->Walk("file");
  const Reply handle = client->Open(node);
  store_->Put("file", Pattern(300'000, 2));
  EXPECT_EQ(client->Read(node, handle.completion.handle, 0, 1000).code(), Code::kFailedPrecondition);
  // Without waiting for attr_ttl the next lookup knows.
  EXPECT_EQ(client->Open(node).code(), Code::kFailedPrecondition);
  const uint64_t fresh = client->Walk("file");
  EXPECT_NE(fresh, node);
  EXPECT_TRUE(*client->ReadAll(fresh) == Pattern(300'000, 2));
}

TEST_F(OperationsTest, UnsettledFilesAreServedAndNotKept) {
  store_->Put("young", Pattern(100'000));
  store_->Edit("young", [](auto& info) { info.settled = false; });
  Start();
  auto client = Mount();
  const Reply young = client->Lookup(kRootNode, "young");
  EXPECT_EQ(young.attributes().entry_timeout_ns, 0U);
  EXPECT_EQ(young.attributes().attr_timeout_ns, 0U);
  const uint64_t asked = store_->stats();
  EXPECT_EQ(client->GetAttr(young.attributes().node).attributes().attr_timeout_ns, 0U);
  EXPECT_EQ(store_->stats(), asked + 1);
  EXPECT_TRUE(*client->ReadAll(young.attributes().node) == Pattern(100'000));
  EXPECT_EQ(client->GetXattr(young.attributes().node, "user.mlcache.cached").bytes, "0/100000");
  EXPECT_EQ(cache_.used_bytes(), 0U);
  const auto listed = client->ReadDirectory(kRootNode);
  EXPECT_EQ(listed->front().entry.attributes.entry_timeout_ns, 0U);
}

TEST_F(OperationsTest, RefusesBadInput) {
  store_->Put("dir/file", "bytes");
  Start();
  auto client = Mount();
  const uint64_t file = client->Walk("dir/file");
  const uint64_t directory = client->Walk("dir");
  for (const std::string& name :
       {std::string(), std::string("."), std::string(".."), std::string("a/b"), std::string("a\0b", 3)})
    EXPECT_EQ(client->Lookup(kRootNode, name).code(), Code::kInvalidArgument) << name;
  EXPECT_EQ(client->Lookup(file, "x").code(), Code::kInvalidArgument);
  EXPECT_EQ(client->Lookup(424242, "x").code(), Code::kNotFound);
  EXPECT_EQ(client->GetAttr(0).code(), Code::kNotFound);
  EXPECT_EQ(client->GetAttr(UINT64_MAX).code(), Code::kNotFound);
  EXPECT_EQ(client->Open(directory).code(), Code::kInvalidArgument);
  EXPECT_EQ(client->Open(999).code(), Code::kNotFound);
  ring::Submission writing = SessionClient::Make(Op::kOpen, file);
  writing.flags = O_RDWR;
  EXPECT_EQ(client->Call(writing).code(), Code::kPermissionDenied);
  EXPECT_EQ(client->Read(directory, 0, 0, 10).code(), Code::kInvalidArgument);
  EXPECT_EQ(client->Read(file, 0, UINT64_MAX, 10).code(), Code::kInvalidArgument);
  EXPECT_EQ(client->Read(file, 0, INT64_MAX, 10).bytes, "");
  EXPECT_EQ(client->Call(SessionClient::Make(Op::kOpenDir, file)).code(), Code::kInvalidArgument);
  ring::Submission far = SessionClient::Make(Op::kReadDir, directory);
  far.offset = INT64_MAX;
  far.length = 4096;
  EXPECT_EQ(client->Call(far).bytes, "");
}

TEST_F(OperationsTest, WhatNoShimWouldSendEndsTheSession) {
  store_->Put("file", "bytes");
  Start();
  const uint64_t file = Mount()->Walk("file");
  for (const ring::Submission& submission :
       {SessionClient::ReadOf(file, 0, 0, ring::kMaxReadBytes + 1), SessionClient::Make(static_cast<Op>(99), file),
        SessionClient::Make(Op::kNone, file)}) {
    auto client = Mount();
    client->Submit(submission);
    EXPECT_TRUE(client->WaitForEnd());
  }
  auto client = Mount();
  ring::Submission nameless = SessionClient::Make(Op::kGetAttr, file);
  client->channel().Submit(0, nameless);  // id 0
  EXPECT_TRUE(client->WaitForEnd());
}

TEST_F(OperationsTest, StoreErrorsReachTheCaller) {
  store_->Put("file", "bytes");
  Start();
  auto client = Mount();
  store_->FailNext(FakeObjectStore::Op::kStat, Error(Code::kUnavailable, "out of reach"));
  EXPECT_EQ(client->Lookup(kRootNode, "file").code(), Code::kUnavailable);
  const uint64_t node = client->Walk("file");
  ASSERT_NE(node, 0U);
  store_->FailNext(FakeObjectStore::Op::kRead, Error(Code::kDataLoss, "short reply"));
  EXPECT_FALSE(client->Read(node, 0, 0, 5).ok());
  EXPECT_EQ(client->Read(node, 0, 0, 5).bytes, "bytes");
  store_->FailNext(FakeObjectStore::Op::kList, Error(Code::kPermissionDenied, "not yours"));
  EXPECT_EQ(client->Call(SessionClient::Make(Op::kOpenDir, kRootNode)).code(), Code::kPermissionDenied);
}

TEST_F(OperationsTest, NodeRowsThatCannotBeWrittenAreNotGivenOut) {
  store_->Put("file", "bytes");
  Start();
  auto client = Mount();
  nodes_.FailWith(Error(Code::kUnavailable, "the disk is gone"));
  EXPECT_EQ(client->Lookup(kRootNode, "file").code(), Code::kUnavailable);
  nodes_.FailWith(std::nullopt);
  EXPECT_TRUE(client->Lookup(kRootNode, "file").ok());
}

}  // namespace
}  // namespace mlcache::testing
