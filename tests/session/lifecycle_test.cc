// Sessions from the handshake to the end: who is let in and sees what, what a restart keeps, what an end frees, and
// what a hostile shim can do.
#include <gtest/gtest.h>

#include <random>
#include <set>
#include <string>
#include <thread>

#include "tests/session/harness.h"

namespace mlcache::testing {
namespace {

using ring::kRootNode;
using ring::Op;
using std::chrono::milliseconds;

class LifecycleTest : public SessionTest {};

TEST_F(LifecycleTest, RefusesWithReasons) {
  store_->Put("file", "x");
  options_.allowed_uids = std::vector<uid_t>{};
  Start();
  session::Hello old = SessionClient::HelloFor(kUrl);
  old.set_protocol_version(77);
  old.set_program_version("9.9");
  const Error version = Refusal(old);
  EXPECT_EQ(version.code(), Code::kFailedPrecondition);
  EXPECT_NE(version.message().find("77"), std::string::npos);
  EXPECT_NE(version.message().find("9.9"), std::string::npos);
  EXPECT_NE(version.message().find("protocol " + std::to_string(ring::kProtocolVersion)), std::string::npos);

  EXPECT_EQ(Refusal(SessionClient::HelloFor("ftp://host/x")).code(), Code::kInvalidArgument);
  const Error missing = Refusal(SessionClient::HelloFor("file:///elsewhere"));
  EXPECT_EQ(missing.code(), Code::kNotFound);
  EXPECT_NE(missing.message().find("/elsewhere"), std::string::npos);
  EXPECT_EQ(Refusal(SessionClient::HelloFor("file:///data/sets/nothing")).code(), Code::kNotFound);
  EXPECT_EQ(Refusal(SessionClient::HelloFor("file:///data/sets/file")).code(), Code::kInvalidArgument);

  session::Hello writable = SessionClient::HelloFor(kUrl);
  writable.mutable_options()->set_read_only(false);
  EXPECT_EQ(Refusal(writable).code(), Code::kUnimplemented);
  session::Hello credential = SessionClient::HelloFor(kUrl);
  credential.mutable_options()->set_credential("team-a");
  EXPECT_NE(Refusal(credential).message().find("team-a"), std::string::npos);
  session::Hello workers = SessionClient::HelloFor(kUrl);
  workers.set_workers(65);
  EXPECT_EQ(Refusal(workers).code(), Code::kInvalidArgument);
  workers.set_workers(0);
  EXPECT_EQ(Refusal(workers).code(), Code::kInvalidArgument);
  const auto garbage = SessionClient::ConnectRaw(socket_dir_, "\xff\xff\xff not a message");
  ASSERT_FALSE(garbage.has_value());
  EXPECT_EQ(garbage.error().code(), Code::kInvalidArgument);
  EXPECT_EQ(metrics_.mounts.Value(), 0);
  // The daemon's own user may always mount.
  EXPECT_NE(Mount(), nullptr);
}

TEST_F(LifecycleTest, AtMostMaxSessions) {
  options_.max_sessions = 2;
  Start();
  auto first = Mount();
  auto second = Mount();
  const Error refused = Refusal(SessionClient::HelloFor(kUrl));
  EXPECT_EQ(refused.code(), Code::kResourceExhausted);
  EXPECT_NE(refused.message().find("--max_sessions"), std::string::npos);
  second.reset();
  EXPECT_TRUE(
      Eventually([&] { return SessionClient::Connect(socket_dir_, SessionClient::HelloFor(kUrl)).has_value(); }));
}

TEST_F(LifecycleTest, AMountSeesItsPrefixAndNothingElse) {
  store_->Put("mine/file", "mine");
  store_->Put("mine2/file", "not mine");
  store_->Put("secret", "not mine");
  Start();
  auto whole = Mount();
  const uint64_t secret = whole->Walk("secret");
  const uint64_t neighbour = whole->Walk("mine2/file");
  const uint64_t directory = whole->Walk("mine2");
  const uint64_t shared = whole->Walk("mine/file");
  ASSERT_TRUE(secret != 0 && neighbour != 0 && directory != 0 && shared != 0);
  auto mine = Mount("file:///data/sets/mine");
  for (const uint64_t node : {secret, neighbour, directory}) {
    EXPECT_EQ(mine->GetAttr(node).code(), Code::kNotFound);
    EXPECT_EQ(mine->Open(node).code(), Code::kNotFound);
    EXPECT_EQ(mine->Read(node, 0, 0, 10).code(), Code::kNotFound);
    EXPECT_EQ(mine->Lookup(node, "file").code(), Code::kNotFound);
    EXPECT_EQ(mine->Call(SessionClient::Make(Op::kOpenDir, node)).code(), Code::kNotFound);
    EXPECT_EQ(mine->GetXattr(node, "user.mlcache.version").code(), Code::kNotFound);
    EXPECT_EQ(mine->Call(SessionClient::Make(Op::kReadLink, node)).code(), Code::kNotFound);
  }
  // Nodes name the file, not the mount.
  EXPECT_EQ(mine->Walk("file"), shared);
  EXPECT_EQ(mine->Read(shared, 0, 0, 10).bytes, "mine");
  EXPECT_EQ(mine->Lookup(kRootNode, "..").code(), Code::kInvalidArgument);
  // Another session's handle is no more than a hint.
  const Reply opened = whole->Open(secret);
  EXPECT_EQ(mine->Read(secret, opened.completion.handle, 0, 10).code(), Code::kNotFound);
  EXPECT_EQ(mine->Read(shared, opened.completion.handle, 0, 10).bytes, "mine");
}

TEST_F(LifecycleTest, ARestartKeepsNodesAndListings) {
  for (int i = 0; i < 100; ++i) store_->Put("dir/file" + std::to_string(i), std::to_string(i));
  Start();
  session::Hello hello = SessionClient::HelloFor(kUrl);
  hello.mutable_options()->set_immutable(true);
  auto client = Mount(hello);
  const uint64_t directory = client->Walk("dir");
  const auto before = client->ReadDirectory(directory);
  ASSERT_EQ(before->size(), 100U);
  const uint64_t file = (*before)[42].entry.attributes.node;
  const std::string bytes = *client->ReadAll(file);
  client.reset();
  Restart();
  const uint64_t lists = store_->lists();
  const uint64_t reads = store_->reads();
  client = Mount(hello);
  // Without looking anything up first, as a kernel does that survived the daemon.
  EXPECT_EQ(client->Read(file, 12345, 0, 10).bytes, bytes);
  EXPECT_EQ(client->GetAttr(file).attributes().node, file);
  const auto after = client->ReadDirectory(directory, 4096, 0);
  ASSERT_EQ(after->size(), 100U);
  for (size_t i = 0; i < after->size(); ++i) {
    EXPECT_EQ((*after)[i].entry.attributes.node, (*before)[i].entry.attributes.node);
    EXPECT_EQ((*after)[i].entry.next_cookie, (*before)[i].entry.next_cookie);
  }
  EXPECT_EQ(store_->lists(), lists);
  EXPECT_EQ(store_->reads(), reads);
}

TEST_F(LifecycleTest, CancelAnswersWithin100Milliseconds) {
  store_->Put("file", std::string(1 << 20, 'x'));
  Start();
  auto client = Mount();
  const uint64_t node = client->Walk("file");
  store_->BlockReads();
  const uint64_t read = client->Submit(SessionClient::ReadOf(node, 0, 0, 1000));
  store_->WaitForBlockedReads(1);
  EXPECT_FALSE(client->Wait(read, 0, 20));
  const Nanos began = SystemClock().Now();
  ring::Submission cancel = SessionClient::Make(Op::kCancel, 0);
  cancel.offset = read;
  client->Submit(cancel);
  const auto reply = client->Wait(read);
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->code(), Code::kCancelled);
#ifndef MLCACHE_SANITIZED
  EXPECT_LT(SystemClock().Now() - began, milliseconds(100));
#endif
  // Cancelling what is not there, or again, does nothing.
  client->Submit(cancel);
  cancel.offset = 999'999;
  client->Submit(cancel);
  store_->UnblockReads();
  EXPECT_EQ(client->Read(node, 0, 5, 3).bytes, "xxx");
  client.reset();
  EXPECT_TRUE(AllIdle());
}

TEST_F(LifecycleTest, DeathWithRequestsInFlightFreesEverything) {
  for (int i = 0; i < 40; ++i) store_->Put("file" + std::to_string(i), std::string(200'000, 'x'));
  Start();
  auto client = Mount();
  const auto entries = client->ReadDirectory(kRootNode);
  store_->BlockReads();
  for (const NamedEntry& entry : *entries)
    client->Submit(SessionClient::ReadOf(entry.entry.attributes.node, 0, 0, 100'000), entry.entry.attributes.node % 2);
  store_->WaitForBlockedReads(4);
  EXPECT_TRUE(Eventually([&] { return metrics_.slots_in_use.Value() > 0; }));
  client.reset();  // as a crash does: sockets closed, nothing released
  EXPECT_TRUE(AllIdle());
  EXPECT_TRUE(Eventually([&] { return server_->Mounts().empty(); }));
  store_->UnblockReads();
  client = Mount();
  EXPECT_EQ(client->ReadAll(client->Walk("file7"))->size(), 200'000U);
}

TEST_F(LifecycleTest, StoppingTheServerEndsBusySessions) {
  store_->Put("file", std::string(1 << 20, 'x'));
  Start();
  auto client = Mount();
  const uint64_t node = client->Walk("file");
  store_->BlockReads();
  client->Submit(SessionClient::ReadOf(node, 0, 0, 1000));
  store_->WaitForBlockedReads(1);
  const auto half_open = ring::Connect(socket_dir_ + "/session.sock");  // says nothing
  ASSERT_TRUE(half_open.has_value());
  server_.reset();
  EXPECT_TRUE(client->WaitForEnd());
  EXPECT_EQ(metrics_.mounts.Value(), 0);
  EXPECT_EQ(metrics_.slots_in_use.Value(), 0);
  store_->UnblockReads();
}

TEST_F(LifecycleTest, TwoMountsFetchEachByteOnce) {
  uint64_t total = 0;
  for (int i = 0; i < 20; ++i) {
    const size_t size = 100'000 + static_cast<size_t>(i) * 300'001;
    store_->Put("file" + std::to_string(i), std::string(size, static_cast<char>('a' + i)));
    total += size;
  }
  Start();
  auto read_all = [&](const std::string& mountpoint) {
    auto client = Mount(SessionClient::HelloFor(kUrl, mountpoint));
    for (int i = 0; i < 20; ++i) {
      const auto bytes = client->ReadAll(client->Walk("file" + std::to_string(i)), 128 << 10);
      ASSERT_TRUE(bytes);
      EXPECT_EQ(*bytes, std::string(100'000 + static_cast<size_t>(i) * 300'001, static_cast<char>('a' + i)));
    }
  };
  {
    std::jthread first(read_all, "/mnt/first");
    std::jthread second(read_all, "/mnt/second");
  }
  EXPECT_EQ(store_->read_bytes(), total);
  read_all("/mnt/third");
  EXPECT_EQ(store_->read_bytes(), total);
}

TEST_F(LifecycleTest, ReadsWaitForSlotsAndGoOnWhenTheyComeBack) {
  store_->Put("file", std::string(40 << 20, 'x'));
  Start();
  auto client = Mount();
  const uint64_t node = client->Walk("file");
  ASSERT_TRUE(client->ReadAll(node));
  client->set_keep_slots(true);
  constexpr uint32_t kLength = 1 << 20;
  std::vector<uint64_t> ids;
  for (uint64_t i = 0; i < 40; ++i) ids.push_back(client->Submit(SessionClient::ReadOf(node, 0, i << 20, kLength)));
  size_t answered = 0;
  std::vector<uint32_t> slots;
  for (const uint64_t id : ids) {
    auto reply = client->Wait(id, 0, slots.size() < 24 ? 20'000 : 20);
    if (!reply) {  // all slots are here: give one back and ask again
      ASSERT_FALSE(slots.empty());
      client->ReleaseSlot(slots.back());
      slots.pop_back();
      reply = client->Wait(id);
    }
    ASSERT_TRUE(reply);
    ASSERT_TRUE(reply->ok());
    EXPECT_EQ(reply->completion.length, kLength);
    slots.push_back(reply->completion.slot);
    ++answered;
  }
  EXPECT_EQ(answered, 40U);
  // One that waits can be called off; the others are not held up.
  const uint64_t waiting = client->Submit(SessionClient::ReadOf(node, 0, 0, kLength));
  ring::Submission cancel = SessionClient::Make(Op::kCancel, 0);
  cancel.offset = waiting;
  client->Submit(cancel);
  EXPECT_EQ(client->Wait(waiting)->code(), Code::kCancelled);
  client.reset();
  EXPECT_TRUE(AllIdle());
}

TEST_F(LifecycleTest, AShimThatKeepsAllSlotsHasItsReadsEndAtTheDeadline) {
  store_->Put("file", std::string(30 << 20, 'x'));
  options_.request_timeout = milliseconds(300);
  Start();
  auto client = Mount();
  const uint64_t node = client->Walk("file");
  ASSERT_TRUE(client->ReadAll(node));
  client->set_keep_slots(true);
  for (uint64_t i = 0; i < 24; ++i) ASSERT_TRUE(client->Read(node, 0, i << 20, 1 << 20).ok());
  EXPECT_EQ(client->Read(node, 0, 0, 1 << 20).code(), Code::kDeadlineExceeded);
}

TEST_F(LifecycleTest, ADoubledIdEndsTheSession) {
  store_->Put("file", std::string(1000, 'x'));
  Start();
  auto client = Mount();
  const uint64_t node = client->Walk("file");
  store_->BlockReads();
  ring::Submission read = SessionClient::ReadOf(node, 0, 0, 1000);
  read.id = 5000;
  client->Submit(read);
  client->Submit(read, 1);
  EXPECT_TRUE(client->WaitForEnd());
  EXPECT_TRUE(AllIdle());
  store_->UnblockReads();
}

TEST_F(LifecycleTest, AMessageOnTheSocketEndsTheSession) {
  Start();
  auto client = Mount();
  ASSERT_TRUE(ring::Send(client->socket(), "more", {}).has_value());
  EXPECT_TRUE(client->WaitForEnd());
  EXPECT_TRUE(AllIdle());
}

// Seeded submissions of every kind, most of them nonsense: answers or the end of that session, and a neighbour who
// notices nothing.
TEST_F(LifecycleTest, HostileSubmissionsHurtNobodyElse) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (int i = 0; i < 20; ++i) store_->Put("dir/file" + std::to_string(i), std::string(100'000, 'x'));
  Start();
  auto honest = Mount();
  for (int round = 0; round < 6; ++round) {
    auto hostile = Mount();
    std::vector<uint64_t> nodes = {0, 1, UINT64_MAX, hostile->Walk("dir"), hostile->Walk("dir/file1")};
    const auto pick = [&]() -> uint64_t {
      switch (random() % 4) {
        case 0:
          return nodes[random() % nodes.size()];
        case 1:
          return random();
        case 2:
          return random() % 512;
        default:
          return uint64_t{1} << (random() % 64);
      }
    };
    hostile->set_keep_slots(random() % 2 == 0);
    for (int i = 0; i < 2000; ++i) {
      ring::Submission submission;
      submission.id = random() % 500 == 0 ? random() % 64 : 100'000 + static_cast<uint64_t>(i);
      submission.op = static_cast<Op>(random() % 1000 == 0 ? random() : 1 + random() % 16);
      // A slot that is not the shim's ends the session at once, as most nonsense of the ring itself does.
      if (submission.op == Op::kReleaseSlot && random() % 100 != 0) continue;
      submission.flags = static_cast<uint32_t>(random() % 3 == 0 ? random() : 0);
      submission.node = pick();
      submission.handle = pick();
      submission.offset = pick();
      submission.length = static_cast<uint32_t>(random() % 1000 == 0 ? random() : pick() % (ring::kMaxReadBytes + 1));
      submission.name_length = static_cast<uint16_t>(random() % 256);
      for (char& c : submission.name) c = static_cast<char>(random() % 3 == 0 ? random() : 'a');
      if (!hostile->channel().Submit(static_cast<uint32_t>(random() % 2), submission)) {
        hostile->Wait(1, 0, 1);
        hostile->Wait(1, 1, 1);
      }
    }
    EXPECT_EQ(honest->Read(honest->Walk("dir/file" + std::to_string(round)), 0, 5, 3).bytes, "xxx");
  }
  honest.reset();
  EXPECT_TRUE(AllIdle());
}

TEST_F(LifecycleTest, ReportsMountsAndVolumes) {
  Start();
  store_->PutDirectory("sub");
  session::Hello hello = SessionClient::HelloFor(kUrl, "/mnt/one");
  hello.mutable_options()->set_job("train");
  hello.set_mount_id(5);
  auto one = Mount(hello);
  auto successor = Mount(hello);  // the same mount, served by a second process for a moment
  auto two = Mount(SessionClient::HelloFor("file:///data/sets/sub", "/mnt/two"));
  one->GetAttr(kRootNode);
  const auto reports = server_->Mounts();
  ASSERT_EQ(reports.size(), 2U);
  EXPECT_EQ(reports[0].mountpoint, "/mnt/one");
  EXPECT_EQ(reports[0].job, "train");
  EXPECT_EQ(reports[0].uid, geteuid());
  EXPECT_EQ(reports[0].pid, getpid());
  EXPECT_EQ(reports[1].store_url, "file:///data/sets/sub");
  EXPECT_EQ(server_->VolumeOfMount("/mnt/two").value()->url().path, "data/sets/sub");
  EXPECT_EQ(server_->VolumeOfMount("/mnt/none").error().code(), Code::kNotFound);
  EXPECT_EQ(server_->VolumeOfUrl(kUrl).value(), server_->VolumeOfMount("/mnt/one").value());
  EXPECT_EQ(server_->VolumeOfUrl("nonsense").error().code(), Code::kInvalidArgument);
}

TEST_F(LifecycleTest, InvalidationReachesTheKernelsOfAllMounts) {
  store_->Put("dir/file", "one");
  Start();
  session::Hello hello = SessionClient::HelloFor(kUrl);
  hello.mutable_options()->set_immutable(true);
  auto client = Mount(hello);
  auto below = Mount("file:///data/sets/dir");
  const uint64_t directory = client->Walk("dir");
  const uint64_t file = client->Walk("dir/file");
  ASSERT_EQ(below->Walk("file"), file);
  store_->Put("dir/file", "two!");
  const auto volume = server_->VolumeOfMount("/mnt/test").value();
  const auto whole = server_->VolumeOfUrl(kUrl).value();
  EXPECT_GE(whole->Invalidate("dir/file"), 1U);
  server_->NotifyInvalidated(*whole, "dir/file");
  const auto notice = client->WaitForNotification();
  ASSERT_TRUE(notice);
  EXPECT_EQ(notice->notice, ring::Notice::kInvalidateEntry);
  EXPECT_EQ(notice->node, directory);
  EXPECT_EQ(std::string(notice->name.data(), notice->name_length), "file");
  const auto other = below->WaitForNotification();
  ASSERT_TRUE(other);
  EXPECT_EQ(other->node, kRootNode);
  EXPECT_EQ(client->Lookup(directory, "file").attributes().size, 4U);
  EXPECT_EQ(below->Lookup(kRootNode, "file").attributes().size, 4U);
  // The whole volume: every name of the root.
  whole->Invalidate("");
  server_->NotifyInvalidated(*whole, "");
  std::set<std::string> names;
  while (const auto more = client->WaitForNotification(200)) {
    if (more->notice == ring::Notice::kInvalidateEntry && more->node == kRootNode)
      names.emplace(more->name.data(), more->name_length);
  }
  EXPECT_EQ(names, std::set<std::string>{"dir"});
}

// Indicative: printed, and bounded only so far that quadratic work would show.
TEST_F(LifecycleTest, ListsAHundredThousandEntries) {
#ifdef MLCACHE_SANITIZED
  constexpr int kEntries = 10'000;
#else
  constexpr int kEntries = 100'000;
#endif
  for (int i = 0; i < kEntries; ++i) store_->Put("dir/" + std::to_string(i), "x");
  store_->set_page_entries(kEntries);
  Start();
  auto client = Mount();
  const uint64_t directory = client->Walk("dir");
  for (const char* pass : {"cold", "warm"}) {
    const Nanos began = SystemClock().Now();
    const auto entries = client->ReadDirectory(directory, 32 << 10);
    const Nanos taken = SystemClock().Now() - began;
    ASSERT_TRUE(entries);
    EXPECT_EQ(entries->size(), size_t{kEntries});
    std::cout << pass << ": " << std::chrono::duration<double, std::milli>(taken).count() << " ms\n";
    EXPECT_LT(taken, std::chrono::seconds(15));
  }
}

}  // namespace
}  // namespace mlcache::testing
