#include "cached/store/s3_credentials.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <utility>

namespace mlcache::store {
namespace {

constexpr Nanos kFileLifetime = std::chrono::seconds(30);

std::string Env(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string Trimmed(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r\n";
  const size_t begin = text.find_first_not_of(kBlank);
  if (begin == std::string_view::npos) return "";
  return std::string(text.substr(begin, text.find_last_not_of(kBlank) - begin + 1));
}

std::string CredentialsFile() {
  if (std::string file = Env("AWS_SHARED_CREDENTIALS_FILE"); !file.empty()) return file;
  if (std::string directory = Env("CREDENTIALS_DIRECTORY"); !directory.empty()) {
    std::string file = directory + "/aws";
    if (std::ifstream(file).good()) return file;
  }
  const std::string home = Env("HOME");
  return home.empty() ? "" : home + "/.aws/credentials";
}

}  // namespace

S3Credentials::S3Credentials(const std::string& profile, std::string region, const Clock& clock)
    : region_(std::move(region)), clock_(clock), profile_(profile), file_(CredentialsFile()) {
  if (!profile.empty()) return;
  profile_ = Env("AWS_PROFILE");
  if (profile_.empty()) profile_ = "default";
  SigningKey key{.access_key_id = Env("AWS_ACCESS_KEY_ID"),
                 .secret_access_key = Env("AWS_SECRET_ACCESS_KEY"),
                 .session_token = Env("AWS_SESSION_TOKEN"),
                 .region = region_};
  if (!key.access_key_id.empty() && !key.secret_access_key.empty()) from_environment_ = std::move(key);
}

Result<SigningKey> S3Credentials::Get() {
  if (from_environment_) return *from_environment_;
  const std::lock_guard lock(mutex_);
  const Nanos now = clock_.Now();
  if (!from_file_ || now - read_at_ >= kFileLifetime) {
    MLCACHE_ASSIGN_OR_RETURN(from_file_, ReadFile());
    read_at_ = now;
  }
  return *from_file_;
}

Result<SigningKey> S3Credentials::ReadFile() const {
  const std::string remedy =
      ": set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in mlcached's environment, name a profile file in "
      "AWS_SHARED_CREDENTIALS_FILE, or give ?anonymous=1 for a public bucket";
  std::ifstream file(file_);
  if (!file) {
    return Fail(Code::kUnauthenticated, "no S3 credentials: no keys in the environment, and " +
                                            (file_.empty() ? "no profile file" : file_ + ": " + std::strerror(errno)) +
                                            remedy);
  }
  SigningKey key{.region = region_};
  bool ours = false;
  for (std::string line; std::getline(file, line);) {
    const std::string text = Trimmed(line);
    if (text.empty() || text.front() == '#' || text.front() == ';') continue;
    if (text.front() == '[') {
      ours = text.back() == ']' && Trimmed(std::string_view(text).substr(1, text.size() - 2)) == profile_;
      continue;
    }
    const size_t equals = text.find('=');
    if (!ours || equals == std::string::npos) continue;
    const std::string name = Trimmed(std::string_view(text).substr(0, equals));
    const std::string value = Trimmed(std::string_view(text).substr(equals + 1));
    if (name == "aws_access_key_id") key.access_key_id = value;
    if (name == "aws_secret_access_key") key.secret_access_key = value;
    if (name == "aws_session_token") key.session_token = value;
  }
  if (key.access_key_id.empty() || key.secret_access_key.empty()) {
    return Fail(Code::kUnauthenticated,
                "no S3 credentials: " + file_ + " has no keys in section [" + profile_ + "]" + remedy);
  }
  return key;
}

}  // namespace mlcache::store
