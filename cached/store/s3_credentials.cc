#include "cached/store/s3_credentials.h"

#include <glog/logging.h>

#include <algorithm>
#include <utility>

#include "cached/store/call.h"
#include "cached/store/s3_profile.h"
#include "cached/store/s3_remote_credentials.h"

namespace mlcache::store {
namespace {

constexpr Nanos kUndatedLifetime = std::chrono::seconds(30);
constexpr Nanos kEarly = std::chrono::minutes(5);
constexpr Nanos kRenewalBackoff = std::chrono::seconds(10);

// Whoever waited for a renewal that its caller gave up makes the next one.
bool IsGivenUp(const Error& error) {
  return error.code() == Code::kCancelled || error.code() == Code::kDeadlineExceeded;
}

std::string TokenService(const std::string& region) {
  if (std::string endpoint = Environment("AWS_ENDPOINT_URL_STS"); !endpoint.empty()) {
    while (endpoint.ends_with('/')) endpoint.pop_back();
    return endpoint;
  }
  const std::string domain = region.starts_with("cn-") ? ".amazonaws.com.cn" : ".amazonaws.com";
  return "https://sts." + region + domain;
}

// Reads the files at each Get; what is kept between, CachedCredentials keeps.
class ProfileCredentials : public CredentialsProvider {
 public:
  ProfileCredentials(const CredentialOptions& options, const Clock& clock)
      : options_(options), clock_(clock), files_(FindProfileFiles()), token_service_(TokenService(options.region)) {}

  // kNotFound where there is no such profile.
  Result<S3Keys> Get(const CallContext& context) override {
    MLCACHE_ASSIGN_OR_RETURN(const Profile profile, ReadProfile(files_, options_.profile));
    const std::string who = "profile [" + options_.profile + "]";
    if (profile.HasKeys()) {
      return S3Keys{.access_key_id = profile.access_key_id,
                    .secret_access_key = profile.secret_access_key,
                    .session_token = profile.session_token,
                    .expires = {}};
    }
    if (!profile.role_arn.empty() && !profile.web_identity_token_file.empty()) {
      const WebIdentity identity{.token_file = profile.web_identity_token_file,
                                 .role_arn = profile.role_arn,
                                 .session_name = profile.role_session_name,
                                 .endpoint = token_service_};
      return MakeWebIdentityCredentials(identity, options_.http, clock_)->Get(context);
    }
    if (!profile.unsupported.empty()) {
      return Fail(Code::kUnauthenticated, who + " uses " + profile.unsupported +
                                              ", which mlcached does not follow: give it keys, or role_arn with "
                                              "web_identity_token_file");
    }
    return Fail(Code::kNotFound, who + " has no keys");
  }

 private:
  const CredentialOptions options_;
  const Clock& clock_;
  const ProfileFiles files_;
  const std::string token_service_;
};

class EnvironmentCredentials : public CredentialsProvider {
 public:
  explicit EnvironmentCredentials(S3Keys keys) : keys_(std::move(keys)) {}
  Result<S3Keys> Get(const CallContext& /*context*/) override { return keys_; }

 private:
  const S3Keys keys_;
};

// One profile and nothing else: its absence is final.
class NamedProfile : public CredentialsProvider {
 public:
  NamedProfile(const CredentialOptions& options, const Clock& clock) : profile_(options, clock) {}

  Result<S3Keys> Get(const CallContext& context) override {
    Result<S3Keys> keys = profile_.Get(context);
    if (keys || keys.error().code() != Code::kNotFound) return keys;
    return Fail(Code::kUnauthenticated, "no S3 credentials: " + keys.error().message());
  }

 private:
  ProfileCredentials profile_;
};

// The default profile if there is one, else the platform's endpoint.
class ProfileOrPlatform : public CredentialsProvider {
 public:
  ProfileOrPlatform(const CredentialOptions& options, std::unique_ptr<CredentialsProvider> platform, const Clock& clock)
      : instance_metadata_(options.instance_metadata), profile_(options, clock), platform_(std::move(platform)) {}

  Result<S3Keys> Get(const CallContext& context) override {
    Result<S3Keys> keys = profile_.Get(context);
    if (keys || keys.error().code() != Code::kNotFound) return keys;
    if (platform_ != nullptr) return platform_->Get(context);
    return Fail(Code::kUnauthenticated,
                "no S3 credentials: no keys in the environment; " + keys.error().message() +
                    "; no web identity or container endpoint" +
                    (instance_metadata_ ? "" : "; instance metadata is not allowed (--s3_instance_metadata)") +
                    ": set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in mlcached's environment, name a profile file "
                    "in AWS_SHARED_CREDENTIALS_FILE, or give ?anonymous=1 for a public bucket");
  }

 private:
  const bool instance_metadata_;
  ProfileCredentials profile_;
  const std::unique_ptr<CredentialsProvider> platform_;
};

std::unique_ptr<CredentialsProvider> MakePlatformCredentials(const CredentialOptions& options, const Clock& clock) {
  const std::string token_file = Environment("AWS_WEB_IDENTITY_TOKEN_FILE");
  const std::string role = Environment("AWS_ROLE_ARN");
  if (!token_file.empty() && !role.empty()) {
    const WebIdentity identity{.token_file = token_file,
                               .role_arn = role,
                               .session_name = Environment("AWS_ROLE_SESSION_NAME"),
                               .endpoint = TokenService(options.region)};
    return MakeWebIdentityCredentials(identity, options.http, clock);
  }
  ContainerEndpoint container{.url = Environment("AWS_CONTAINER_CREDENTIALS_FULL_URI"),
                              .authorization = Environment("AWS_CONTAINER_AUTHORIZATION_TOKEN"),
                              .authorization_file = Environment("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")};
  if (const std::string path = Environment("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"); path.starts_with('/')) {
    container.url = "http://169.254.170.2" + path;
  }
  if (!container.url.empty()) return MakeContainerCredentials(container, options.http, clock);
  if (!options.instance_metadata || Environment("AWS_EC2_METADATA_DISABLED") == "true") return nullptr;
  std::string endpoint = Environment("AWS_EC2_METADATA_SERVICE_ENDPOINT");
  while (endpoint.ends_with('/')) endpoint.pop_back();
  return MakeInstanceCredentials(endpoint.empty() ? "http://169.254.169.254" : endpoint, options.http, clock);
}

}  // namespace

CachedCredentials::CachedCredentials(std::unique_ptr<CredentialsProvider> source, const Clock& clock)
    : source_(std::move(source)), clock_(clock) {}

bool CachedCredentials::Fresh() const { return Valid() && (!keys_->expires || clock_.WallNow() < renew_at_); }

bool CachedCredentials::Valid() const {
  return keys_ && (keys_->expires ? clock_.WallNow() < *keys_->expires : clock_.Now() < renew_at_);
}

void CachedCredentials::Keep(const Result<S3Keys>& renewed) {
  if (!renewed) {
    failure_ = renewed.error();
    if (keys_ && !keys_->expires) keys_.reset();  // the file is gone or wrong: that takes the keys back
    renew_at_ = clock_.WallNow() + kRenewalBackoff;
    return;
  }
  failure_.reset();
  keys_ = *renewed;
  if (!keys_->expires) {
    renew_at_ = clock_.Now() + kUndatedLifetime;
    return;
  }
  renew_at_ = *keys_->expires - std::min(kEarly, (*keys_->expires - clock_.WallNow()) / 4);
}

Result<S3Keys> CachedCredentials::Get(const CallContext& context) {
  std::unique_lock lock(mutex_);
  while (!Fresh() && renewing_) {
    if (Valid()) return *keys_;
    const auto ended = [&] { return !renewing_; };
    const bool waited =
        context.deadline == Nanos::max()
            ? changed_.wait(lock, context.stop, ended)
            : changed_.wait_until(lock, context.stop, std::chrono::steady_clock::time_point{context.deadline}, ended);
    if (!waited) {
      MLCACHE_RETURN_IF_ERROR(CheckCall(context, SystemClock(), "S3 credentials"));
      return Fail(Code::kDeadlineExceeded, "S3 credentials: not renewed before the deadline");
    }
    if (failure_ && !Valid() && !IsGivenUp(*failure_)) return std::unexpected(*failure_);
  }
  if (Fresh()) return *keys_;
  renewing_ = true;
  lock.unlock();
  Result<S3Keys> renewed = source_->Get(context);
  lock.lock();
  renewing_ = false;
  Keep(renewed);
  changed_.notify_all();
  if (!renewed && Valid()) {
    S3Keys old = *keys_;
    lock.unlock();
    LOG(WARNING) << "S3 credentials could not be renewed, the old ones are used on: " << renewed.error();
    return old;
  }
  return renewed;
}

std::shared_ptr<CredentialsProvider> MakeDefaultCredentials(const CredentialOptions& options, const Clock& clock) {
  CredentialOptions chosen = options;
  if (!chosen.profile.empty()) return MakeProfileCredentials(chosen, clock);
  S3Keys keys{.access_key_id = Environment("AWS_ACCESS_KEY_ID"),
              .secret_access_key = Environment("AWS_SECRET_ACCESS_KEY"),
              .session_token = Environment("AWS_SESSION_TOKEN"),
              .expires = {}};
  if (!keys.access_key_id.empty() && !keys.secret_access_key.empty()) {
    return std::make_shared<EnvironmentCredentials>(std::move(keys));
  }
  chosen.profile = Environment("AWS_PROFILE");
  if (!chosen.profile.empty()) return MakeProfileCredentials(chosen, clock);
  chosen.profile = "default";
  auto source = std::make_unique<ProfileOrPlatform>(chosen, MakePlatformCredentials(chosen, clock), clock);
  return std::make_shared<CachedCredentials>(std::move(source), clock);
}

std::shared_ptr<CredentialsProvider> MakeProfileCredentials(const CredentialOptions& options, const Clock& clock) {
  return std::make_shared<CachedCredentials>(std::make_unique<NamedProfile>(options, clock), clock);
}

}  // namespace mlcache::store
