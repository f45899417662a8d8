#include "tests/store/s3_server.h"

#include <fcntl.h>
#include <glog/logging.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <nlohmann/json.hpp>

namespace mlcache::store {
namespace {

using nlohmann::json;

std::string Python() {
  if (const char* python = std::getenv("MLCACHE_TEST_PYTHON"); python != nullptr) return python;
  const std::string venv = std::string(MLCACHE_SOURCE_DIR) + "/build/venv/bin/python";
  return access(venv.c_str(), X_OK) == 0 ? venv : "python3";
}

std::string Base64(const std::string& bytes) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const auto byte = [&](size_t at) -> uint32_t {
      return at < bytes.size() ? static_cast<unsigned char>(bytes[at]) : 0;
    };
    const uint32_t group = byte(i) << 16 | byte(i + 1) << 8 | byte(i + 2);
    text += {kDigits[group >> 18], kDigits[group >> 12 & 63]};
    text += i + 1 < bytes.size() ? kDigits[group >> 6 & 63] : '=';
    text += i + 2 < bytes.size() ? kDigits[group & 63] : '=';
  }
  return text;
}

}  // namespace

bool SkipS3() {
  const char* skip = std::getenv("MLCACHE_SKIP_S3");
  return skip != nullptr && std::string_view(skip) == "1";
}

std::string S3rverDirectory() {
  const char* directory = std::getenv("MLCACHE_TEST_S3RVER");
  const std::string found = directory != nullptr ? directory : std::string(MLCACHE_SOURCE_DIR) + "/build/s3rver";
  return access((found + "/node_modules/s3rver/package.json").c_str(), R_OK) == 0 ? found : "";
}

S3Server::S3Server(Kind kind) {
  const std::string python = Python();
  const std::string script = std::string(MLCACHE_SOURCE_DIR) + "/tests/store/s3_server.py";
  std::array<int, 2> input{};
  std::array<int, 2> output{};
  PCHECK(pipe2(input.data(), O_CLOEXEC) == 0 && pipe2(output.data(), O_CLOEXEC) == 0);
  pid_ = fork();
  PCHECK(pid_ >= 0);
  if (pid_ == 0) {
    dup2(input[0], STDIN_FILENO);
    dup2(output[1], STDOUT_FILENO);
    if (kind == Kind::kS3rver) {
      execlp(python.c_str(), python.c_str(), script.c_str(), "--s3rver", S3rverDirectory().c_str(), nullptr);
    } else {
      const char* verify = kind == Kind::kVerifyingMoto ? "--verify" : nullptr;
      execlp(python.c_str(), python.c_str(), script.c_str(), verify, nullptr);
    }
    _exit(127);
  }
  close(input[0]);
  close(output[1]);
  to_ = fdopen(input[1], "w");
  from_ = fdopen(output[0], "r");
  const json hello = json::parse(Ask(""), nullptr, false);
  CHECK(hello.is_object() && hello.contains("endpoint"))
      << "no S3 server: " << python << " " << script << " did not start one. Install it into a virtual environment "
      << "(python3 -m venv build/venv; build/venv/bin/pip install -r tests/requirements.txt), or name its Python in "
      << "MLCACHE_TEST_PYTHON, or set MLCACHE_SKIP_S3=1 to go without these tests";
  endpoint_ = hello["endpoint"];
  bucket_ = hello["bucket"];
  access_key_id_ = hello["access_key_id"];
  secret_access_key_ = hello["secret_access_key"];
}

S3Server::~S3Server() {
  fclose(to_);  // the end of its input ends the server
  fclose(from_);
  int status = 0;
  waitpid(pid_, &status, 0);
}

std::string S3Server::Ask(const std::string& line) {
  if (!line.empty()) {
    fputs((line + "\n").c_str(), to_);
    fflush(to_);
  }
  std::string answer;
  for (int c = fgetc(from_); c != EOF && c != '\n'; c = fgetc(from_)) answer += static_cast<char>(c);
  return answer;
}

void S3Server::Put(const std::string& key, const std::string& bytes) {
  const std::string answer = Ask(json{{"put", Base64(key)}, {"bytes", Base64(bytes)}}.dump());
  CHECK(json::parse(answer)["ok"]) << "cannot put " << key << ": " << answer;
}

void S3Server::Delete(const std::string& key) {
  const std::string answer = Ask(json{{"delete", Base64(key)}}.dump());
  CHECK(json::parse(answer)["ok"]) << "cannot delete " << key << ": " << answer;
}

void S3Server::DeleteAll() {
  const std::string answer = Ask(json{{"delete_all", true}}.dump());
  CHECK(json::parse(answer)["ok"]) << answer;
}

void S3Server::SetCredentials() const {
  for (const char* name : {"AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION"}) unsetenv(name);
  setenv("AWS_ACCESS_KEY_ID", access_key_id_.c_str(), 1);
  setenv("AWS_SECRET_ACCESS_KEY", secret_access_key_.c_str(), 1);
}

}  // namespace mlcache::store
