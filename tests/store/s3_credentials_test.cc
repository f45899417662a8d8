// Where keys come from, in which order, when they are renewed, and that they go nowhere they should not.
#include "cached/store/s3_credentials.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <latch>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "cached/store/s3_profile.h"
#include "cached/store/s3_remote_credentials.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/scripted_http_server.h"
#include "tests/store/backend.h"

namespace mlcache::store {
namespace {

using mlcache::testing::FakeClock;
using mlcache::testing::ScriptedHttpServer;
using std::chrono::minutes;
using std::chrono::seconds;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

class S3CredentialsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* name :
         {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE",
          "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "CREDENTIALS_DIRECTORY", "AWS_WEB_IDENTITY_TOKEN_FILE",
          "AWS_ROLE_ARN", "AWS_ROLE_SESSION_NAME", "AWS_ENDPOINT_URL_STS", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
          "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN",
          "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "AWS_EC2_METADATA_SERVICE_ENDPOINT", "AWS_EC2_METADATA_DISABLED"}) {
      unsetenv(name);
    }
    setenv("HOME", directory_.Path().c_str(), 1);
  }
  std::string WriteFile(const std::string& name, const std::string& text) const {
    const std::string path = directory_.Path() + "/" + name;
    std::ofstream(path) << text;
    return path;
  }
  std::shared_ptr<CredentialsProvider> Default(const std::string& profile = "") {
    return MakeDefaultCredentials(
        {.profile = profile, .region = "eu-west-1", .instance_metadata = instance_metadata_, .http = {}}, clock_);
  }
  Result<S3Keys> Get(const std::string& profile = "") { return Default(profile)->Get({}); }

  // A server that gives `reply` to each request.
  void Serve(const std::string& status, const std::string& body) {
    Serve([=](const std::string&) { return ScriptedHttpServer::Http(status, {}, body); });
  }
  void Serve(const std::function<std::string(const std::string&)>& reply) {
    server_ = std::make_unique<ScriptedHttpServer>(
        [=](const std::string& request) { return ScriptedHttpServer::Reply{.bytes = reply(request)}; });
  }

  TempDir directory_;
  FakeClock clock_;
  bool instance_metadata_ = false;
  std::unique_ptr<ScriptedHttpServer> server_;
};

TEST_F(S3CredentialsTest, TheEnvironmentComesFirst) {
  const std::string file = WriteFile("file",
                                     "[default]\naws_access_key_id=F\naws_secret_access_key=FS\n[p]\n"
                                     "aws_access_key_id = P\naws_secret_access_key = PS=\naws_session_token = PT\n");
  setenv("AWS_SHARED_CREDENTIALS_FILE", file.c_str(), 1);
  EXPECT_EQ(Get()->access_key_id, "F");
  setenv("AWS_PROFILE", "p", 1);
  EXPECT_EQ(Get()->access_key_id, "P");
  setenv("AWS_ACCESS_KEY_ID", "E", 1);
  EXPECT_EQ(Get()->access_key_id, "P") << "half a pair counts for nothing";
  setenv("AWS_SECRET_ACCESS_KEY", "ES", 1);
  setenv("AWS_SESSION_TOKEN", "ET", 1);
  EXPECT_EQ(Get()->access_key_id, "E");
  EXPECT_EQ(Get()->session_token, "ET");
  const Result<S3Keys> profile = Get("p");
  ASSERT_TRUE(profile);
  EXPECT_EQ(profile->access_key_id, "P");
  EXPECT_EQ(profile->secret_access_key, "PS=");
  EXPECT_EQ(profile->session_token, "PT");
}

TEST_F(S3CredentialsTest, FilesOfSystemdAndOfTheHomeDirectory) {
  EXPECT_EQ(Get().error().code(), Code::kUnauthenticated);
  EXPECT_THAT(Get().error().message(), HasSubstr(directory_.Path() + "/.aws/credentials"));
  WriteFile("aws", "; comment\n# another\n[default]\naws_access_key_id=S\naws_secret_access_key=hunter2\n");
  setenv("CREDENTIALS_DIRECTORY", directory_.Path().c_str(), 1);
  EXPECT_EQ(Get()->access_key_id, "S");
  const Result<S3Keys> missing = Get("other");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code(), Code::kUnauthenticated);
  EXPECT_THAT(missing.error().message(), HasSubstr("[other]"));
  EXPECT_THAT(missing.error().message(), Not(HasSubstr("hunter2")));
}

TEST_F(S3CredentialsTest, TheConfigurationFileFillsInWhatTheOtherLacks) {
  setenv("AWS_SHARED_CREDENTIALS_FILE", WriteFile("c", "[p]\naws_access_key_id=C\n").c_str(), 1);
  const std::string config =
      "[profile p]\naws_access_key_id=no\naws_secret_access_key=S\nregion=eu-north-1\ns3 =\n  "
      "aws_session_token=nested\n"
      "[p]\naws_session_token=no\n[profile sso]\nsso_session=x\nregion=r\n";
  setenv("AWS_CONFIG_FILE", WriteFile("config", config).c_str(), 1);
  const Result<S3Keys> keys = Get("p");
  ASSERT_TRUE(keys) << keys.error();
  EXPECT_EQ(keys->access_key_id, "C");
  EXPECT_EQ(keys->secret_access_key, "S");
  EXPECT_EQ(keys->session_token, "");
  EXPECT_EQ(ReadProfile(FindProfileFiles(), "p")->region, "eu-north-1");
  EXPECT_THAT(Get("sso").error().message(), HasSubstr("sso_session, which mlcached does not follow"));
}

TEST_F(S3CredentialsTest, RotatedKeysAreFoundAndRemovedOnesAreGone) {
  const std::string file = WriteFile("file", "[default]\naws_access_key_id=one\naws_secret_access_key=x\n");
  setenv("AWS_SHARED_CREDENTIALS_FILE", file.c_str(), 1);
  const std::shared_ptr<CredentialsProvider> credentials = Default();
  EXPECT_EQ(credentials->Get({})->access_key_id, "one");
  WriteFile("file", "[default]\naws_access_key_id=two\naws_secret_access_key=x\n");
  EXPECT_EQ(credentials->Get({})->access_key_id, "one");
  clock_.Advance(seconds(30));
  EXPECT_EQ(credentials->Get({})->access_key_id, "two");
  std::filesystem::remove(file);
  clock_.Advance(seconds(30));
  EXPECT_EQ(credentials->Get({}).error().code(), Code::kUnauthenticated);
}

constexpr char kStsReply[] =
    "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">"
    "<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>ASIA</AccessKeyId><SecretAccessKey>SS</SecretAccessKey>"
    "<SessionToken>TT</SessionToken><Expiration>2030-01-01T00:00:00Z</Expiration></Credentials>"
    "</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>";

TEST_F(S3CredentialsTest, AWebIdentityIsExchangedForKeys) {
  Serve("200 OK", kStsReply);
  setenv("AWS_WEB_IDENTITY_TOKEN_FILE", WriteFile("token", "ey+J/=\n").c_str(), 1);
  setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/x", 1);
  setenv("AWS_ENDPOINT_URL_STS", server_->endpoint().c_str(), 1);
  const Result<S3Keys> keys = Get();
  ASSERT_TRUE(keys) << keys.error();
  EXPECT_EQ(keys->access_key_id, "ASIA");
  EXPECT_EQ(keys->secret_access_key, "SS");
  EXPECT_EQ(keys->session_token, "TT");
  EXPECT_EQ(keys->expires, Nanos(seconds(1893456000)));
  ASSERT_EQ(server_->requests().size(), 1U);
  EXPECT_THAT(server_->requests()[0], StartsWith("POST / HTTP/1.1\r\n"));
  EXPECT_THAT(server_->requests()[0],
              HasSubstr("Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fx&"
                        "RoleSessionName=mlcached&WebIdentityToken=ey%2BJ%2F%3D"));
}

TEST_F(S3CredentialsTest, ARefusedWebIdentitySaysWhatToMend) {
  const std::string token = WriteFile("token", "secret-token");
  setenv("AWS_WEB_IDENTITY_TOKEN_FILE", token.c_str(), 1);
  setenv("AWS_ROLE_ARN", "arn:role", 1);
  Serve("403 Forbidden", "<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>");
  setenv("AWS_ENDPOINT_URL_STS", server_->endpoint().c_str(), 1);
  Error error = Get().error();
  EXPECT_EQ(error.code(), Code::kUnauthenticated);
  EXPECT_THAT(error.message(), HasSubstr("AccessDenied; check the role's trust policy and " + token));
  EXPECT_THAT(error.message(), Not(HasSubstr("secret-token")));
  Serve("503 Busy", "");
  setenv("AWS_ENDPOINT_URL_STS", server_->endpoint().c_str(), 1);
  EXPECT_EQ(Get().error().code(), Code::kUnavailable);
  Serve("200 OK", "<AssumeRoleWithWebIdentityResponse/>");
  setenv("AWS_ENDPOINT_URL_STS", server_->endpoint().c_str(), 1);
  EXPECT_EQ(Get().error().code(), Code::kDataLoss);
  std::filesystem::remove(token);
  EXPECT_THAT(Get().error().message(), HasSubstr(token + ": No such file"));
}

TEST_F(S3CredentialsTest, AProfileMayNameAWebIdentity) {
  Serve("200 OK", kStsReply);
  setenv("AWS_ENDPOINT_URL_STS", server_->endpoint().c_str(), 1);
  const std::string token = WriteFile("token", "t");
  setenv(
      "AWS_CONFIG_FILE",
      WriteFile("config", "[profile w]\nrole_arn=arn:r\nrole_session_name=me\nweb_identity_token_file=" + token + "\n")
          .c_str(),
      1);
  EXPECT_EQ(Get("w")->access_key_id, "ASIA");
  EXPECT_THAT(server_->requests()[0], HasSubstr("RoleSessionName=me&"));
}

constexpr char kKeysJson[] =
    R"({"AccessKeyId": "AK", "SecretAccessKey": "SK", "Token": "TK", "Expiration": "2030-01-01T00:00:00Z"})";

TEST_F(S3CredentialsTest, AContainersEndpoint) {
  Serve("200 OK", kKeysJson);
  setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", (server_->endpoint() + "/v1/keys").c_str(), 1);
  setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "first", 1);
  const Result<S3Keys> keys = Get();
  ASSERT_TRUE(keys) << keys.error();
  EXPECT_EQ(keys->access_key_id, "AK");
  EXPECT_EQ(keys->session_token, "TK");
  EXPECT_THAT(server_->requests()[0], StartsWith("GET /v1/keys HTTP/1.1\r\n"));
  EXPECT_THAT(server_->requests()[0], HasSubstr("\r\nAuthorization: first\r\n"));
  setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", WriteFile("auth", "second\n").c_str(), 1);
  ASSERT_TRUE(Get());
  EXPECT_THAT(server_->requests()[1], HasSubstr("\r\nAuthorization: second\r\n"));
  for (const char* uri :
       {"http://example.com/keys", "http://169.254.169.254/keys", "http://127.0.0.1@evil/", "ftp://x"}) {
    setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri, 1);
    EXPECT_EQ(Get().error().code(), Code::kInvalidArgument) << uri;
  }
}

TEST_F(S3CredentialsTest, InstanceMetadataIsAskedOnlyWhereItIsAllowed) {
  Serve([](const std::string& request) {
    if (request.starts_with("PUT /latest/api/token ")) return ScriptedHttpServer::Http("200 OK", {}, "session");
    if (request.find("X-aws-ec2-metadata-token: session\r\n") == std::string::npos) {
      return ScriptedHttpServer::Http("401 Unauthorized", {}, "");
    }
    const bool list = request.starts_with("GET /latest/meta-data/iam/security-credentials/ ");
    return ScriptedHttpServer::Http("200 OK", {}, list ? "my-role" : kKeysJson);
  });
  setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server_->endpoint().c_str(), 1);
  const Error refused = Get().error();
  EXPECT_EQ(refused.code(), Code::kUnauthenticated);
  EXPECT_THAT(refused.message(), HasSubstr("--s3_instance_metadata"));
  EXPECT_TRUE(server_->requests().empty());
  instance_metadata_ = true;
  const Result<S3Keys> keys = Get();
  ASSERT_TRUE(keys) << keys.error();
  EXPECT_EQ(keys->secret_access_key, "SK");
  ASSERT_EQ(server_->requests().size(), 3U);
  EXPECT_THAT(server_->requests()[2], StartsWith("GET /latest/meta-data/iam/security-credentials/my-role "));
  setenv("AWS_EC2_METADATA_DISABLED", "true", 1);
  EXPECT_FALSE(Get());
  EXPECT_EQ(server_->requests().size(), 3U);
}

// Gives out numbered keys that live for `life`; may be made to fail, or to wait.
class Source : public CredentialsProvider {
 public:
  explicit Source(const Clock& clock) : clock_(clock) {}
  Result<S3Keys> Get(const CallContext& /*context*/) override {
    const int number = ++calls;
    if (entered != nullptr) entered->count_down();
    if (go != nullptr) go->wait();
    if (fail) return Fail(Code::kUnavailable, "endpoint is down");
    return S3Keys{.access_key_id = "k" + std::to_string(number),
                  .secret_access_key = "s",
                  .session_token = "",
                  .expires = clock_.WallNow() + life};
  }
  std::atomic<int> calls = 0;
  std::atomic<bool> fail = false;
  Nanos life = minutes(60);
  std::latch* entered = nullptr;
  std::latch* go = nullptr;

 private:
  const Clock& clock_;
};

class CachedCredentialsTest : public ::testing::Test {
 protected:
  std::string Id() {
    const Result<S3Keys> keys = cached_.Get({});
    return keys ? keys->access_key_id : std::string(CodeName(keys.error().code()));
  }

  FakeClock clock_;
  Source* source_ = new Source(clock_);
  CachedCredentials cached_{std::unique_ptr<CredentialsProvider>(source_), clock_};
};

TEST_F(CachedCredentialsTest, KeysAreRenewedBeforeTheyExpire) {
  EXPECT_EQ(Id(), "k1");
  clock_.Advance(minutes(54));
  EXPECT_EQ(Id(), "k1");
  clock_.Advance(minutes(1));
  EXPECT_EQ(Id(), "k2") << "five minutes before the end";
  source_->life = minutes(4);
  clock_.Advance(minutes(55));
  EXPECT_EQ(Id(), "k3");
  clock_.Advance(minutes(2));
  EXPECT_EQ(Id(), "k3") << "short-lived keys are kept for three quarters of their life";
  clock_.Advance(minutes(1));
  EXPECT_EQ(Id(), "k4");
}

TEST_F(CachedCredentialsTest, AFailedRenewalLeavesTheOldKeysUntilTheyExpire) {
  EXPECT_EQ(Id(), "k1");
  source_->fail = true;
  clock_.Advance(minutes(56));
  EXPECT_EQ(Id(), "k1");
  EXPECT_EQ(Id(), "k1");
  EXPECT_EQ(source_->calls, 2) << "not asked again at once";
  clock_.Advance(seconds(10));
  EXPECT_EQ(Id(), "k1");
  EXPECT_EQ(source_->calls, 3);
  clock_.Advance(minutes(4));
  EXPECT_EQ(Id(), "UNAVAILABLE");
  source_->fail = false;
  EXPECT_EQ(Id(), "k5");
}

TEST_F(CachedCredentialsTest, OneRenewalServesAll) {
  std::latch entered(1);
  std::latch go(1);
  source_->entered = &entered;
  source_->go = &go;
  std::mutex mutex;
  std::vector<std::string> ids;
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back([&] {
        const std::string id = Id();
        const std::lock_guard lock(mutex);
        ids.push_back(id);
      });
    }
    entered.wait();
    std::stop_source stop;
    stop.request_stop();
    EXPECT_EQ(cached_.Get({.stop = stop.get_token()}).error().code(), Code::kCancelled) << "waiting can be called off";
    go.count_down();
  }
  EXPECT_EQ(ids, std::vector<std::string>(8, "k1"));
  EXPECT_EQ(source_->calls, 1);
}

}  // namespace
}  // namespace mlcache::store
