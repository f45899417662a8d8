// Where S3 credentials come from: the daemon's environment or a profile file, never a URL. Thread-safe.
#pragma once

#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "cached/store/s3_sign.h"
#include "common/clock.h"
#include "common/status.h"

namespace mlcache::store {

class S3Credentials {
 public:
  // Reads the environment now, and here only. In this order: AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY (and
  // AWS_SESSION_TOKEN), unless `profile` is given; then [profile] (else AWS_PROFILE, else "default") of the file
  // AWS_SHARED_CREDENTIALS_FILE, else $CREDENTIALS_DIRECTORY/aws (systemd's LoadCredential=aws:FILE), else
  // ~/.aws/credentials.
  S3Credentials(const std::string& profile, std::string region, const Clock& clock);

  // kUnauthenticated names the places looked at. A file is read again when what was read is older than 30 s, so that
  // rotated keys are found.
  Result<SigningKey> Get();

 private:
  Result<SigningKey> ReadFile() const;

  const std::string region_;
  const Clock& clock_;
  std::optional<SigningKey> from_environment_;
  std::string profile_;
  std::string file_;

  std::mutex mutex_;
  std::optional<SigningKey> from_file_;  // guarded by mutex_
  Nanos read_at_{};                      // guarded by mutex_
};

}  // namespace mlcache::store
