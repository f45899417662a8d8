#include "cached/store/s3_remote_credentials.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <pugixml.hpp>
#include <sstream>
#include <string_view>
#include <utility>

#include "cached/store/percent.h"
#include "cached/store/s3_wire.h"

namespace mlcache::store {
namespace {

// The answers are small, the endpoints near; whoever asks has a deadline of its own.
HttpOptions Quick(HttpOptions http, bool use_proxy) {
  http.connect_timeout = std::min<Nanos>(http.connect_timeout, std::chrono::seconds(2));
  http.first_byte_timeout = std::min<Nanos>(http.first_byte_timeout, std::chrono::seconds(5));
  http.attempt_timeout = std::min<Nanos>(http.attempt_timeout, std::chrono::seconds(10));
  http.max_idle_connections = 1;
  http.use_proxy = use_proxy;
  http.gate = nullptr;  // the keys are part of a request that has yet to pass it
  return http;
}

Result<std::string> ReadSecretFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  if (file) text << file.rdbuf();
  if (!file) return Fail(Code::kUnauthenticated, path + ": " + std::strerror(errno));
  std::string secret = text.str();
  while (!secret.empty() && (secret.back() == '\n' || secret.back() == '\r')) secret.pop_back();
  if (secret.empty() || secret.find_first_of("\r\n") != std::string::npos) {
    return Fail(Code::kUnauthenticated, path + ": does not hold one line with a token");
  }
  return secret;
}

Result<S3Keys> Sound(S3Keys keys, const std::string& expires, const std::string& who) {
  if (const int64_t time = ParseIsoDate(expires.c_str()); time > 0) keys.expires = Nanos(time);
  const bool printable = [&] {
    for (const std::string* text : {&keys.access_key_id, &keys.secret_access_key, &keys.session_token}) {
      if (std::ranges::any_of(*text, [](unsigned char c) { return c <= ' ' || c >= 0x7f; })) return false;
    }
    return true;
  }();
  if (keys.access_key_id.empty() || keys.secret_access_key.empty() || !printable) {
    return Fail(Code::kDataLoss, who + ": the reply has no usable keys");
  }
  return keys;
}

// {"AccessKeyId", "SecretAccessKey", "Token", "Expiration"}, as containers and instances get it.
Result<S3Keys> ParseKeysJson(const std::string& text, const std::string& who) {
  const auto json = nlohmann::json::parse(text, nullptr, false);
  const auto field = [&](const char* name) -> std::string {
    if (!json.is_object() || !json.contains(name) || !json[name].is_string()) return "";
    return json[name].get<std::string>();
  };
  return Sound({.access_key_id = field("AccessKeyId"),
                .secret_access_key = field("SecretAccessKey"),
                .session_token = field("Token"),
                .expires = {}},
               field("Expiration"), who);
}

// The body of a 200 reply. Bodies are never shown: they may hold secrets.
Result<std::string> Fetch(HttpClient& http, const HttpRequest& request, const std::string& who,
                          const CallContext& context) {
  Result<HttpResponse> response = http.Do(request, context);
  if (!response) return std::unexpected(response.error().WithContext(who));
  const int status = response->head.status;
  if (status == 200) return std::move(response->body);
  return Fail(status == 429 || status >= 500 ? Code::kUnavailable : Code::kUnauthenticated,
              who + " answers " + std::to_string(status));
}

class WebIdentityCredentials : public CredentialsProvider {
 public:
  WebIdentityCredentials(WebIdentity identity, const HttpOptions& http, const Clock& clock)
      : identity_(std::move(identity)), http_(Quick(http, true), clock) {}

  Result<S3Keys> Get(const CallContext& context) override {
    const std::string who = "web identity of " + identity_.role_arn;
    Result<std::string> token = ReadSecretFile(identity_.token_file);
    if (!token) return std::unexpected(token.error().WithContext(who));
    const std::string session = identity_.session_name.empty() ? "mlcached" : identity_.session_name;
    HttpRequest request{.method = HttpRequest::Method::kPost, .url = identity_.endpoint + "/"};
    request.headers = {"Content-Type: application/x-www-form-urlencoded", "Accept: application/xml"};
    request.body =
        "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=" + PercentEncode(identity_.role_arn, "") +
        "&RoleSessionName=" + PercentEncode(session, "") + "&WebIdentityToken=" + PercentEncode(*token, "");
    Result<HttpResponse> response = http_.Do(request, context);
    if (!response) return std::unexpected(response.error().WithContext(who));
    pugi::xml_document document;
    document.load_buffer(response->body.data(), response->body.size());
    if (response->head.status != 200) return std::unexpected(Refusal(*response, document, who));
    const pugi::xml_node keys = document.child("AssumeRoleWithWebIdentityResponse")
                                    .child("AssumeRoleWithWebIdentityResult")
                                    .child("Credentials");
    return Sound({.access_key_id = keys.child_value("AccessKeyId"),
                  .secret_access_key = keys.child_value("SecretAccessKey"),
                  .session_token = keys.child_value("SessionToken"),
                  .expires = {}},
                 keys.child_value("Expiration"), who);
  }

 private:
  Error Refusal(const HttpResponse& response, const pugi::xml_document& document, const std::string& who) const {
    const int status = response.head.status;
    const std::string code = document.child("ErrorResponse").child("Error").child_value("Code");
    const bool passing = status == 429 || status >= 500 || code == "IDPCommunicationError" || code == "Throttling";
    return {passing ? Code::kUnavailable : Code::kUnauthenticated,
            who + ": " + identity_.endpoint + " answers " + std::to_string(status) + (code.empty() ? "" : " " + code) +
                (passing ? "" : "; check the role's trust policy and " + identity_.token_file)};
  }

  const WebIdentity identity_;
  HttpClient http_;
};

// Where plain http may carry keys: this host, and the addresses at which ECS and EKS offer theirs.
bool MayBePlain(std::string_view url) {
  constexpr std::string_view kScheme = "http://";
  if (!url.starts_with(kScheme)) return false;
  const std::string_view authority =
      url.substr(kScheme.size(), url.find_first_of("/?#", kScheme.size()) - kScheme.size());
  const size_t port = authority.starts_with('[') ? authority.find(']') + 1 : authority.find(':');
  const std::string_view host = authority.substr(0, port);
  constexpr std::array<std::string_view, 6> kHosts = {"localhost",     "127.0.0.1",      "[::1]",
                                                      "169.254.170.2", "169.254.170.23", "[fd00:ec2::23]"};
  return std::ranges::find(kHosts, host) != kHosts.end();
}

class ContainerCredentials : public CredentialsProvider {
 public:
  ContainerCredentials(ContainerEndpoint endpoint, const HttpOptions& http, const Clock& clock)
      : endpoint_(std::move(endpoint)), http_(Quick(http, false), clock) {}

  Result<S3Keys> Get(const CallContext& context) override {
    const std::string who = "container credentials";
    if (!endpoint_.url.starts_with("https://") && !MayBePlain(endpoint_.url)) {
      return Fail(Code::kInvalidArgument,
                  "AWS_CONTAINER_CREDENTIALS_FULL_URI must be https, or http to this host or to the platform's own "
                  "address (169.254.170.2, 169.254.170.23)");
    }
    std::string authorization = endpoint_.authorization;
    if (!endpoint_.authorization_file.empty()) {
      MLCACHE_ASSIGN_OR_RETURN(authorization, ReadSecretFile(endpoint_.authorization_file));
    }
    HttpRequest request{.url = endpoint_.url};
    request.headers = {"Accept: application/json"};
    if (!authorization.empty()) request.headers.push_back("Authorization: " + authorization);
    MLCACHE_ASSIGN_OR_RETURN(const std::string body, Fetch(http_, request, who, context));
    return ParseKeysJson(body, who);
  }

 private:
  const ContainerEndpoint endpoint_;
  HttpClient http_;
};

class InstanceCredentials : public CredentialsProvider {
 public:
  InstanceCredentials(std::string endpoint, const HttpOptions& http, const Clock& clock)
      : endpoint_(std::move(endpoint)), http_(Quick(http, false), clock) {}

  Result<S3Keys> Get(const CallContext& context) override {
    const std::string who = "instance metadata";
    HttpRequest session{.method = HttpRequest::Method::kPut, .url = endpoint_ + "/latest/api/token"};
    session.headers = {"X-aws-ec2-metadata-token-ttl-seconds: 300"};
    MLCACHE_ASSIGN_OR_RETURN(const std::string token, Fetch(http_, session, who, context));
    const std::string folder = endpoint_ + "/latest/meta-data/iam/security-credentials/";
    HttpRequest request{.url = folder};
    request.headers = {"X-aws-ec2-metadata-token: " + token};
    MLCACHE_ASSIGN_OR_RETURN(std::string role,
                             Fetch(http_, request, who + " (the instance may have no role)", context));
    role = role.substr(0, role.find_first_of("\r\n"));
    if (role.empty()) return Fail(Code::kUnauthenticated, who + ": the instance has no role");
    request.url = folder + PercentEncode(role, "");
    MLCACHE_ASSIGN_OR_RETURN(const std::string body, Fetch(http_, request, who, context));
    return ParseKeysJson(body, who);
  }

 private:
  const std::string endpoint_;
  HttpClient http_;
};

}  // namespace

std::unique_ptr<CredentialsProvider> MakeWebIdentityCredentials(const WebIdentity& identity, const HttpOptions& http,
                                                                const Clock& clock) {
  return std::make_unique<WebIdentityCredentials>(identity, http, clock);
}

std::unique_ptr<CredentialsProvider> MakeContainerCredentials(const ContainerEndpoint& endpoint,
                                                              const HttpOptions& http, const Clock& clock) {
  return std::make_unique<ContainerCredentials>(endpoint, http, clock);
}

std::unique_ptr<CredentialsProvider> MakeInstanceCredentials(const std::string& endpoint, const HttpOptions& http,
                                                             const Clock& clock) {
  return std::make_unique<InstanceCredentials>(endpoint, http, clock);
}

}  // namespace mlcache::store
