// tests/store/s3_server.py as a child process: a third-party S3 server, and the hand that fills it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <cstdio>
#include <string>

namespace mlcache::store {

class S3Server {
 public:
  enum class Kind : uint8_t { kMoto, kVerifyingMoto, kS3rver };

  // Runs the script with the Python found at MLCACHE_TEST_PYTHON, else build/venv/bin/python, else python3. A
  // verifying moto and s3rver check signatures. Aborts the test program, saying what to install, where that cannot be
  // done.
  explicit S3Server(Kind kind);
  S3Server(const S3Server&) = delete;
  S3Server& operator=(const S3Server&) = delete;
  ~S3Server();

  void Put(const std::string& key, const std::string& bytes);
  void Delete(const std::string& key);
  void DeleteAll();

  const std::string& endpoint() const { return endpoint_; }
  const std::string& bucket() const { return bucket_; }
  // Sets AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to those that the server knows, and clears what could interfere.
  void SetCredentials() const;

 private:
  std::string Ask(const std::string& line);

  pid_t pid_ = -1;
  FILE* to_ = nullptr;
  FILE* from_ = nullptr;
  std::string endpoint_;
  std::string bucket_;
  std::string access_key_id_;
  std::string secret_access_key_;
};

// Whether MLCACHE_SKIP_S3=1 says that there is no such server here.
bool SkipS3();

// Where s3rver is installed: MLCACHE_TEST_S3RVER, else build/s3rver. Empty if it is not there.
std::string S3rverDirectory();

}  // namespace mlcache::store
