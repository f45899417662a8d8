// The S3 store against a server that lies, stalls and breaks off: no wrong byte may pass, every call must end.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <thread>

#include "cached/metrics/metrics.h"
#include "cached/store/open_store.h"
#include "cached/store/s3_store.h"
#include "common/clock.h"
#include "tests/fakes/scripted_http_server.h"

namespace mlcache::store {
namespace {

using mlcache::testing::ScriptedHttpServer;
using Reply = ScriptedHttpServer::Reply;
using Then = ScriptedHttpServer::Then;
using ::testing::HasSubstr;

constexpr char kEtag[] = "ETag: \"v1\"";
const std::string kContent = "0123456789abcdefghijklmnopqrstuvwxyz";

class S3Faults : public ::testing::Test {
 protected:
  void SetUp() override {
    setenv("AWS_ACCESS_KEY_ID", "AKID", 1);
    setenv("AWS_SECRET_ACCESS_KEY", "a-secret-nobody-may-see", 1);
    unsetenv("AWS_SESSION_TOKEN");
  }

  // A store over a server that gives `reply` to each request.
  void Serve(Reply reply, const HttpOptions& options = {}) {
    Serve([reply = std::move(reply)](const std::string&) { return reply; }, options);
  }
  void Serve(ScriptedHttpServer::Handler handler, const HttpOptions& options = {}) {
    server_ = std::make_unique<ScriptedHttpServer>(std::move(handler));
    url_ = {.scheme = "s3", .authority = "bucket", .path = "", .options = {{"endpoint", server_->endpoint()}}};
    store_ = std::make_unique<S3Store>(url_, S3Options{.http = options}, SystemClock());
  }

  // Reads [10, 20) of the 36 bytes; what the sink took is in got_.
  Status Read(const CallContext& context = {}, uint64_t offset = 10, uint64_t length = 10) {
    got_.clear();
    const ObjectRef ref{.path = "file", .version = "v1", .size = kContent.size(), .layout = nullptr};
    const ByteSink sink = [&](std::span<const std::byte> piece) -> Status {
      got_.append(reinterpret_cast<const char*>(piece.data()), piece.size());
      return {};
    };
    return store_->ReadRange(ref, offset, length, sink, context);
  }

  void ExpectFailure(const Status& status, Code code, const std::string& said) {
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code(), code) << status.error();
    EXPECT_THAT(status.error().message(), HasSubstr(said));
    EXPECT_THAT(status.error().message(), ::testing::Not(HasSubstr("nobody-may-see")));
  }

  static std::string Partial(const std::vector<std::string>& headers, const std::string& body) {
    return ScriptedHttpServer::Http("206 Partial Content", headers, body);
  }

  std::unique_ptr<ScriptedHttpServer> server_;
  StoreUrl url_;
  std::unique_ptr<S3Store> store_;
  std::string got_;
};

TEST_F(S3Faults, AsksForTheVersionAndTheRange) {
  Serve({.bytes = Partial({kEtag, "Content-Range: bytes 10-19/36"}, kContent.substr(10, 10))});
  ASSERT_TRUE(Read());
  ASSERT_TRUE(Read());
  EXPECT_EQ(got_, kContent.substr(10, 10));
  ASSERT_EQ(server_->requests().size(), 2U);
  EXPECT_EQ(server_->connections(), 1U) << "the connection is kept";
  const std::string head = server_->requests()[0];
  EXPECT_THAT(head, ::testing::StartsWith("GET /bucket/file HTTP/1.1\r\n"));
  EXPECT_THAT(head, HasSubstr("\r\nRange: bytes=10-19\r\n"));
  EXPECT_THAT(head, HasSubstr("\r\nIf-Match: \"v1\"\r\n"));
  EXPECT_THAT(head, HasSubstr("SignedHeaders=host;if-match;range;x-amz-content-sha256;x-amz-date,"));
  EXPECT_THAT(head, ::testing::Not(HasSubstr("nobody-may-see")));
}

TEST_F(S3Faults, AnotherVersionIsRefusedBeforeItsFirstByte) {
  Serve({.bytes = Partial({"ETag: \"v2\"", "Content-Range: bytes 10-19/36"}, kContent.substr(10, 10))});
  ExpectFailure(Read(), Code::kFailedPrecondition, "s3://bucket/file: the object changed");
  EXPECT_EQ(got_, "");
  Serve({.bytes = ScriptedHttpServer::Http("412 Precondition Failed", {},
                                           "<Error><Code>PreconditionFailed</Code></Error>")});
  ExpectFailure(Read(), Code::kFailedPrecondition, "PreconditionFailed");
  Serve({.bytes = ScriptedHttpServer::Http("404 Not Found", {}, "<Error><Code>NoSuchKey</Code></Error>")});
  ExpectFailure(Read(), Code::kFailedPrecondition, "NoSuchKey");
  Serve({.bytes = ScriptedHttpServer::Http("416 Range Not Satisfiable", {}, "")});
  ExpectFailure(Read(), Code::kFailedPrecondition, "416");
}

TEST_F(S3Faults, WrongRangesAreRefusedBeforeTheirFirstByte) {
  const std::string body = kContent.substr(10, 10);
  for (const std::vector<std::string>& headers :
       std::vector<std::vector<std::string>>{{"Content-Range: bytes 10-19/36"},         // no ETag
                                             {kEtag},                                   // no Content-Range
                                             {kEtag, "Content-Range: bytes 11-20/36"},  // shifted
                                             {kEtag, "Content-Range: bytes 10-18/36"},  // shorter
                                             {kEtag, "Content-Range: bytes 10-19/37"},  // of another size
                                             {kEtag, "Content-Range: bytes 10-19/*"},   // of no size
                                             {kEtag, "Content-Range: bytes */36"},
                                             {kEtag, "Content-Range: 10-19/36"},
                                             {kEtag, "Content-Range: bytes 10-19/99999999999999999999"}}) {
    Serve({.bytes = Partial(headers, body)});
    ExpectFailure(Read(), Code::kDataLoss, "s3://bucket/file");
    EXPECT_EQ(got_, "") << headers.back();
  }
  for (const std::string& wrong : {std::string(9, 'x'), std::string(11, 'x')}) {
    Serve({.bytes = Partial({kEtag, "Content-Range: bytes 10-19/36"}, wrong)});
    ExpectFailure(Read(), Code::kDataLoss, "the reply has " + std::to_string(wrong.size()));
    EXPECT_EQ(got_, "");
  }
}

TEST_F(S3Faults, AWholeObjectForARangeIsTakenOnlyWhereItIsTheRange) {
  Serve({.bytes = ScriptedHttpServer::Http("200 OK", {kEtag}, kContent)});
  ExpectFailure(Read(), Code::kDataLoss, "file");
  EXPECT_EQ(got_, "");
  ExpectFailure(Read({}, 0, 10), Code::kDataLoss, "file");
  EXPECT_EQ(got_, "");
  ASSERT_TRUE(Read({}, 0, kContent.size()));
  EXPECT_EQ(got_, kContent);
  Serve({.bytes = ScriptedHttpServer::Http("204 No Content", {kEtag}, "")});
  EXPECT_FALSE(Read());
}

TEST_F(S3Faults, ShortBodiesAreDataLoss) {
  const std::vector<std::string> headers = {kEtag, "Content-Range: bytes 10-19/36", "Content-Length: 10"};
  Serve({.bytes = Partial(headers, kContent.substr(10, 4)), .then = Then::kClose});
  ExpectFailure(Read(), Code::kDataLoss, "/bucket/file");
  EXPECT_EQ(got_, kContent.substr(10, 4));
  const std::string chunked = "4\r\nabcd\r\n0\r\n\r\n";
  Serve({.bytes = Partial({kEtag, "Content-Range: bytes 10-19/36", "Transfer-Encoding: chunked"}, chunked)});
  ExpectFailure(Read(), Code::kDataLoss, "got 4");
}

TEST_F(S3Faults, LongBodiesNeverReachTheSinkWhole) {
  const std::string chunked = "c\r\nabcdefghijkl\r\n0\r\n\r\n";
  Serve({.bytes = Partial({kEtag, "Content-Range: bytes 10-19/36", "Transfer-Encoding: chunked"}, chunked)});
  ExpectFailure(Read(), Code::kDataLoss, "longer");
  EXPECT_LE(got_.size(), 10U);
}

TEST_F(S3Faults, ResetsAndGarbageAreErrors) {
  const std::vector<std::string> headers = {kEtag, "Content-Range: bytes 10-19/36", "Content-Length: 10"};
  Serve({.bytes = Partial(headers, "abcd"), .then = Then::kReset});
  EXPECT_FALSE(Read());
  Serve({.bytes = "", .then = Then::kReset});
  ExpectFailure(Read(), Code::kUnavailable, "/bucket/file");
  Serve({.bytes = "", .then = Then::kClose});
  ExpectFailure(Read(), Code::kUnavailable, "/bucket/file");
  Serve({.bytes = "no http at all\r\n\r\n", .then = Then::kClose});
  ExpectFailure(Read(), Code::kDataLoss, "/bucket/file");
}

TEST_F(S3Faults, NobodyListens) {
  Serve({.bytes = ""});
  server_.reset();
  ExpectFailure(Read(), Code::kUnavailable, "127.0.0.1");
}

TEST_F(S3Faults, AStallEndsTheAttempt) {
  const std::vector<std::string> headers = {kEtag, "Content-Range: bytes 10-19/36", "Content-Length: 10"};
  Serve({.bytes = Partial(headers, "abcd"), .then = Then::kStall}, {.stall_timeout = std::chrono::milliseconds(200)});
  ExpectFailure(Read(), Code::kUnavailable, "sent nothing");
  Serve({.bytes = "", .then = Then::kStall}, {.stall_timeout = std::chrono::milliseconds(200)});
  ExpectFailure(Read(), Code::kUnavailable, "sent nothing");
}

TEST_F(S3Faults, AnAttemptHasTimesOfItsOwn) {
  Serve({.bytes = "", .then = Then::kStall}, {.first_byte_timeout = std::chrono::milliseconds(100)});
  ExpectFailure(Read(), Code::kUnavailable, "sent nothing for 0.1");
  const std::vector<std::string> headers = {kEtag, "Content-Range: bytes 10-19/36", "Content-Length: 10"};
  Serve({.bytes = Partial(headers, "abcd"), .then = Then::kStall},
        {.first_byte_timeout = std::chrono::milliseconds(100), .attempt_timeout = std::chrono::milliseconds(300)});
  ExpectFailure(Read(), Code::kUnavailable, "not complete after 0.3");
}

TEST_F(S3Faults, ARequestWaitsForItsPlaceInTheBudgetOfConnections) {
  const auto gate = std::make_shared<RequestGate>(1);
  Serve({.bytes = Partial({kEtag, "Content-Range: bytes 10-19/36"}, kContent.substr(10, 10))}, {.gate = gate});
  {
    const Result<RequestGate::Permit> taken = gate->Enter({}, "another store");
    const Nanos soon = SystemClock().Now() + std::chrono::milliseconds(50);
    ExpectFailure(Read({.deadline = soon}), Code::kDeadlineExceeded, "/bucket/file");
    EXPECT_TRUE(server_->requests().empty());
  }
  EXPECT_TRUE(Read());
  EXPECT_TRUE(Read()) << "the place is given back";
}

TEST_F(S3Faults, TheDeadlineEndsAStall) {
  Serve({.bytes = "", .then = Then::kStall});
  const Nanos begin = SystemClock().Now();
  ExpectFailure(Read({.deadline = begin + std::chrono::milliseconds(100)}), Code::kDeadlineExceeded, "deadline");
  const Nanos took = SystemClock().Now() - begin;
  EXPECT_GE(took, std::chrono::milliseconds(100));
  EXPECT_LT(took, std::chrono::seconds(2));
}

TEST_F(S3Faults, AStopRequestEndsAStallAtOnce) {
  Serve({.bytes = "", .then = Then::kStall});
  std::stop_source stop;
  Nanos stopped{};
  std::jthread stopper([&] {
    server_->WaitForStall();
    stopped = SystemClock().Now();
    stop.request_stop();
  });
  ExpectFailure(Read({.stop = stop.get_token()}), Code::kCancelled, "called off");
  const Nanos ended = SystemClock().Now();
  stopper.join();
  EXPECT_LT(ended - stopped, std::chrono::milliseconds(100));
}

TEST_F(S3Faults, ServerErrorsSayWhatToMend) {
  struct Case {
    std::string status;
    std::string body;
    Code code;
    std::string said;
  };
  const auto body = [](const std::string& code) { return "<Error><Code>" + code + "</Code></Error>"; };
  for (const Case& c : std::vector<Case>{
           {"503 Slow Down", body("SlowDown"), Code::kUnavailable, "SlowDown"},
           {"500 Internal", body("InternalError"), Code::kUnavailable, "InternalError"},
           {"429 Too Many", "", Code::kUnavailable, "429"},
           {"501 No", body("NotImplemented"), Code::kUnimplemented, "NotImplemented"},
           {"403 Forbidden", body("AccessDenied"), Code::kPermissionDenied, "s3:ListBucket"},
           {"403 Forbidden", body("InvalidAccessKeyId"), Code::kUnauthenticated, "AWS_ACCESS_KEY_ID"},
           {"403 Forbidden", body("SignatureDoesNotMatch"), Code::kUnauthenticated, "AWS_SECRET_ACCESS_KEY"},
           {"403 Forbidden", body("RequestTimeTooSkewed"), Code::kUnauthenticated, "clock"},
           {"400 Bad", body("ExpiredToken"), Code::kUnauthenticated, "renew"},
           {"403 Forbidden", "", Code::kPermissionDenied, "credentials"},
           {"401 Unauthorized", "<html>", Code::kUnauthenticated, "credentials"},
           {"404 Not Found", body("NoSuchBucket"), Code::kNotFound, "there is no bucket bucket"},
           {"400 Bad", body("InvalidRequest"), Code::kInvalidArgument, "InvalidRequest"},
           {"400 Bad", "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-3</Region></Error>",
            Code::kInvalidArgument, "?region=eu-west-3"}}) {
    Serve({.bytes = ScriptedHttpServer::Http(c.status, {}, c.body)});
    ExpectFailure(Read(), c.code, c.said);
    EXPECT_EQ(got_, "");
    const Result<ListPage> page = store_->List("", "", {});
    ASSERT_FALSE(page);
    EXPECT_EQ(page.error().code(), c.code) << page.error();
  }
}

TEST_F(S3Faults, RedirectsAreNotFollowed) {
  ScriptedHttpServer elsewhere([](const std::string&) { return Reply{}; });
  Serve({.bytes = ScriptedHttpServer::Http(
             "301 Moved Permanently", {"Location: " + elsewhere.endpoint() + "/x", "x-amz-bucket-region: eu-west-3"},
             "")});
  ExpectFailure(Read(), Code::kInvalidArgument, "its region is eu-west-3, give ?region=eu-west-3");
  EXPECT_FALSE(store_->Stat("x", {}));
  Serve(
      {.bytes = ScriptedHttpServer::Http("307 Temporary Redirect", {"Location: " + elsewhere.endpoint() + "/x"}, "")});
  ExpectFailure(Read(), Code::kInvalidArgument, elsewhere.endpoint());
  EXPECT_TRUE(elsewhere.requests().empty()) << "credentials went elsewhere";
}

TEST_F(S3Faults, UnsoundListingsAreDataLoss) {
  const auto listing = [](const std::string& inner) { return "<ListBucketResult>" + inner + "</ListBucketResult>"; };
  for (const std::string& xml :
       {std::string(), std::string("<html/>"), std::string("<ListBucketResult>"),
        listing("<Contents><Key>a</Key></Contents>"),
        listing("<Contents><Key>a</Key><Size>-1</Size><ETag>e</ETag></Contents>"),
        listing("<EncodingType>url</EncodingType><Contents><Key>%zz</Key><Size>1</Size><ETag>e</ETag></Contents>"),
        listing("<CommonPrefixes><Prefix>a</Prefix></CommonPrefixes>"), listing("<IsTruncated>true</IsTruncated>")}) {
    Serve({.bytes = ScriptedHttpServer::Http("200 OK", {}, xml)});
    const Result<ListPage> page = store_->List("", "", {});
    ASSERT_FALSE(page) << xml;
    EXPECT_EQ(page.error().code(), Code::kDataLoss) << page.error();
  }
  Serve({.bytes = ScriptedHttpServer::Http("200 OK", {}, std::string(17 << 20, ' '))});
  EXPECT_EQ(store_->List("", "", {}).error().code(), Code::kDataLoss);
  EXPECT_EQ(store_->List("", "no token", {}).error().code(), Code::kInvalidArgument);
}

TEST_F(S3Faults, AFileAndADirectoryOfOneNameAreOneEntryAcrossPages) {
  const auto file = [](const std::string& key) {
    return "<Contents><Key>" + key + "</Key><Size>1</Size><ETag>&quot;e&quot;</ETag></Contents>";
  };
  const auto directory = [](const std::string& key) {
    return "<CommonPrefixes><Prefix>" + key + "</Prefix></CommonPrefixes>";
  };
  const std::string first =
      "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>t/1=</NextContinuationToken>" +
      file("a") + file("both") + file("both-") + "</ListBucketResult>";
  const std::string second = "<ListBucketResult>" + file("twice") + directory("both/") + directory("twice/") +
                             directory(".%2E/") + directory("..//") + directory("//") + file("z") +
                             "</ListBucketResult>";
  Serve([&](const std::string& head) {
    const bool next = head.find("continuation-token=t%2F1%3D&") != std::string::npos;
    return Reply{.bytes = ScriptedHttpServer::Http("200 OK", {}, next ? second : first)};
  });
  std::vector<std::string> names;
  std::string token;
  do {
    const Result<ListPage> page = store_->List("", token, {});
    ASSERT_TRUE(page) << page.error();
    for (const ListEntry& entry : page->entries) names.push_back(entry.name);
    token = page->next;
  } while (!token.empty());
  EXPECT_THAT(names, ::testing::ElementsAre("a", "both", "both-", ".%2E", "twice", "z"));
}

TEST_F(S3Faults, AHeadWithoutLengthOrEtagIsDataLoss) {
  Serve({.bytes = "HTTP/1.1 200 OK\r\nETag: \"x\"\r\n\r\n"});
  EXPECT_EQ(store_->Stat("file", {}).error().code(), Code::kDataLoss);
  Serve({.bytes = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"});
  EXPECT_EQ(store_->Stat("file", {}).error().code(), Code::kDataLoss);
  Serve({.bytes = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: \"" + std::string(300, 'e') + "\"\r\n\r\n"});
  EXPECT_EQ(store_->Stat("file", {}).error().code(), Code::kDataLoss);
}

TEST_F(S3Faults, RetriesResumeWhereTheReplyBrokeOff) {
  // Every reply breaks off after three bytes of what is asked for.
  Serve([](const std::string& head) {
    if (head.find("list-type=2") != std::string::npos) {
      return Reply{.bytes = ScriptedHttpServer::Http("200 OK", {}, "<ListBucketResult/>")};
    }
    const size_t at = head.find("bytes=") + 6;
    const size_t first = std::stoul(head.substr(at));
    const std::string range = head.substr(at, head.find('\r', at) - at);
    const size_t length = 20 - first;
    const std::vector<std::string> headers = {kEtag, "Content-Range: bytes " + range + "/36",
                                              "Content-Length: " + std::to_string(length)};
    return Reply{.bytes = Partial(headers, kContent.substr(first, std::min<size_t>(length, 3))), .then = Then::kClose};
  });
  Metrics metrics;
  const StoreOptions options{.retry_initial_backoff = std::chrono::milliseconds(1)};
  const Result<std::shared_ptr<ObjectStore>> store = OpenStore(url_, options, SystemClock(), metrics, {});
  ASSERT_TRUE(store) << store.error();
  std::string got;
  const ByteSink sink = [&](std::span<const std::byte> piece) -> Status {
    got.append(reinterpret_cast<const char*>(piece.data()), piece.size());
    return {};
  };
  const ObjectRef ref{.path = "file", .version = "v1", .size = kContent.size(), .layout = nullptr};
  const Status status = (*store)->ReadRange(ref, 10, 10, sink, {});
  ASSERT_TRUE(status) << status.error();
  EXPECT_EQ(got, kContent.substr(10, 10));
  EXPECT_EQ(server_->requests().size(), 5U);  // the root, then 3 + 3 + 3 + 1 bytes
  EXPECT_EQ(metrics.store_retries.Add({{"store", url_.Identity()}, {"op", "read"}}).Value(), 3);
}

}  // namespace
}  // namespace mlcache::store
