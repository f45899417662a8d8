#include "cached/store/store_url.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cached/store/percent.h"

namespace mlcache::store {
namespace {

using ::testing::HasSubstr;

StoreUrl Parsed(std::string_view url) {
  const Result<StoreUrl> parsed = ParseStoreUrl(url);
  EXPECT_TRUE(parsed) << parsed.error();
  return parsed.value_or(StoreUrl{});
}

TEST(StoreUrl, FileUrls) {
  const StoreUrl url = Parsed("file:///data/my%20set//train/");
  EXPECT_EQ(url.scheme, "file");
  EXPECT_EQ(url.authority, "");
  EXPECT_EQ(url.path, "data/my set/train");
  EXPECT_EQ(url.Identity(), "file://");
  EXPECT_EQ(url.Canonical(), "file:///data/my%20set/train");
  EXPECT_EQ(Parsed("FILE://localhost/data").Canonical(), "file:///data");
  EXPECT_EQ(Parsed("file:///").Canonical(), "file:///");
  EXPECT_EQ(Parsed("file:///a@b/c:d").path, "a@b/c:d");
  EXPECT_EQ(Parsed("file:///100%25/%3Fx/new%0Aline/gr%C3%BC%C3%9Fe").path, "100%/?x/new\nline/gr\u00fc\u00dfe");
}

TEST(StoreUrl, S3Urls) {
  const StoreUrl url = Parsed("s3://bucket/some/prefix/?region=eu-west-3&endpoint=HTTPS://S3.Example.com:443/");
  EXPECT_EQ(url.authority, "bucket");
  EXPECT_EQ(url.path, "some/prefix");
  EXPECT_EQ(url.options.at("endpoint"), "https://s3.example.com");
  EXPECT_EQ(url.Identity(), "s3://bucket@https://s3.example.com");
  EXPECT_EQ(url.Canonical(), "s3://bucket/some/prefix?endpoint=https://s3.example.com&region=eu-west-3");
  EXPECT_EQ(Parsed("s3://bucket").Identity(), "s3://bucket@amazonaws.com");
  EXPECT_EQ(Parsed("s3://bucket").Canonical(), "s3://bucket");
  EXPECT_EQ(Parsed("s3://b?endpoint=10.0.0.1:9000").options.at("endpoint"), "https://10.0.0.1:9000");
  EXPECT_EQ(Parsed("s3://b?endpoint=http%3A%2F%2F[::1]:9000").options.at("endpoint"), "http://[::1]:9000");
  EXPECT_EQ(Parsed("s3://b/a+b?anonymous=1&addressing=host").path, "a+b");
}

TEST(StoreUrl, SeaweedUrls) {
  const StoreUrl url = Parsed("seaweedfs://Filer.local:8888/buckets/x?grpc=18888");
  EXPECT_EQ(url.authority, "filer.local:8888");
  EXPECT_EQ(url.Identity(), "seaweedfs://filer.local:8888");
  EXPECT_EQ(url.Canonical(), "seaweedfs://filer.local:8888/buckets/x?grpc=18888");
  EXPECT_EQ(Parsed("seaweedfs://h/p").authority, "h:8888");
  EXPECT_EQ(Parsed("seaweedfs://[::1]/p").authority, "[::1]:8888");
  EXPECT_EQ(Parsed("seaweedfs://B:1,a,b:1/p?access=filer").Canonical(), "seaweedfs://b:1,a:8888/p?access=filer");
}

TEST(StoreUrl, OneNamespaceHasOneIdentity) {
  EXPECT_EQ(Parsed("s3://b/x?endpoint=http://h:80").Identity(),
            Parsed("s3://b/y/z?endpoint=http://H/&region=r").Identity());
  StoreUrl keyed = Parsed("s3://b");
  keyed.credential = "team-a";
  EXPECT_EQ(keyed.Identity(), "s3://b@amazonaws.com#team-a");
  EXPECT_EQ(keyed.Canonical(), "s3://b");
  EXPECT_NE(Parsed("s3://b?profile=p").Identity(), Parsed("s3://b").Identity());
  EXPECT_NE(Parsed("s3://b?endpoint=http://h").Identity(), Parsed("s3://b?endpoint=http://g").Identity());
  EXPECT_EQ(Parsed("file:///a").Identity(), Parsed("file:///b/c").Identity());
  EXPECT_EQ(Parsed("seaweedfs://a,b:8888/x").Identity(), Parsed("seaweedfs://b,a/y?access=public").Identity());
  EXPECT_NE(Parsed("seaweedfs://a/x").Identity(), Parsed("seaweedfs://b/x").Identity());
}

TEST(StoreUrl, ACanonicalUrlParsesToItself) {
  for (const char* text : {"file:///a%20b/%25", "s3://b/p%3Fq?endpoint=http://h:1&region=x", "seaweedfs://h:1/p"}) {
    const StoreUrl url = Parsed(text);
    EXPECT_EQ(url.Canonical(), text);
    EXPECT_EQ(Parsed(url.Canonical()).path, url.path);
  }
}

TEST(StoreUrl, RefusalsSayWhatIsWrong) {
  struct Case {
    const char* url;
    const char* said;
  };
  for (const Case& c : std::initializer_list<Case>{
           {"", "scheme"},
           {"/data", "file:///data"},
           {"data", "scheme"},
           {"http://host/x", "known are file, s3 and seaweedfs"},
           {"://x", "unknown scheme"},
           {"file://data/set", "three slashes"},
           {"file://data", "three slashes"},
           {"file://", "three slashes"},
           {"file:///a/../b", "'..'"},
           {"file:///a/%2E%2E/b", "'..'"},
           {"file:///a/./b", "'.'"},
           {"file:///a%2", "%25"},
           {"file:///a%zz", "%25"},
           {"file:///a%00b", "%00"},
           {"file:///a#b", "%23"},
           {"file:///a?x=1", "unknown option 'x'; file:// knows max_bytes_per_second, max_requests_per_second"},
           {"s3:///x", "bucket is missing"},
           {"s3://buck et/x", "not a bucket name"},
           {"s3://host:9000/x", "not a bucket name"},
           {"s3://b?zone=x", "knows addressing, anonymous, checksums, endpoint, profile, region, max_bytes_per_second"},
           {"s3://b?checksums=yes", "0 or 1"},
           {"file:///a?max_bytes_per_second=fast", "a rate above 0, as 500 or 100MiB, not 'fast'"},
           {"s3://b?max_requests_per_second=0", "a rate above 0"},
           {"s3://b?region", "has no value"},
           {"s3://b?region=a&region=b", "given twice"},
           {"s3://b?region=a/b", "region must"},
           {"s3://b?addressing=virtual", "path or host"},
           {"s3://b?anonymous=yes", "0 or 1"},
           {"s3://b?endpoint=ftp://h", "http://HOST"},
           {"s3://b?endpoint=http://h/path", "without a path"},
           {"s3://b?endpoint=http://:9", "without a path"},
           {"s3://b?endpoint=http://h:x", "without a path"},
           {"seaweedfs:///p", "filer is missing"},
           {"seaweedfs://h:99999999/p", "filer"},
           {"seaweedfs://h,,i/p", "filer is missing"},
           {"seaweedfs://h:70000/p", "up to 65535"},
           {"seaweedfs://h:60000/p", "?grpc=PORT"},
           {"seaweedfs://h/p?access=magic", "direct, public or filer"},
           {"seaweedfs://h/p?grpc=0", "port number"},
           {"seaweedfs://h/p?grpc=x", "port number"}}) {
    const Result<StoreUrl> url = ParseStoreUrl(c.url);
    ASSERT_FALSE(url) << c.url;
    EXPECT_EQ(url.error().code(), Code::kInvalidArgument);
    EXPECT_THAT(url.error().message(), HasSubstr(c.said)) << c.url;
    EXPECT_THAT(url.error().message(), HasSubstr("file:///DIR")) << c.url;
  }
}

TEST(StoreUrl, CredentialsAreRefusedAndNotRepeated) {
  for (const char* text : {"s3://AKID:hunter2@bucket/x", "s3://hunter2@bucket", "file://a:hunter2@/x"}) {
    const Result<StoreUrl> url = ParseStoreUrl(text);
    ASSERT_FALSE(url) << text;
    EXPECT_THAT(url.error().message(), HasSubstr("AWS_ACCESS_KEY_ID"));
    EXPECT_THAT(url.error().message(), ::testing::Not(HasSubstr("hunter2")));
  }
  for (const char* text : {"s3://b?secret=hunter2", "s3://b?endpoint=http://u:hunter2@h"}) {
    const Result<StoreUrl> url = ParseStoreUrl(text);
    ASSERT_FALSE(url) << text;
    EXPECT_THAT(url.error().message(), ::testing::Not(HasSubstr("hunter2")));
  }
}

TEST(Percent, EncodesAndDecodesEveryByte) {
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
  EXPECT_EQ(PercentDecode(PercentEncode(all, "")), all);
  EXPECT_EQ(PercentEncode("a b/c~+", "/"), "a%20b/c~%2B");
  EXPECT_EQ(PercentDecode("a+b"), "a+b");
  EXPECT_EQ(PercentDecode("a+b%2b", true), "a b+");
  for (const char* bad : {"%", "%1", "a%g1", "%1g"}) EXPECT_FALSE(PercentDecode(bad)) << bad;
}

}  // namespace
}  // namespace mlcache::store
