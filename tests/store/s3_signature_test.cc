// Signatures, credentials, addressing and a missing bucket, against a third-party server that checks every signature.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "cached/metrics/metrics.h"
#include "cached/store/open_store.h"
#include "cached/store/store_url.h"
#include "tests/store/s3_server.h"

namespace mlcache::store {
namespace {

using ::testing::HasSubstr;

class S3Signature : public ::testing::Test {
 protected:
  void SetUp() override {
    if (SkipS3()) GTEST_SKIP() << "MLCACHE_SKIP_S3=1: no third-party S3 server here";
    if (std::getenv("MLCACHE_TEST_S3_ENDPOINT") != nullptr) GTEST_SKIP() << "needs a server that it may start itself";
    server_ = std::make_unique<S3Server>(S3Server::Kind::kVerifyingMoto);
    server_->SetCredentials();
  }

  Result<std::shared_ptr<ObjectStore>> Open(const std::string& bucket_and_path, const std::string& options = "") {
    const std::string endpoint = host_.empty() ? server_->endpoint() : host_;
    const Result<StoreUrl> url = ParseStoreUrl("s3://" + bucket_and_path + "?endpoint=" + endpoint + options);
    if (!url) return std::unexpected(url.error());
    return OpenStore(*url, {.retry_attempts = 1}, SystemClock(), metrics_, {});
  }

  void ExpectReadable(ObjectStore& store, const std::string& directory, const std::string& name) {
    const Result<ListPage> page = store.List(directory, "", {});
    ASSERT_TRUE(page) << page.error();
    ASSERT_EQ(page->entries.size(), 1U) << directory;
    EXPECT_EQ(page->entries[0].name, name);
    const std::string path = directory + "/" + name;
    const Result<ObjectInfo> info = store.Stat(path, {});
    ASSERT_TRUE(info) << info.error();
    std::string got;
    const ByteSink sink = [&](std::span<const std::byte> piece) -> Status {
      got.append(reinterpret_cast<const char*>(piece.data()), piece.size());
      return {};
    };
    const Status status = store.ReadRange(
        {.path = path, .version = info->version, .size = info->size, .layout = nullptr}, 1, 3, sink, {});
    ASSERT_TRUE(status) << status.error();
    EXPECT_EQ(got, "ell");
  }

  std::unique_ptr<S3Server> server_;
  std::string host_;
  Metrics metrics_;
};

TEST_F(S3Signature, EveryNameIsSignedAsTheServerSignsIt) {
  const std::vector<std::string> names = {"plain", "with space", "a+b", "grüße-日本語", "(1)!*'~:@$,;=&", "<\"x\">"};
  for (size_t i = 0; i < names.size(); ++i) server_->Put("d " + std::to_string(i) + "+/" + names[i], "hello");
  const Result<std::shared_ptr<ObjectStore>> store = Open(server_->bucket());
  ASSERT_TRUE(store) << store.error();
  for (size_t i = 0; i < names.size(); ++i) ExpectReadable(**store, "d " + std::to_string(i) + "+", names[i]);
}

TEST_F(S3Signature, BucketsInTheHostName) {
  server_->Put("dir/file", "hello");
  host_ = server_->endpoint();
  host_.replace(host_.find("127.0.0.1"), 9, "localhost");
  const Result<std::shared_ptr<ObjectStore>> store = Open(server_->bucket(), "&addressing=host");
  ASSERT_TRUE(store) << store.error();
  ExpectReadable(**store, "dir", "file");
}

TEST_F(S3Signature, WrongCredentialsSayWhatToMend) {
  server_->Put("dir/file", "hello");
  EXPECT_EQ(Open("no-such-bucket").error().code(), Code::kNotFound);
  EXPECT_THAT(Open("no-such-bucket").error().message(), HasSubstr("there is no bucket no-such-bucket"));
  EXPECT_EQ(Open(server_->bucket() + "/no/such/prefix").error().code(), Code::kNotFound);
  setenv("AWS_SECRET_ACCESS_KEY", "wrong", 1);
  EXPECT_EQ(Open(server_->bucket()).error().code(), Code::kUnauthenticated);
  EXPECT_THAT(Open(server_->bucket()).error().message(), HasSubstr("AWS_SECRET_ACCESS_KEY"));
  setenv("AWS_ACCESS_KEY_ID", "AKIAUNKNOWN", 1);
  EXPECT_EQ(Open(server_->bucket()).error().code(), Code::kUnauthenticated);
  EXPECT_THAT(Open(server_->bucket()).error().message(), HasSubstr("AWS_ACCESS_KEY_ID"));
}

}  // namespace
}  // namespace mlcache::store
