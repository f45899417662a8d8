// Servers of a SeaweedFS cluster that are away, refuse, or lie: no wrong byte gets through, and another server is
// asked.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "cached/store/call.h"
#include "tests/fakes/fake_clock.h"
#include "tests/store/seaweed_world.h"

namespace mlcache::store {
namespace {

using ::testing::HasSubstr;
using Reply = testing::ScriptedHttpServer::Reply;
using Then = testing::ScriptedHttpServer::Then;
using testing::ScriptedHttpServer;

class SeaweedFaults : public SeaweedWorld {
 protected:
  // Every volume server and filer answers so.
  void EverybodyAnswers(Reply reply) {
    cluster_.SetFault([reply = std::move(reply)](int, const std::string&) { return reply; });
  }
  // One volume server does; the others are sound.
  void OneAnswers(Reply reply) {
    cluster_.SetFault([this, reply = std::move(reply)](int server, const std::string&) -> std::optional<Reply> {
      if (server != 0) return std::nullopt;
      ++lies_;
      return reply;
    });
  }

  // Reads so many chunks that both servers are asked first for some.
  void ExpectSoundInSpiteOf(const std::string& what, const Reply& reply) {
    SCOPED_TRACE(what);
    const auto store = Open();
    cluster_.SetFault({});
    const std::string bytes = RandomBytes(8'000, 6);
    cluster_.Put("/file", bytes, {.chunk_size = 1'000});
    OneAnswers(reply);
    lies_ = 0;
    const Result<std::string> read = Read(*store, "file");
    ASSERT_TRUE(read) << read.error();
    EXPECT_TRUE(*read == bytes);
    EXPECT_GE(lies_, 1) << "the fault never came";
  }

  void ExpectErrorFrom(const std::string& what, const Reply& reply, Code code) {
    SCOPED_TRACE(what);
    const auto store = Open();
    cluster_.SetFault({});
    cluster_.Put("/file", std::string(1'000, 'a'));
    EverybodyAnswers(reply);
    const Result<std::string> read = Read(*store, "file");
    ASSERT_FALSE(read) << "a lie was believed";
    EXPECT_EQ(read.error().code(), code) << read.error();
    EXPECT_THAT(read.error().message(), HasSubstr("/file"));
  }

  std::atomic<int> lies_{0};
};

TEST_F(SeaweedFaults, LiesAboutAWholeChunk) {
  const std::string wrong(1'000, 'b');
  const std::string right_etag = "Etag: \"00000001\"";
  const std::map<std::string, std::pair<Reply, Code>> lies = {
      {"wrong bytes", {{ScriptedHttpServer::Http("200 OK", {right_etag}, wrong)}, Code::kDataLoss}},
      {"short body",
       {{ScriptedHttpServer::Http("200 OK", {right_etag, "Content-Length: 1000"}, wrong.substr(1)), Then::kClose},
        Code::kDataLoss}},
      {"no checksum", {{ScriptedHttpServer::Http("200 OK", {}, wrong)}, Code::kDataLoss}},
      {"another tag", {{ScriptedHttpServer::Http("200 OK", {"Etag: \"abc-1\""}, wrong)}, Code::kDataLoss}},
      {"short and says so", {{ScriptedHttpServer::Http("200 OK", {}, wrong.substr(1))}, Code::kDataLoss}},
      {"long body", {{ScriptedHttpServer::Http("200 OK", {}, wrong + "more")}, Code::kDataLoss}},
      {"chunked and long",
       {{ScriptedHttpServer::Http("200 OK", {"Transfer-Encoding: chunked"}, "3e9\r\n" + wrong + "x\r\n0\r\n\r\n")},
        Code::kDataLoss}},
      {"packed", {{ScriptedHttpServer::Http("200 OK", {"Content-Encoding: gzip"}, wrong)}, Code::kDataLoss}},
      {"another range",
       {{ScriptedHttpServer::Http("206 Partial Content", {"Content-Range: bytes 1-1000/2000"}, wrong)},
        Code::kDataLoss}},
      {"reset",
       {{ScriptedHttpServer::Http("200 OK", {right_etag, "Content-Length: 1000"}, "aa"), Then::kReset},
        Code::kUnavailable}},
      {"error", {{ScriptedHttpServer::Http("500 Internal Server Error", {}, "")}, Code::kUnavailable}},
      {"no HTTP", {{"SSH-2.0-OpenSSH\r\n\r\n", Then::kClose}, Code::kDataLoss}},
  };
  for (const auto& [what, lie] : lies) {
    ExpectSoundInSpiteOf(what, lie.first);
    if (what == "reset" || what == "no HTTP") continue;  // which error libcurl makes of it is its own affair
    ExpectErrorFrom(what, lie.first, lie.second);
  }
}

TEST_F(SeaweedFaults, LiesAboutAPieceOfAChunk) {
  cluster_.Put("/file", std::string(1'000, 'a'));
  const auto store = Open();
  const ObjectRef ref = Ref(*store, "file");
  const std::string body(100, 'b');
  for (const std::string range :
       {"bytes 99-198/1000", "bytes 100-199/999", "bytes 100-200/1000", "bytes */1000", "bytes 100-199/*", ""}) {
    EverybodyAnswers({ScriptedHttpServer::Http("206 Partial Content", {"Content-Range: " + range}, body)});
    EXPECT_EQ(Read(*store, ref, 100, 100).error().code(), Code::kDataLoss) << range;
  }
  EverybodyAnswers({ScriptedHttpServer::Http("200 OK", {}, std::string(1'000, 'a'))});
  const Result<std::string> read = Read(*store, ref, 100, 100);
  ASSERT_FALSE(read);
  EXPECT_THAT(read.error().message(), HasSubstr("asked for 100 bytes"));
  EverybodyAnswers({ScriptedHttpServer::Http("416 Requested Range Not Satisfiable", {}, "")});
  EXPECT_THAT(Read(*store, ref, 100, 100).error().message(), HasSubstr("shorter than its file's metadata says"));
}

TEST_F(SeaweedFaults, ALongerBlobThatDoesNotComeAsAPieceEither) {
  // The first reply says that the chunk was cut short, and what is then asked for by a Range comes as a whole again.
  cluster_.Put("/file", std::string(1'000, 'a'));
  const auto store = Open();
  const ObjectRef ref = Ref(*store, "file");
  cluster_.SetFault([](int, const std::string& head) -> std::optional<Reply> {
    const std::string bytes(head.find("Range: ") == std::string::npos ? 1'004 : 1'000, 'b');
    return Reply{ScriptedHttpServer::Http("200 OK", {"Etag: \"00000001\""}, bytes)};
  });
  const Result<std::string> read = Read(*store, ref, 0, 1'000);
  ASSERT_FALSE(read) << "bytes that nothing vouches for";
  EXPECT_EQ(read.error().code(), Code::kDataLoss);
}

TEST_F(SeaweedFaults, AStallEndsAndAnotherServerIsAsked) {
  options_.http.stall_timeout = std::chrono::milliseconds(200);
  ExpectSoundInSpiteOf(
      "stall",
      {ScriptedHttpServer::Http("200 OK", {"Etag: \"00000001\"", "Content-Length: 1000"}, "aa"), Then::kStall});
}

TEST_F(SeaweedFaults, APieceThatBreaksOffGoesOnElsewhereWhereItStopped) {
  const std::string bytes = RandomBytes(100'000, 7);
  cluster_.Put("/file", bytes);
  const auto store = Open();
  const ObjectRef ref = Ref(*store, "file");
  std::atomic<int> asked{0};
  std::vector<std::string> ranges;
  cluster_.SetFault([&](int, const std::string& head) -> std::optional<Reply> {
    ranges.push_back(head.substr(head.find("bytes="), head.find("\r\n", head.find("bytes=")) - head.find("bytes=")));
    if (++asked > 1) return std::nullopt;
    return Reply{ScriptedHttpServer::Http("206 Partial Content",
                                          {"Content-Range: bytes 10-99999/100000", "Content-Length: 99990"},
                                          bytes.substr(10, 40'000)),
                 Then::kClose};
  });
  EXPECT_TRUE(Read(*store, ref, 10, 99'990) == bytes.substr(10));
  EXPECT_THAT(ranges, ::testing::ElementsAre("bytes=10-99999", "bytes=40010-99999"));
}

TEST_F(SeaweedFaults, ATamperedEncryptedChunkIsRefused) {
  cluster_.Put("/secret", std::string(1'000, 'a'), {.encrypted = true});
  const auto store = Open();
  EverybodyAnswers({ScriptedHttpServer::Http("200 OK", {}, std::string(1'028, 'x'))});
  const Result<std::string> read = Read(*store, "secret");
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code(), Code::kDataLoss);
  EXPECT_THAT(read.error().message(), HasSubstr("does not match its tag"));
}

TEST_F(SeaweedFaults, AnUnflaggedPackedChunkIsNoLie) {
  // Whoever copied the entry forgot that the blob is compressed: the server's checksum is of other bytes.
  cluster_.Put("/file", std::string(10'000, 'a'), {.compressed = true});
  filer_pb::Entry entry = cluster_.Find("/file");
  entry.mutable_chunks(0)->set_is_compressed(false);
  cluster_.PutEntry("/file", entry);
  EXPECT_EQ(Read(*Open(), "file"), std::string(10'000, 'a'));
}

TEST_F(SeaweedFaults, ADeadVolumeServerIsLeftOutThenAskedAgain) {
  const std::string bytes = RandomBytes(20'000, 8);
  cluster_.Put("/file", bytes, {.chunk_size = 1'000});
  const auto store = Open();
  cluster_.StopVolumeServer(0);
  EXPECT_TRUE(Read(*store, "file") == bytes);
  EXPECT_EQ(cluster_.proxied(), 0U);
  EXPECT_EQ(cluster_.volume_lookups(), 1);
}

TEST_F(SeaweedFaults, WithoutVolumeServersTheFilerServes) {
  const std::string bytes = RandomBytes(20'000, 9);
  cluster_.Put("/file", bytes, {.chunk_size = 1'000});
  cluster_.StopVolumeServer(0);
  cluster_.StopVolumeServer(1);
  EXPECT_TRUE(Read(*Open(), "file") == bytes);
  EXPECT_EQ(cluster_.proxied(), 20U);
}

TEST_F(SeaweedFaults, AVolumeThatMovedIsLookedUpAgain) {
  cluster_.Put("/file", "bytes");
  cluster_.Locate({0});
  const auto store = Open();
  EXPECT_EQ(Read(*store, "file"), "bytes");
  // The old place does not have it any more, and the filer's way is shut.
  cluster_.Locate({1});
  cluster_.SetFault([](int server, const std::string&) -> std::optional<Reply> {
    if (server == 1) return std::nullopt;
    return Reply{ScriptedHttpServer::Http("404 Not Found", {}, "")};
  });
  EXPECT_EQ(Read(*store, "file"), "bytes");
  EXPECT_EQ(cluster_.volume_lookups(), 2);
}

TEST_F(SeaweedFaults, AnOldPlaceOfAVolumeServesWhileNoFilerCanBeReached) {
  testing::FakeClock clock;
  clock_ = &clock;
  options_.filer.connect_timeout = std::chrono::milliseconds(100);
  cluster_.Put("/file", "bytes");
  const auto store = Open();
  const ObjectRef ref = Ref(*store, "file");
  EXPECT_EQ(Read(*store, ref, 0, 5), "bytes");
  EXPECT_EQ(cluster_.volume_lookups(), 1);
  clock.Advance(std::chrono::hours(1));
  cluster_.StopFiler();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Read(*store, ref, 0, 5), "bytes");
  // A place that proved wrong is not believed again.
  cluster_.SetFault([](int, const std::string&) { return Reply{ScriptedHttpServer::Http("404 Not Found", {}, "")}; });
  EXPECT_EQ(Read(*store, ref, 0, 5).error().code(), Code::kUnavailable);
  // And the filer is asked again once it may have come back.
  cluster_.SetFault({});
  cluster_.StartFiler();
  clock.Advance(std::chrono::minutes(1));
  const auto asks = [&] {
    EXPECT_EQ(Read(*store, ref, 0, 5), "bytes");
    return cluster_.volume_lookups() > 1;
  };
  for (int i = 0; i < 50 && !asks(); ++i) {
    clock.Advance(std::chrono::minutes(1));
    Pause(std::chrono::milliseconds(100), {}).value();  // gRPC's own, before it tries a server again that was away
  }
  EXPECT_EQ(cluster_.volume_lookups(), 2);
}

TEST_F(SeaweedFaults, AccessByFilerAsksNoVolumeServer) {
  const std::string bytes = RandomBytes(20'000, 10);
  cluster_.Put("/file", bytes, {.chunk_size = 3'000, .manifest = true});
  EXPECT_TRUE(Read(*Open("filer"), "file") == bytes);
  EXPECT_EQ(cluster_.gets(), 0U);
  EXPECT_EQ(cluster_.volume_lookups(), 0);
}

TEST_F(SeaweedFaults, TokensAreSentWhereTheClusterWantsThem) {
  cluster_.Put("/file", std::string(10'000, 'a'), {.chunk_size = 1'000});
  cluster_.RequireTokens("volume secret", "filer secret");
  SeaweedSecurity security;
  security.volume_read.secret = "volume secret";
  EXPECT_TRUE(Read(*Open("", security), "file"));
  EXPECT_EQ(cluster_.proxied(), 0U);
  // Without the volumes' key, through the filer, for which there is one.
  SeaweedSecurity by_filer;
  by_filer.filer_read.secret = "filer secret";
  EXPECT_TRUE(Read(*Open("", by_filer), "file"));
  EXPECT_EQ(cluster_.proxied(), 10U);
  // With none at all it is said what is missing, and no secret is in the message.
  const Result<std::string> refused = Read(*Open(), "file");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kUnauthenticated);
  EXPECT_THAT(refused.error().message(), HasSubstr("security.toml"));
  SeaweedSecurity wrong;
  wrong.volume_read.secret = "hush";
  EXPECT_THAT(Read(*Open("", wrong), "file").error().message(), ::testing::Not(HasSubstr("hush")));
}

TEST_F(SeaweedFaults, AnotherFilerIsAskedWhenOneIsAway) {
  testing::FakeSeaweed other;
  cluster_.Put("/file", "1");
  other.Put("/file", "22");
  const auto store = Open("", {}, cluster_.filer() + "," + other.filer());
  const auto size = [&] { return store->Stat("file", {}).value_or(ObjectInfo{}).size; };
  EXPECT_EQ(size(), 1U);
  cluster_.StopFiler();
  EXPECT_EQ(size(), 2U);
  EXPECT_TRUE(store->List("", "", {}));
  // It stays with the one that answers.
  cluster_.StartFiler();
  EXPECT_EQ(size(), 2U);
  other.StopFiler();
  // gRPC lets a moment pass before it tries a server again that was away.
  for (int i = 0; i < 10 && size() != 1; ++i) Pause(std::chrono::milliseconds(200), {}).value();
  EXPECT_EQ(size(), 1U);
  cluster_.StopFiler();
  EXPECT_EQ(store->Stat("file", {}).error().code(), Code::kUnavailable);
}

TEST_F(SeaweedFaults, ACallThatTheFilerCalledOffIsAFailureOfTheFiler) {
  testing::FakeSeaweed other;
  cluster_.Put("/file", "1");
  other.Put("/file", "22");
  cluster_.AnswerLookups({grpc::StatusCode::CANCELLED, "context canceled"});
  const Result<ObjectInfo> info = Open("", {}, cluster_.filer() + "," + other.filer())->Stat("file", {});
  ASSERT_TRUE(info) << info.error();
  EXPECT_EQ(info->size, 2U);
  // With nobody else to ask, the caller may try again.
  const Error alone = Open()->Stat("file", {}).error();
  EXPECT_EQ(alone.code(), Code::kUnavailable) << alone;
  EXPECT_THAT(alone.message(), HasSubstr("context canceled"));
  // The caller's own stop is told as such.
  std::stop_source stop;
  stop.request_stop();
  EXPECT_EQ(Open()->Stat("file", {.stop = stop.get_token()}).error().code(), Code::kCancelled);
}

TEST_F(SeaweedFaults, AFilerThatIsBeingRestartedIsWaitedFor) {
  options_.filer.connect_timeout = std::chrono::seconds(10);
  cluster_.Put("/file", "1");
  const auto store = Open();
  EXPECT_TRUE(store->Stat("file", {}));
  cluster_.StopFiler();
  Result<ObjectInfo> info = Fail(Code::kUnknown, "not asked");
  std::jthread asker;
  {
    // Somebody on the filer's port who hangs up, and tells that it was tried.
    std::atomic<bool> tried{false};
    const ScriptedHttpServer nobody(
        [&](const std::string& /*preface*/) -> Reply {
          tried = true;
          tried.notify_all();
          return {"", Then::kClose};
        },
        cluster_.grpc_port());
    asker = std::jthread([&] { info = store->Stat("file", {}); });
    tried.wait(false);
  }
  cluster_.StartFiler();
  asker.join();
  EXPECT_TRUE(info) << info.error();
}

}  // namespace
}  // namespace mlcache::store
