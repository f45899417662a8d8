// Signing against AWS's published examples and botocore's results; what S3 says in headers and XML.
#include "cached/store/s3_wire.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cached/store/percent.h"
#include "cached/store/s3_sign.h"

namespace mlcache::store {
namespace {

using ::testing::EndsWith;

const SigningKey kExampleKey = {.access_key_id = "AKIAIOSFODNN7EXAMPLE",
                                .secret_access_key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
                                .session_token = "",
                                .region = "us-east-1"};
// 2013-05-24T00:00:00Z
constexpr Nanos kExampleTime = std::chrono::seconds(1369353600);

// https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html, "Examples".
TEST(S3Sign, AwsExamples) {
  const std::string host = "https://examplebucket.s3.amazonaws.com/";
  std::vector<std::string> headers = SignS3("GET", host + "test.txt", {"Range: bytes=0-9"}, kExampleKey, kExampleTime);
  EXPECT_EQ(headers.back(),
            "Authorization: AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, "
            "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, "
            "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
  headers = SignS3("GET", host + "?lifecycle=", {}, kExampleKey, kExampleTime);
  EXPECT_THAT(headers.back(), EndsWith("Signature=fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"));
  headers = SignS3("GET", host + "?max-keys=2&prefix=J", {}, kExampleKey, kExampleTime);
  EXPECT_THAT(headers.back(), EndsWith("Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"));
}

TEST(S3Wire, ContentRanges) {
  const std::optional<ContentRange> range = ParseContentRange("bytes 5-9/100");
  ASSERT_TRUE(range);
  EXPECT_EQ(range->first, 5U);
  EXPECT_EQ(range->last, 9U);
  EXPECT_EQ(range->total, 100U);
  for (const char* bad : {"", "bytes", "bytes 5-9", "bytes 5-9/*", "bytes */100", "bytes -9/100", "bytes 5-/100",
                          "bytes 5-9/100x", "bits 5-9/100", "bytes 5/9-100", "bytes +5-9/100"}) {
    EXPECT_FALSE(ParseContentRange(bad)) << bad;
  }
}

TEST(S3Wire, EtagsAndDates) {
  EXPECT_EQ(UnquoteEtag("\"abc-2\""), "abc-2");
  EXPECT_EQ(UnquoteEtag("W/\"abc\""), "abc");
  EXPECT_EQ(UnquoteEtag("abc"), "abc");
  EXPECT_EQ(UnquoteEtag("\""), "\"");
  EXPECT_EQ(UnquoteEtag(""), "");
  EXPECT_EQ(ParseHttpDate("Wed, 21 Oct 2015 07:28:00 GMT"), 1445412480LL * 1'000'000'000);
  EXPECT_EQ(ParseHttpDate("tomorrow"), 0);
}

TEST(S3Wire, Listings) {
  const Result<S3Listing> listing = ParseS3Listing(
      R"(<?xml version="1.0" encoding="UTF-8"?>
      <ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
        <IsTruncated>true</IsTruncated><EncodingType>url</EncodingType><NextContinuationToken>a&amp;b=</NextContinuationToken>
        <Contents><Key>a+b%2Bc%0A</Key><LastModified>2015-10-21T07:28:00.999Z</LastModified><ETag>&quot;e1&quot;</ETag><Size>7</Size></Contents>
        <CommonPrefixes><Prefix>d/</Prefix></CommonPrefixes>
      </ListBucketResult>)");
  ASSERT_TRUE(listing) << listing.error();
  ASSERT_EQ(listing->objects.size(), 1U);
  EXPECT_EQ(listing->objects[0].key, "a b+c\n");
  EXPECT_EQ(listing->objects[0].etag, "e1");
  EXPECT_EQ(listing->objects[0].size, 7U);
  EXPECT_EQ(listing->objects[0].mtime_ns, 1445412480LL * 1'000'000'000);
  EXPECT_THAT(listing->prefixes, ::testing::ElementsAre("d/"));
  EXPECT_EQ(listing->next_token, "a&b=");
  const Result<S3Listing> plain = ParseS3Listing(
      "<ListBucketResult><Contents><Key> a+%41 </Key><Size>0</Size><ETag>e</ETag></Contents></ListBucketResult>");
  ASSERT_TRUE(plain) << plain.error();
  EXPECT_EQ(plain->objects[0].key, " a+%41 ");
  EXPECT_EQ(plain->next_token, "");
}

}  // namespace
}  // namespace mlcache::store
