// Where the keys for S3 come from: the daemon's environment, files, and the endpoints that the host's platform offers.
// Never from a URL, a command line or an RPC.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "cached/store/http_client.h"
#include "cached/store/object_store.h"
#include "common/clock.h"
#include "common/status.h"

namespace mlcache::store {

struct S3Keys {
  std::string access_key_id;
  std::string secret_access_key;
  std::string session_token;     // may be empty
  std::optional<Nanos> expires;  // since 1970; nothing: for good, or until a file is changed
};

class CredentialsProvider {  // thread-safe
 public:
  virtual ~CredentialsProvider() = default;

  // Keys that are valid now. kUnauthenticated says which places were looked at and what to set there; kUnavailable: an
  // endpoint that should give them does not answer; kCancelled and kDeadlineExceeded of the context.
  virtual Result<S3Keys> Get(const CallContext& context) = 0;
};

// Keeps what another provider gives: until shortly before it expires (five minutes, or a quarter of its life if that is
// less), or 30 s where it does not say. One caller renews it while the others go on with what is still valid, or wait
// for it. A renewal that fails is tried again after 10 s as long as the old keys have not expired; keys without an
// expiry are dropped then, since a file that is gone takes them back.
class CachedCredentials : public CredentialsProvider {
 public:
  CachedCredentials(std::unique_ptr<CredentialsProvider> source, const Clock& clock);

  Result<S3Keys> Get(const CallContext& context) override;

 private:
  bool Fresh() const;
  bool Valid() const;
  void Keep(const Result<S3Keys>& renewed);

  const std::unique_ptr<CredentialsProvider> source_;
  const Clock& clock_;

  std::mutex mutex_;  // guards all below; a leaf
  std::condition_variable_any changed_;
  std::optional<S3Keys> keys_;
  std::optional<Error> failure_;  // of the last renewal
  Nanos renew_at_{};              // by Clock::WallNow where the keys expire, else by Clock::Now
  bool renewing_ = false;
};

struct CredentialOptions {
  std::string profile;             // of the profile files; empty: AWS_PROFILE, else "default"
  std::string region;              // of the token service
  bool instance_metadata = false;  // whether the link-local metadata service may be asked
  HttpOptions http;                // for the endpoints
};

// The first of these that is set up, as the AWS SDKs order them:
// 1. AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, unless `profile` is given.
// 2. The profile in AWS_SHARED_CREDENTIALS_FILE, else $CREDENTIALS_DIRECTORY/aws (systemd's LoadCredential=aws:FILE),
// else
//    ~/.aws/credentials; what it lacks is taken from AWS_CONFIG_FILE, else ~/.aws/config. A profile that is asked for
//    by name must be there.
// 3. The token in AWS_WEB_IDENTITY_TOKEN_FILE, exchanged for keys of AWS_ROLE_ARN (Kubernetes service accounts).
// 4. AWS_CONTAINER_CREDENTIALS_FULL_URI or _RELATIVE_URI (ECS, EKS pod identity).
// 5. The instance metadata service, version 2, if `instance_metadata` allows it.
// The environment is read here, and never again.
std::shared_ptr<CredentialsProvider> MakeDefaultCredentials(const CredentialOptions& options, const Clock& clock);

// Of one profile by name, in the files as above and nowhere else.
std::shared_ptr<CredentialsProvider> MakeProfileCredentials(const CredentialOptions& options, const Clock& clock);

}  // namespace mlcache::store
