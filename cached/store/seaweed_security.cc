#include "cached/store/seaweed_security.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <toml++/toml.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string_view>
#include <utility>

namespace mlcache::store {
namespace {

constexpr int64_t kLongestTokenSeconds = 24L * 3600;

// WEED_GRPC_CA for "grpc.ca".
std::string EnvironmentName(std::string_view key) {
  std::string name = "WEED_";
  for (const char c : key) {
    name += c == '.' ? '_' : (c >= 'a' && c <= 'z') ? static_cast<char>(c - 'a' + 'A') : c;
  }
  return name;
}

// A file's values under the environment's.
class Settings {
 public:
  Settings(toml::table table, std::filesystem::path directory)
      : table_(std::move(table)), directory_(std::move(directory)) {}

  std::string Text(std::string_view key) const {
    if (const char* value = std::getenv(EnvironmentName(key).c_str()); value != nullptr) return value;
    const toml::node_view<const toml::node> node = table_.at_path(key);
    if (const auto text = node.value_exact<std::string>()) return *text;
    if (const auto number = node.value_exact<int64_t>()) return std::to_string(*number);
    if (const auto flag = node.value_exact<bool>()) return *flag ? "true" : "false";
    return "";
  }

  std::string Path(std::string_view key) const {
    const std::string path = Text(key);
    return path.empty() || path.starts_with('/') ? path : (directory_ / path).lexically_normal().string();
  }

  Status Token(const std::string& section, TokenKey& key) const {
    key.secret = Text(section + ".key");
    const std::string text = Text(section + ".expires_after_seconds");
    if (text.empty()) return {};
    int64_t seconds = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
    if (error != std::errc() || end != text.data() + text.size() || seconds < 0 || seconds > kLongestTokenSeconds) {
      return Fail(Code::kInvalidArgument, section + ".expires_after_seconds is '" + text +
                                              "': write whole seconds, at most " +
                                              std::to_string(kLongestTokenSeconds));
    }
    if (seconds > 0) key.lifetime = std::chrono::seconds(seconds);
    return {};
  }

 private:
  toml::table table_;
  std::filesystem::path directory_;
};

Result<toml::table> ReadToml(const std::string& path) {
  if (path.empty()) return toml::table();
  if (access(path.c_str(), R_OK) != 0) {
    return FailErrno(errno,
                     "SeaweedFS security file " + path + " (--seaweedfs_security must be readable by mlcached's user)");
  }
  try {
    return toml::parse_file(path);
  } catch (const toml::parse_error& error) {
    std::ostringstream text;
    text << "SeaweedFS security file " << path << ", line " << error.source().begin.line << ": " << error.description();
    return Fail(Code::kInvalidArgument, text.str());
  }
}

// The unit's LoadCredential=seaweedfs:FILE; empty if there is none.
std::string SystemdCredential() {
  const char* directory = std::getenv("CREDENTIALS_DIRECTORY");
  if (directory == nullptr) return "";
  std::string path = std::string(directory) + "/seaweedfs";
  return access(path.c_str(), F_OK) == 0 ? path : "";
}

Status CheckTls(const TlsFiles& files, const std::string& section, bool mutual) {
  if (files.certificate.empty() != files.key.empty()) {
    return Fail(Code::kInvalidArgument, section + ": cert and key belong together, only one is set");
  }
  if (mutual && !files.certificate.empty() && files.ca.empty()) {
    return Fail(Code::kInvalidArgument, section + ": cert and key are set, but [grpc] ca is missing");
  }
  for (const std::string& file : {files.ca, files.certificate, files.key}) {
    if (!file.empty() && access(file.c_str(), R_OK) != 0) {
      const Error error = ErrnoError(errno, file + " (it must be readable by mlcached's user)");
      return std::unexpected(error.WithContext(section));
    }
  }
  return {};
}

std::string Base64Url(std::string_view bytes) {
  std::string text((bytes.size() + 2) / 3 * 4 + 1, '\0');
  const int length =
      EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                      reinterpret_cast<const unsigned char*>(bytes.data()), static_cast<int>(bytes.size()));
  text.resize(static_cast<size_t>(length));
  while (text.ends_with('=')) text.pop_back();
  for (char& c : text) c = c == '+' ? '-' : c == '/' ? '_' : c;
  return text;
}

}  // namespace

Result<SeaweedSecurity> LoadSeaweedSecurity(const std::string& named) {
  const std::string path = named.empty() ? SystemdCredential() : named;
  MLCACHE_ASSIGN_OR_RETURN(toml::table table, ReadToml(path));
  const Settings settings(std::move(table), std::filesystem::path(path).parent_path());
  SeaweedSecurity security;
  security.grpc = {.ca = settings.Path("grpc.ca"),
                   .certificate = settings.Path("grpc.client.cert"),
                   .key = settings.Path("grpc.client.key")};
  security.https = settings.Text("https.client.enabled") == "true";
  if (security.https) {
    security.https_files = {.ca = settings.Path("https.client.ca"),
                            .certificate = settings.Path("https.client.cert"),
                            .key = settings.Path("https.client.key")};
  }
  const std::string where = path.empty() ? "environment (WEED_…)" : path;
  Status status = settings.Token("jwt.signing.read", security.volume_read);
  if (status) status = settings.Token("jwt.filer_signing.read", security.filer_read);
  if (status) status = CheckTls(security.grpc, "[grpc.client]", true);
  if (status) status = CheckTls(security.https_files, "[https.client]", false);
  if (!status) return std::unexpected(status.error().WithContext("SeaweedFS security settings of " + where));
  return security;
}

std::string MakeToken(const TokenKey& key, const std::string& file_id, Nanos wall_now) {
  nlohmann::json claims = {{"exp", std::chrono::duration_cast<std::chrono::seconds>(wall_now + key.lifetime).count()}};
  if (!file_id.empty()) claims["fid"] = file_id;
  const std::string text = Base64Url(R"({"alg":"HS256","typ":"JWT"})") + "." + Base64Url(claims.dump());
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int length = 0;
  HMAC(EVP_sha256(), key.secret.data(), static_cast<int>(key.secret.size()),
       reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest, &length);
  return text + "." + Base64Url(std::string_view(reinterpret_cast<const char*>(digest), length));
}

}  // namespace mlcache::store
