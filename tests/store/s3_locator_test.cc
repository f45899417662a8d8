// What the S3 store learns from a server's replies, what it never believes, and checksums that it holds bytes to.
#include "cached/store/s3_locator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cached/metrics/metrics.h"
#include "cached/store/checksum.h"
#include "cached/store/open_store.h"
#include "cached/store/s3_store.h"
#include "cached/store/store_url.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/scripted_http_server.h"

namespace mlcache::store {
namespace {

using mlcache::testing::FakeClock;
using mlcache::testing::ScriptedHttpServer;
using std::chrono::hours;
using std::chrono::minutes;
using std::chrono::seconds;
using ::testing::HasSubstr;
using ::testing::Not;

StoreUrl Url(const std::string& text) {
  Result<StoreUrl> url = ParseStoreUrl(text);
  EXPECT_TRUE(url) << text;
  return url.value_or(StoreUrl{});
}

HttpResponse Reply(int status, const std::map<std::string, std::string>& headers, const std::string& body = "") {
  HttpResponse reply;
  reply.head = {.status = status, .headers = headers};
  reply.body = body;
  return reply;
}

TEST(S3Locator, ARegionIsLearnedWithinAmazonsNamesOnly) {
  S3Locator locator(Url("s3://bucket/p"), "us-east-1");
  std::shared_ptr<const S3Target> first = locator.target();
  EXPECT_EQ(first->base, "https://bucket.s3.us-east-1.amazonaws.com/");
  for (const char* region : {"evil.example.com/", "x@y", "EU", "eu west", ""}) {
    EXPECT_FALSE(locator.Learn(Reply(301, {{"x-amz-bucket-region", region}}), *first, Nanos(0))) << region;
  }
  EXPECT_FALSE(locator.Learn(Reply(301, {{"location", "https://evil.example.com/"}}), *first, Nanos(0)));
  EXPECT_TRUE(locator.Learn(Reply(301, {{"x-amz-bucket-region", "eu-west-3"}}), *first, Nanos(0)));
  EXPECT_EQ(locator.target()->base, "https://bucket.s3.eu-west-3.amazonaws.com/");
  EXPECT_EQ(locator.target()->region, "eu-west-3");
  EXPECT_TRUE(locator.Learn(Reply(301, {{"x-amz-bucket-region", "eu-west-3"}}), *first, Nanos(0)))
      << "one that was sent before is worth sending again";
  EXPECT_FALSE(locator.Learn(Reply(301, {{"x-amz-bucket-region", "eu-west-3"}}), *locator.target(), Nanos(0)));
  const std::string body = "<Error><Code>AuthorizationHeaderMalformed</Code><Region>cn-north-1</Region></Error>";
  EXPECT_TRUE(locator.Learn(Reply(400, {}, body), *locator.target(), Nanos(0)));
  EXPECT_EQ(locator.target()->base, "https://bucket.s3.cn-north-1.amazonaws.com.cn/");
}

TEST(S3Locator, WhatTheUrlAsksForStays) {
  S3Locator locator(Url("s3://bucket?region=eu-west-1&addressing=path"), "us-east-1");
  const std::shared_ptr<const S3Target> target = locator.target();
  EXPECT_EQ(target->base, "https://s3.eu-west-1.amazonaws.com/bucket/");
  EXPECT_FALSE(locator.Learn(Reply(301, {{"x-amz-bucket-region", "eu-west-3"}}), *target, Nanos(0)));
  EXPECT_FALSE(
      locator.Learn(Reply(403, {}, "<Error><Code>SecondLevelDomainForbidden</Code></Error>"), *target, Nanos(0)));
}

TEST(S3Locator, AnAddressingIsLearned) {
  const std::string wants_host = "<Error><Code>SecondLevelDomainForbidden</Code></Error>";
  S3Locator locator(Url("s3://bucket?endpoint=https://oss.example.com"), "r");
  const std::shared_ptr<const S3Target> path = locator.target();
  EXPECT_EQ(path->base, "https://oss.example.com/bucket/");
  const std::string elsewhere = "<Error><Code>PermanentRedirect</Code><Endpoint>bucket.evil.com</Endpoint></Error>";
  EXPECT_FALSE(locator.Learn(Reply(301, {}, elsewhere), *path, Nanos(0)));
  EXPECT_TRUE(locator.Learn(Reply(403, {}, wants_host), *path, Nanos(0)));
  EXPECT_EQ(locator.target()->base, "https://bucket.oss.example.com/");
  EXPECT_FALSE(locator.Learn(Reply(403, {}, wants_host), *locator.target(), Nanos(0)));
  S3Locator other(Url("s3://bucket?endpoint=https://oss.example.com"), "r");
  const std::string here = "<Error><Code>PermanentRedirect</Code><Endpoint>bucket.oss.example.com</Endpoint></Error>";
  EXPECT_TRUE(other.Learn(Reply(301, {}, here), *other.target(), Nanos(0)));
  S3Locator address(Url("s3://bucket?endpoint=http://10.0.0.1:9000"), "r");
  EXPECT_FALSE(address.Learn(Reply(403, {}, wants_host), *address.target(), Nanos(0))) << "an address has no names";
}

TEST(S3Locator, RedirectsStayWithinSchemeHostAndPort) {
  const auto redirect = [](const std::string& location) {
    return S3Locator::Redirect(Reply(307, {{"location", location}}), "https://host:1/bucket/key");
  };
  EXPECT_EQ(redirect("https://host:1/other/key"), "https://host:1/other/key");
  for (const char* location : {"http://host:1/bucket/key2", "https://host:2/k", "https://host/k",
                               "https://host:1.evil/k", "https://host:1@evil/k", "https://other:1/k", "//evil/k",
                               "/relative", "", "https://host:1/bucket/key", "https://host:1"}) {
    EXPECT_EQ(redirect(location), "") << location;
  }
  EXPECT_EQ(S3Locator::Redirect(Reply(200, {{"location", "https://host:1/x"}}), "https://host:1/y"), "");
}

std::string HttpDate(Nanos wall) {
  const time_t time = std::chrono::duration_cast<seconds>(wall).count();
  std::tm utc{};
  gmtime_r(&time, &utc);
  char text[64];
  return {text, std::strftime(text, sizeof(text), "%a, %d %b %Y %H:%M:%S GMT", &utc)};
}

std::string Base64(const std::string& bytes) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  uint32_t bits = 0;
  int count = 0;
  for (const unsigned char byte : bytes) {
    bits = bits << 8 | byte;
    for (count += 8; count >= 6; count -= 6) text += kDigits[bits >> (count - 6) & 63];
  }
  if (count > 0) text += kDigits[bits << (6 - count) & 63];
  while (text.size() % 4 != 0) text += '=';
  return text;
}

template <typename T>
std::string BigEndian(T value) {
  std::string bytes;
  for (size_t i = sizeof(T); i-- > 0;) bytes += static_cast<char>(value >> (8 * i) & 0xff);
  return bytes;
}

std::span<const std::byte> Bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

const std::string kContent = "0123456789abcdefghijklmnopqrstuvwxyz";
constexpr char kEtag[] = "ETag: \"v1\"";

// A store over a server that the test scripts.
class S3Learning : public ::testing::Test {
 protected:
  void SetUp() override {
    setenv("AWS_ACCESS_KEY_ID", "AKID", 1);
    setenv("AWS_SECRET_ACCESS_KEY", "secret", 1);
    for (const char* name : {"AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION"}) unsetenv(name);
  }
  void Serve(const std::function<std::string(const std::string&)>& reply, const std::string& options = "") {
    server_ = std::make_unique<ScriptedHttpServer>(
        [=](const std::string& request) { return ScriptedHttpServer::Reply{.bytes = reply(request)}; });
    url_ = Url("s3://bucket?endpoint=" + server_->endpoint() + options);
    store_ = std::make_unique<S3Store>(url_, S3Options{}, clock_);
  }
  static std::string Whole(const std::vector<std::string>& headers, const std::string& body = kContent) {
    std::vector<std::string> all = {kEtag, "Content-Range: bytes 0-35/36"};
    all.insert(all.end(), headers.begin(), headers.end());
    return ScriptedHttpServer::Http("206 Partial Content", all, body);
  }
  Status Read(ObjectStore& store) {
    got_.clear();
    const ObjectRef ref{.path = "file", .version = "v1", .size = kContent.size(), .layout = nullptr};
    const ByteSink sink = [&](std::span<const std::byte> piece) -> Status {
      got_.append(reinterpret_cast<const char*>(piece.data()), piece.size());
      return {};
    };
    return store.ReadRange(ref, 0, kContent.size(), sink, {});
  }

  FakeClock clock_;
  std::unique_ptr<ScriptedHttpServer> server_;
  StoreUrl url_;
  std::unique_ptr<S3Store> store_;
  std::string got_;
};

TEST_F(S3Learning, TheRegionOfTheBucketIsSignedForFromTheSecondRequestOn) {
  Serve([](const std::string& request) {
    if (request.find("/eu-west-3/s3/aws4_request") != std::string::npos) return Whole({});
    return ScriptedHttpServer::Http(
        "400 Bad Request", {}, "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-3</Region></Error>");
  });
  EXPECT_TRUE(Read(*store_));
  EXPECT_EQ(got_, kContent);
  EXPECT_TRUE(Read(*store_));
  EXPECT_EQ(server_->requests().size(), 3U);
}

TEST_F(S3Learning, AWrongClockIsCorrectedOnce) {
  const Nanos ahead = hours(3);
  Serve([&](const std::string& request) {
    const std::string server_day = HttpDate(clock_.WallNow() + ahead);
    const std::string now = "x-amz-date: ";
    const std::string stamp = request.substr(request.find(now) + now.size(), 16);
    std::tm time{};
    strptime(stamp.c_str(), "%Y%m%dT%H%M%SZ", &time);
    const Nanos off = Nanos(seconds(timegm(&time))) - (clock_.WallNow() + ahead);
    if (off < minutes(15) && off > -minutes(15)) return Whole({"Date: " + server_day});
    const bool head = request.starts_with("HEAD");
    return ScriptedHttpServer::Http("403 Forbidden", {"Date: " + server_day},
                                    head ? "" : "<Error><Code>RequestTimeTooSkewed</Code></Error>");
  });
  EXPECT_TRUE(Read(*store_));
  EXPECT_EQ(got_, kContent);
  EXPECT_EQ(server_->requests().size(), 2U);
  EXPECT_TRUE(Read(*store_));
  EXPECT_EQ(server_->requests().size(), 3U) << "learned for good";
}

TEST_F(S3Learning, AServerThatIsNeverContentIsNotAskedForEver) {
  int hour = 0;
  Serve([&](const std::string&) {
    hour += 3;
    return ScriptedHttpServer::Http("403 Forbidden", {"Date: " + HttpDate(clock_.WallNow() + hours(hour))},
                                    "<Error><Code>RequestTimeTooSkewed</Code></Error>");
  });
  const Status status = Read(*store_);
  EXPECT_EQ(status.error().code(), Code::kUnauthenticated);
  EXPECT_THAT(status.error().message(), HasSubstr("clock"));
  EXPECT_LE(server_->requests().size(), 4U);
}

TEST_F(S3Learning, ARedirectOnTheSameServerIsFollowedWithANewSignature) {
  Serve([&](const std::string& request) {
    if (request.starts_with("GET /moved/file")) return Whole({});
    return ScriptedHttpServer::Http("307 Temporary Redirect", {"Location: " + server_->endpoint() + "/moved/file"}, "");
  });
  EXPECT_TRUE(Read(*store_));
  EXPECT_EQ(got_, kContent);
  const std::vector<std::string> requests = server_->requests();
  ASSERT_EQ(requests.size(), 2U);
  const auto signature = [](const std::string& request) { return request.substr(request.find("Signature="), 74); };
  EXPECT_NE(signature(requests[0]), signature(requests[1]));
}

TEST(Checksums, AgreeWithThePublishedValues) {
  const std::string text = "123456789";
  EXPECT_EQ(Crc32(Bytes(text)), 0xCBF43926U);
  EXPECT_EQ(Crc32c(Bytes(text)), 0xE3069283U);
  EXPECT_EQ(Crc64Nvme(Bytes(text)), 0xAE8B14860A799888U);
  EXPECT_EQ(Crc32c(Bytes("")), 0U);
  std::string pieces;
  for (int i = 0; i < 100; ++i) pieces += static_cast<char>(i * 7);
  for (size_t cut = 0; cut <= pieces.size(); ++cut) {
    EXPECT_EQ(Crc64Nvme(Bytes(pieces).subspan(cut), Crc64Nvme(Bytes(pieces).first(cut))), Crc64Nvme(Bytes(pieces)));
  }
}

TEST_F(S3Learning, BytesThatDoNotMatchTheirChecksumReachNobody) {
  std::string wrong = kContent;
  wrong[20] ^= 1;
  for (const std::string& line : {"x-amz-checksum-crc32c: " + Base64(BigEndian(Crc32c(Bytes(kContent)))),
                                  "x-amz-checksum-crc64nvme: " + Base64(BigEndian(Crc64Nvme(Bytes(kContent)))),
                                  "x-amz-checksum-crc32: " + Base64(BigEndian(Crc32(Bytes(kContent)))),
                                  std::string("x-amz-checksum-sha256: dOflu50i1tsmv3aUbUD/8+qfA0a4hP0GlJIPzPrRXjM="),
                                  std::string("x-amz-checksum-sha1: omcEwE/F8Q21qrWEaANVMcxUJIU=")}) {
    Serve([&](const std::string&) { return Whole({line}); });
    EXPECT_TRUE(Read(*store_)) << line;
    EXPECT_EQ(got_, kContent);
    EXPECT_THAT(server_->requests()[0], HasSubstr("\r\nx-amz-checksum-mode: ENABLED\r\n"));
    Serve([&](const std::string&) { return Whole({line}, wrong); });
    EXPECT_EQ(Read(*store_).error().code(), Code::kDataLoss) << line;
    EXPECT_EQ(got_, "") << line;
    Serve([&](const std::string&) { return Whole({line}, wrong); }, "&checksums=0");
    EXPECT_TRUE(Read(*store_)) << "asked not to look";
    EXPECT_THAT(server_->requests()[0], Not(HasSubstr("x-amz-checksum-mode")));
  }
}

TEST_F(S3Learning, ChecksumsOfPartsAreNotTheObjects) {
  for (const std::vector<std::string>& headers :
       std::vector<std::vector<std::string>>{{"x-amz-checksum-crc32c: AAAAAA==-3"},
                                             {"x-amz-checksum-crc32c: AAAAAA==", "x-amz-checksum-type: COMPOSITE"},
                                             {"x-amz-checksum-crc32c: no base64!"},
                                             {"x-amz-checksum-crc32c: AAAA"}}) {
    Serve([&](const std::string&) { return Whole(headers); });
    EXPECT_TRUE(Read(*store_)) << headers[0];
    EXPECT_EQ(got_, kContent);
  }
}

TEST_F(S3Learning, ARetryAfterAWrongChecksumIsClean) {
  const std::string crc32c = BigEndian(Crc32c(Bytes(kContent)));
  std::atomic<int> reads = 0;
  Serve([&](const std::string& request) {
    if (request.find("list-type=2") != std::string::npos) {
      return ScriptedHttpServer::Http("200 OK", {}, "<ListBucketResult/>");
    }
    return Whole({"x-amz-checksum-crc32c: " + Base64(crc32c)}, ++reads <= 2 ? std::string(36, 'x') : kContent);
  });
  Metrics metrics;
  const Result<std::shared_ptr<ObjectStore>> store =
      OpenStore(url_, {.retry_initial_backoff = std::chrono::milliseconds(1)}, SystemClock(), metrics, {});
  ASSERT_TRUE(store) << store.error();
  EXPECT_TRUE(Read(**store));
  EXPECT_EQ(got_, kContent);
  EXPECT_EQ(reads, 3);
}

}  // namespace
}  // namespace mlcache::store
