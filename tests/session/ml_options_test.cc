// Each ml.* option of a mount changes something that the store or the cache can count.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/session/harness.h"

namespace mlcache::testing {
namespace {

using cache::kChunkBytes;
using ring::kRootNode;
using ring::Op;

class MlOptionsTest : public SessionTest {
 protected:
  static constexpr uint64_t kChunks = 6;

  static session::Hello Hello() { return SessionClient::HelloFor(kUrl); }
  void PutLargeFile() { store_->Put("file", std::string(kChunks * kChunkBytes, 'x')); }

  // Two reads from the beginning of "file", which make it a run.
  uint64_t BeginRun(SessionClient& client) {
    const uint64_t node = client.Walk("file");
    const Reply opened = client.Open(node);
    EXPECT_TRUE(opened.ok());
    for (const uint64_t offset : {uint64_t{0}, kMiB}) {
      EXPECT_TRUE(client.Read(node, opened.completion.handle, offset, kMiB).ok());
    }
    return node;
  }
  size_t ReadsAhead() const {
    const auto log = store_->read_log();
    return static_cast<size_t>(
        std::ranges::count_if(log, [](const auto& read) { return read.priority != store::Priority::kDemand; }));
  }
};

TEST_F(MlOptionsTest, ByDefaultARunIsFetchedAhead) {
  PutLargeFile();
  Start();
  auto client = Mount();
  BeginRun(*client);
  EXPECT_TRUE(Eventually([this] { return ReadsAhead() >= 2; }));
  const Reply stats = client->Call(SessionClient::Make(Op::kStats, kRootNode));
  const auto mount = nlohmann::json::parse(stats.bytes).at("mount");
  EXPECT_EQ(mount.at("optimization"), true);
  EXPECT_EQ(mount.at("prefetch_accuracy"), 1.0);
  EXPECT_GT(mount.at("read_stall_seconds"), 0.0);
}

TEST_F(MlOptionsTest, WithoutOptimizationOnlyWhatIsReadIsFetched) {
  PutLargeFile();
  Start();
  session::Hello hello = Hello();
  hello.mutable_options()->set_ml_optimization(false);
  auto client = Mount(hello);
  ASSERT_TRUE(client->ReadAll(client->Walk("file")));
  EXPECT_EQ(ReadsAhead(), 0U);
  EXPECT_EQ(store_->read_bytes(), kChunks * kChunkBytes);  // each chunk that is read, once
  EXPECT_EQ(metrics_.prefetch_issued_bytes.Value(), 0);
  EXPECT_EQ(metrics_.sequential_detected.Value(), 0);
  ASSERT_TRUE(client->ReadAll(client->Walk("file")));
  EXPECT_EQ(store_->read_bytes(), kChunks * kChunkBytes);  // the cache stays
  const Reply stats = client->Call(SessionClient::Make(Op::kStats, kRootNode));
  EXPECT_EQ(nlohmann::json::parse(stats.bytes).at("mount").at("optimization"), false);
}

TEST_F(MlOptionsTest, OfOneMountAtMostSoManyFetchesAheadAreOnTheirWay) {
  Start();
  for (const uint32_t workers : {2U, 1U}) {
    SCOPED_TRACE(workers);
    store_->Put("file", std::string(kChunks * kChunkBytes, 'x'));  // a new version, of which nothing is cached
    clock_.Advance(std::chrono::seconds(20));
    session::Hello hello = Hello();
    hello.mutable_options()->set_ml_prefetch_workers(workers);
    auto client = Mount(hello);
    const uint64_t node = client->Walk("file");
    const uint64_t handle = client->Open(node).completion.handle;
    const size_t before = ReadsAhead();
    EXPECT_TRUE(client->Read(node, handle, 0, kMiB).ok());
    // The rest of the chunk comes after the reader has what it asked for.
    ASSERT_TRUE(Eventually([&] { return metrics_.fetches_in_flight.Value() == 0; }));
    store_->BlockReads();
    const uint64_t second = client->Submit(SessionClient::ReadOf(node, handle, kMiB, kMiB));
    store_->WaitForBlockedReads(workers);
    // A reader passes what waits.
    const uint64_t far = client->Submit(SessionClient::ReadOf(node, 0, 5 * kChunkBytes, 100), 1);
    store_->WaitForBlockedReads(workers + 1);
    EXPECT_EQ(ReadsAhead() - before, workers);
    store_->UnblockReads();
    EXPECT_TRUE(client->Wait(second)->ok());
    EXPECT_TRUE(client->Wait(far, 1)->ok());
  }
}

TEST_F(MlOptionsTest, NoWorkersNoFetchesAhead) {
  PutLargeFile();
  Start();
  session::Hello hello = Hello();
  hello.mutable_options()->set_ml_prefetch_workers(0);
  auto client = Mount(hello);
  ASSERT_TRUE(client->ReadAll(client->Walk("file")));
  EXPECT_EQ(ReadsAhead(), 0U);
  EXPECT_EQ(metrics_.sequential_detected.Value(), 1);  // detection is on
}

TEST_F(MlOptionsTest, DatasetPathAnswersLookUpsFromMemory) {
  for (const char* const name : {"train/a/1", "train/a/2", "train/b/c/3", "other/4"}) store_->Put(name, "x");
  Start();
  session::Hello hello = Hello();
  hello.mutable_options()->set_ml_dataset_path("/train/");
  auto client = Mount(hello);
  EXPECT_TRUE(Eventually([this] { return store_->lists() >= 4; }));  // train, a, b, c
  const uint64_t train = client->Walk("train");
  const uint64_t lists = store_->lists();
  const uint64_t stats = store_->stats();
  for (const char* const name : {"a/1", "a/2", "b/c/3"}) {
    uint64_t node = train;
    for (std::string_view rest = name; !rest.empty();) {
      const size_t slash = rest.find('/');
      const Reply reply = client->Lookup(node, rest.substr(0, slash));
      ASSERT_TRUE(reply.ok()) << name;
      node = reply.attributes().node;
      rest = slash == std::string_view::npos ? std::string_view() : rest.substr(slash + 1);
    }
  }
  EXPECT_EQ(store_->lists(), lists);
  EXPECT_EQ(store_->stats(), stats);
  EXPECT_NE(client->Walk("other/4"), 0U);
  EXPECT_GT(store_->lists() + store_->stats(), lists + stats);  // what was not named is asked for
}

TEST_F(MlOptionsTest, DatasetPathThatIsNoneRefusesTheMount) {
  store_->Put("train/file", "x");
  Start();
  session::Hello hello = Hello();
  hello.mutable_options()->set_ml_dataset_path("/trian");
  const Error missing = Refusal(hello);
  EXPECT_EQ(missing.code(), Code::kNotFound);
  EXPECT_NE(missing.message().find("ml.datasetPath=/trian: there is no such directory"), std::string::npos) << missing;
  hello.mutable_options()->set_ml_dataset_path("/train/file");
  EXPECT_NE(Refusal(hello).message().find("is no directory"), std::string::npos);
  hello.mutable_options()->set_ml_dataset_path("/train/../secret");
  EXPECT_EQ(Refusal(hello).code(), Code::kInvalidArgument);
}

TEST_F(MlOptionsTest, AStoreThatDoesNotAnswerIsNoWrongDatasetPath) {
  store_->Put("train/file", "x");
  Start();
  session::Hello hello = Hello();
  hello.mutable_options()->set_ml_dataset_path("train");
  store_->FailNext(FakeObjectStore::Op::kStat, Error(Code::kUnavailable, "away"));
  auto client = Mount(hello);
  ASSERT_NE(client, nullptr);
  EXPECT_NE(client->Walk("train/file"), 0U);
}

TEST_F(MlOptionsTest, LoadingAheadEndsWithTheMount) {
  for (int i = 0; i < 300; ++i) store_->Put("d" + std::to_string(i) + "/file", "x");
  Start();
  session::Hello hello = Hello();
  hello.mutable_options()->set_ml_dataset_path("/");
  for (int round = 0; round < 5; ++round) {
    auto client = Mount(hello);
    ASSERT_NE(client, nullptr);
    client.reset();
    EXPECT_TRUE(AllIdle());
  }
}

TEST_F(MlOptionsTest, MetadataMayBeAsOldAsTrainingModeAllows) {
  store_->Put("file", "x");
  Start();
  session::Hello hello = Hello();
  hello.mutable_options()->set_attr_ttl_ns(600'000'000'000);  // what the shim makes of ml.trainingMode
  auto client = Mount(hello);
  EXPECT_EQ(client->Lookup(kRootNode, "file").attributes().entry_timeout_ns, 600'000'000'000U);
  const uint64_t asked = store_->stats() + store_->lists();
  clock_.Advance(std::chrono::minutes(9));
  EXPECT_TRUE(client->Lookup(kRootNode, "file").ok());
  EXPECT_EQ(store_->stats() + store_->lists(), asked);
  clock_.Advance(std::chrono::minutes(2));
  store_->Put("file", "changed");
  EXPECT_EQ(client->Lookup(kRootNode, "file").attributes().size, 7U);
}

TEST_F(MlOptionsTest, WhatMeansNothingIsRefused) {
  store_->Put("file", "x");
  Start();
  session::Hello hello = Hello();
  hello.mutable_options()->set_ml_prefetch_workers(5000);
  EXPECT_NE(Refusal(hello).message().find("at most 1024"), std::string::npos);
}

}  // namespace
}  // namespace mlcache::testing
