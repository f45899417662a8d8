// A whole stack of store and decorators over a server that lies: no wrong byte is ever handed over, and each lie ends
// in a clear error or, once the server is honest again, in a clean retry.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <functional>
#include <memory>
#include <ostream>
#include <span>
#include <string>
#include <vector>

#include "cached/metrics/metrics.h"
#include "cached/store/checksum.h"
#include "cached/store/open_store.h"
#include "cached/store/store_url.h"
#include "common/clock.h"
#include "tests/fakes/scripted_http_server.h"

namespace mlcache::store {
namespace {

using mlcache::testing::ScriptedHttpServer;
using Reply = ScriptedHttpServer::Reply;
using Then = ScriptedHttpServer::Then;
using std::chrono::milliseconds;

std::string Content() {
  std::string content;
  for (int i = 0; i < 5000; ++i) content += std::to_string(i) + ",";
  return content;
}
const std::string kContent = Content();

struct Range {
  size_t first;
  size_t last;
  bool whole() const { return first == 0 && last == kContent.size() - 1; }
  std::string bytes() const { return kContent.substr(first, last - first + 1); }
  std::string header() const { return Header(first, last, kContent.size()); }
  static std::string Header(size_t first, size_t last, size_t total) {
    return "Content-Range: bytes " + std::to_string(first) + "-" + std::to_string(last) + "/" + std::to_string(total);
  }
};

Range Asked(const std::string& request) {
  const size_t at = request.find("Range: bytes=") + 13;
  const size_t dash = request.find('-', at);
  return {.first = std::stoul(request.substr(at)), .last = std::stoul(request.substr(dash + 1))};
}

Reply Partial(const std::string& content_range, const std::string& body, std::vector<std::string> headers = {},
              Then then = Then::kKeepOpen) {
  headers.insert(headers.begin(), content_range);
  if (std::ranges::none_of(headers, [](const std::string& line) { return line.starts_with("ETag"); })) {
    headers.emplace_back("ETag: \"v1\"");
  }
  return {.bytes = ScriptedHttpServer::Http("206 Partial Content", headers, body), .then = then};
}

std::string ChecksumHeader() {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const uint64_t crc = uint64_t{Crc32c(std::as_bytes(std::span(kContent)))} << 4;
  std::string text;
  for (int digit = 5; digit >= 0; --digit) text += kDigits[crc >> (6 * digit) & 63];
  return "x-amz-checksum-crc32c: " + text + "==";
}

Reply Honest(const Range& range) {
  return Partial(range.header(), range.bytes(),
                 range.whole() ? std::vector{ChecksumHeader()} : std::vector<std::string>());
}

struct Lie {
  std::string name;
  std::function<Reply(const Range&)> tell;
  bool for_ranges = true;    // false: only a whole object has a checksum that gives it away
  bool is_a_change = false;  // told as a change, which no retry mends
  friend void PrintTo(const Lie& lie, std::ostream* out) { *out << lie.name; }
};

const std::vector<Lie>& Lies() {
  static const std::vector<Lie> lies = {
      {.name = "WrongBytes",
       .tell =
           [](const Range& range) {
             std::string wrong = range.bytes();
             wrong[wrong.size() / 2] ^= 4;
             return Partial(range.header(), wrong, {ChecksumHeader()});
           },
       .for_ranges = false},
      {.name = "ShortBody",
       .tell =
           [](const Range& range) {
             const std::string length = "Content-Length: " + std::to_string(range.bytes().size());
             return Partial(range.header(), range.bytes().substr(0, 100), {length}, Then::kClose);
           }},
      {.name = "ShortBodyWithATrueLength",
       .tell = [](const Range& range) { return Partial(range.header(), range.bytes().substr(0, 100)); }},
      {.name = "LongBody", .tell = [](const Range& range) { return Partial(range.header(), range.bytes() + "more"); }},
      {.name = "ShiftedContentRange",
       .tell =
           [](const Range& range) {
             return Partial(Range::Header(range.first + 1, range.last + 1, kContent.size()), range.bytes());
           }},
      {.name = "ContentRangeOfAnotherSize",
       .tell =
           [](const Range& range) {
             return Partial(Range::Header(range.first, range.last, kContent.size() + 1), range.bytes());
           }},
      {.name = "NoContentRange", .tell = [](const Range& range) { return Partial("X: y", range.bytes()); }},
      {.name = "OkForPartial",
       .tell =
           [](const Range& /*range*/) {
             return Reply{.bytes = ScriptedHttpServer::Http("200 OK", {"ETag: \"v1\""}, kContent + "!")};
           }},
      {.name = "StallBeforeTheReply",
       .tell = [](const Range& /*range*/) { return Reply{.bytes = "", .then = Then::kStall}; }},
      {.name = "StallInTheBody",
       .tell =
           [](const Range& range) {
             const std::string length = "Content-Length: " + std::to_string(range.bytes().size());
             return Partial(range.header(), range.bytes().substr(0, 100), {length}, Then::kStall);
           }},
      {.name = "ResetBeforeTheReply",
       .tell = [](const Range& /*range*/) { return Reply{.bytes = "", .then = Then::kReset}; }},
      {.name = "ResetInTheBody",
       .tell =
           [](const Range& range) {
             const std::string length = "Content-Length: " + std::to_string(range.bytes().size());
             return Partial(range.header(), range.bytes().substr(0, 100), {length}, Then::kReset);
           }},
      {.name = "Garbage",
       .tell =
           [](const Range& /*range*/) { return Reply{.bytes = "\x01\x02 nonsense\r\n\r\n", .then = Then::kClose}; }},
      {.name = "Busy",
       .tell =
           [](const Range& /*range*/) {
             return Reply{.bytes =
                              ScriptedHttpServer::Http("503 Slow Down", {}, "<Error><Code>SlowDown</Code></Error>")};
           }},
      {.name = "AnotherVersion",
       .tell =
           [](const Range& range) {
             return Partial(range.header(), std::string(range.bytes().size(), 'x'), {"ETag: \"v2\""});
           },
       .is_a_change = true},
      {.name = "NoVersion",
       .tell =
           [](const Range& range) {
             return Partial(range.header(), std::string(range.bytes().size(), 'x'), {"ETag: "});
           }},
      // The reply breaks off; what comes next is of another version.
      {.name = "ChangeInTheMiddle",
       .tell =
           [](const Range& range) {
             if (range.first % 1000 != 0) return Partial(range.header(), "xxxx", {"ETag: \"v2\""});
             const std::string length = "Content-Length: " + std::to_string(range.bytes().size());
             return Partial(range.header(), range.bytes().substr(0, 100), {length}, Then::kClose);
           },
       .is_a_change = true},
  };
  return lies;
}

class LyingServer : public ::testing::TestWithParam<Lie> {
 protected:
  void SetUp() override {
    setenv("AWS_ACCESS_KEY_ID", "AKID", 1);
    setenv("AWS_SECRET_ACCESS_KEY", "a-secret-nobody-may-see", 1);
    unsetenv("AWS_SESSION_TOKEN");
  }

  // A store whose server tells the first `lies` reads the lie of this test.
  void Open(int lies) {
    left_ = lies;
    server_ = std::make_unique<ScriptedHttpServer>([this](const std::string& request) {
      if (request.find("list-type=2") != std::string::npos) {
        return Reply{.bytes = ScriptedHttpServer::Http("200 OK", {}, "<ListBucketResult/>")};
      }
      const Range range = Asked(request);
      return left_.fetch_sub(1) > 0 ? GetParam().tell(range) : Honest(range);
    });
    const Result<StoreUrl> url = ParseStoreUrl("s3://bucket?endpoint=" + server_->endpoint());
    ASSERT_TRUE(url);
    StoreOptions options;
    options.retry_initial_backoff = milliseconds(1);
    options.first_byte_timeout = options.stall_timeout = milliseconds(100);
    Result<std::shared_ptr<ObjectStore>> store = OpenStore(*url, options, SystemClock(), metrics_, {});
    ASSERT_TRUE(store) << store.error();
    store_ = *std::move(store);
  }

  // Reads, and looks at every byte as it is handed over.
  Status Read(size_t offset, size_t length) {
    got_ = 0;
    const ByteSink sink = [&](std::span<const std::byte> piece) -> Status {
      const std::string_view bytes(reinterpret_cast<const char*>(piece.data()), piece.size());
      EXPECT_LE(got_ + piece.size(), length) << "more than was asked for";
      EXPECT_EQ(bytes, std::string_view(kContent).substr(offset + got_, piece.size())) << "a wrong byte";
      got_ += piece.size();
      return {};
    };
    const ObjectRef ref{.path = "file", .version = "v1", .size = kContent.size(), .layout = nullptr};
    return store_->ReadRange(ref, offset, length, sink, {});
  }

  void ExpectClearError(const Status& status) {
    ASSERT_FALSE(status) << "a lie was believed";
    const Code code = status.error().code();
    const bool expected = GetParam().is_a_change ? code == Code::kFailedPrecondition
                                                 : code == Code::kUnavailable || code == Code::kDataLoss;
    EXPECT_TRUE(expected) << status.error();
    EXPECT_THAT(status.error().message(), ::testing::HasSubstr("file"));
    EXPECT_THAT(status.error().message(), ::testing::Not(::testing::HasSubstr("nobody-may-see")));
  }

  std::atomic<int> left_ = 0;
  Metrics metrics_;
  std::unique_ptr<ScriptedHttpServer> server_;
  std::shared_ptr<ObjectStore> store_;
  size_t got_ = 0;
};

TEST_P(LyingServer, NothingWrongOfAWholeObjectIsHandedOver) {
  Open(1'000'000);
  ExpectClearError(Read(0, kContent.size()));
}

TEST_P(LyingServer, NothingWrongOfARangeIsHandedOver) {
  if (!GetParam().for_ranges) GTEST_SKIP() << "S3 sends no checksum of a range";
  Open(1'000'000);
  ExpectClearError(Read(1000, 7000));
}

TEST_P(LyingServer, WhatIsNoChangeIsMendedByARetry) {
  Open(2);
  const Status status = Read(0, kContent.size());
  if (GetParam().is_a_change) return ExpectClearError(status);
  ASSERT_TRUE(status) << status.error();
  EXPECT_EQ(got_, kContent.size());
  EXPECT_LT(left_.load(), 0) << "the lies were told";
}

INSTANTIATE_TEST_SUITE_P(All, LyingServer, ::testing::ValuesIn(Lies()),
                         [](const auto& parameter) { return parameter.param.name; });

}  // namespace
}  // namespace mlcache::store
