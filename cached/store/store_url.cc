#include "cached/store/store_url.h"

#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "cached/store/percent.h"

namespace mlcache::store {
namespace {

constexpr std::string_view kForms =
    "file:///DIR, s3://BUCKET/PREFIX?endpoint=https://HOST&region=NAME or seaweedfs://FILER:8888/PATH";

struct Scheme {
  std::string_view name;
  std::span<const std::string_view> options;
};

constexpr std::array<std::string_view, 5> kS3Options = {"addressing", "anonymous", "endpoint", "profile", "region"};
constexpr std::array<std::string_view, 1> kSeaweedOptions = {"grpc"};
constexpr std::array<Scheme, 3> kSchemes = {{{"file", {}}, {"s3", kS3Options}, {"seaweedfs", kSeaweedOptions}}};

// Why a URL is refused; the caller adds which one and the accepted forms.
using Why = std::optional<std::string>;

bool IsAlnum(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); }

std::string Lower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return lower;
}

// Decodes and takes out empty components; "." and ".." would make one object have two names.
Why ParsePath(std::string_view encoded, std::string& path) {
  const std::optional<std::string> decoded = PercentDecode(encoded);
  if (!decoded) return "'%' must be followed by two hexadecimal digits (a literal '%' is written %25)";
  if (decoded->find('\0') != std::string::npos) return "%00 cannot be part of a file name";
  for (size_t begin = 0; begin <= decoded->size();) {
    const size_t end = std::min(decoded->find('/', begin), decoded->size());
    const std::string_view component = std::string_view(*decoded).substr(begin, end - begin);
    begin = end + 1;
    if (component.empty()) continue;
    if (component == "." || component == "..") return "the path must not contain '.' or '..'";
    if (!path.empty()) path += '/';
    path += component;
  }
  return {};
}

Why ParseOptions(std::string_view query, const Scheme& scheme, std::map<std::string, std::string>& options) {
  while (!query.empty()) {
    const size_t end = std::min(query.find('&'), query.size());
    const std::string_view item = query.substr(0, end);
    query.remove_prefix(std::min(end + 1, query.size()));
    if (item.empty()) continue;
    const size_t equals = item.find('=');
    const std::optional<std::string> name = PercentDecode(item.substr(0, equals));
    const std::optional<std::string> value =
        PercentDecode(equals == std::string_view::npos ? std::string_view() : item.substr(equals + 1));
    if (!name || !value) return "'%' must be followed by two hexadecimal digits (a literal '%' is written %25)";
    if (std::ranges::find(scheme.options, *name) == scheme.options.end()) {
      std::string known;
      for (std::string_view option : scheme.options) known.append(known.empty() ? "" : ", ").append(option);
      return "unknown option '" + *name + "'; " + std::string(scheme.name) + ":// knows " +
             (known.empty() ? "none" : known);
    }
    if (value->empty()) return "option '" + *name + "' has no value";
    if (!options.emplace(*name, *value).second) return "option '" + *name + "' is given twice";
  }
  return {};
}

bool IsPort(std::string_view text) {
  return !text.empty() && text.size() <= 5 && std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
}

// "host", "host:port", "[v6]:port".
bool IsHostPort(std::string_view text) {
  if (text.starts_with('[')) {
    const size_t close = text.find(']');
    if (close == std::string_view::npos || close < 3) return false;
    const std::string_view rest = text.substr(close + 1);
    return rest.empty() || (rest.starts_with(':') && IsPort(rest.substr(1)));
  }
  const size_t colon = text.find(':');
  if (colon != std::string_view::npos && !IsPort(text.substr(colon + 1))) return false;
  const std::string_view host = text.substr(0, colon);
  return !host.empty() &&
         std::ranges::all_of(host, [](char c) { return IsAlnum(c) || c == '.' || c == '-' || c == '_'; });
}

// One spelling: lower case, no default port, no trailing slash.
Why NormaliseEndpoint(std::string& endpoint) {
  std::string text = Lower(endpoint);
  if (text.find("://") == std::string::npos) text.insert(0, "https://");
  while (text.ends_with('/')) text.pop_back();
  const bool tls = text.starts_with("https://");
  if (!tls && !text.starts_with("http://")) return "endpoint must be http://HOST[:PORT] or https://HOST[:PORT]";
  const std::string_view default_port = tls ? ":443" : ":80";
  if (text.ends_with(default_port)) text.resize(text.size() - default_port.size());
  if (text.find('@') != std::string::npos) return "endpoint must not carry credentials";
  if (!IsHostPort(std::string_view(text).substr(tls ? 8 : 7))) {
    return "endpoint must be http://HOST[:PORT] or https://HOST[:PORT], without a path";
  }
  endpoint = text;
  return {};
}

Why CheckS3(StoreUrl& url) {
  if (url.authority.empty()) return "the bucket is missing: write s3://BUCKET/PREFIX";
  const bool sound =
      std::ranges::all_of(url.authority, [](char c) { return IsAlnum(c) || c == '.' || c == '-' || c == '_'; });
  if (!sound || url.authority.size() > 255 || url.authority == "." || url.authority == "..") {
    return "'" + url.authority +
           "' is not a bucket name (letters, digits, '.', '-', '_'; a server's address goes into "
           "?endpoint=)";
  }
  if (auto endpoint = url.options.find("endpoint"); endpoint != url.options.end()) {
    if (Why why = NormaliseEndpoint(endpoint->second)) return why;
  }
  if (auto addressing = url.options.find("addressing"); addressing != url.options.end()) {
    if (addressing->second != "path" && addressing->second != "host") return "addressing must be path or host";
  }
  if (auto anonymous = url.options.find("anonymous"); anonymous != url.options.end()) {
    if (anonymous->second != "0" && anonymous->second != "1") return "anonymous must be 0 or 1";
  }
  if (auto region = url.options.find("region"); region != url.options.end()) {
    if (!std::ranges::all_of(region->second, [](char c) { return IsAlnum(c) || c == '-' || c == '_'; })) {
      return "region must be a name such as eu-central-1";
    }
  }
  return {};
}

Why CheckAuthority(StoreUrl& url) {
  if (url.scheme == "s3") return CheckS3(url);
  if (url.scheme == "file") {
    if (url.authority == "localhost") url.authority.clear();
    if (!url.authority.empty()) return "the directory must be absolute: write file:///DIR, with three slashes";
    return {};
  }
  url.authority = Lower(url.authority);
  if (!IsHostPort(url.authority)) return "the filer is missing or not HOST:PORT: write seaweedfs://FILER:8888/PATH";
  if (auto grpc = url.options.find("grpc"); grpc != url.options.end() && !IsPort(grpc->second)) {
    return "grpc must be a port number";
  }
  return {};
}

Why Parse(std::string_view text, StoreUrl& url) {
  const size_t colon = text.find("://");
  if (colon == std::string_view::npos) {
    return text.starts_with('/') ? "a scheme is missing; for a directory write file://" + std::string(text)
                                 : std::string("a scheme is missing");
  }
  url.scheme = Lower(text.substr(0, colon));
  const auto* scheme = std::ranges::find(kSchemes, std::string_view(url.scheme), &Scheme::name);
  if (scheme == kSchemes.end()) return "unknown scheme '" + url.scheme + "'; known are file, s3 and seaweedfs";
  std::string_view rest = text.substr(colon + 3);
  if (rest.find('#') != std::string_view::npos) return "a '#' in a name is written %23";
  std::string_view query;
  if (const size_t mark = rest.find('?'); mark != std::string_view::npos) {
    query = rest.substr(mark + 1);
    rest = rest.substr(0, mark);
  }
  const size_t slash = std::min(rest.find('/'), rest.size());
  url.authority = rest.substr(0, slash);
  if (url.scheme == "file" && slash == rest.size()) {
    return "the directory must be absolute: write file:///DIR, with three slashes";
  }
  if (Why why = ParsePath(rest.substr(slash), url.path)) return why;
  if (Why why = ParseOptions(query, *scheme, url.options)) return why;
  return CheckAuthority(url);
}

// A refused URL may hold a password: what stands before an '@' or in the query stays out of messages.
std::string WithoutSecrets(std::string_view text, bool& had_userinfo) {
  const size_t query = text.find('?');
  const std::string_view tail = query == std::string_view::npos ? "" : "?…";
  text = text.substr(0, query);
  const size_t colon = text.find("://");
  const size_t begin = colon == std::string_view::npos ? 0 : colon + 3;
  const size_t end = std::min(text.find_first_of("/?#", begin), text.size());
  const size_t at = text.substr(begin, end - begin).rfind('@');
  had_userinfo = at != std::string_view::npos;
  if (!had_userinfo) return std::string(text).append(tail);
  return std::string(text.substr(0, begin)) + "…@" + std::string(text.substr(begin + at + 1)).append(tail);
}

}  // namespace

Result<StoreUrl> ParseStoreUrl(std::string_view url) {
  bool had_userinfo = false;
  const std::string shown = WithoutSecrets(url, had_userinfo);
  if (had_userinfo) {
    return Fail(Code::kInvalidArgument,
                "store URL '" + shown +
                    "': credentials do not belong into a URL; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                    "AWS_SHARED_CREDENTIALS_FILE, in the environment of mlcached (see mlcached.service)");
  }
  StoreUrl parsed;
  if (Why why = Parse(url, parsed)) {
    return Fail(Code::kInvalidArgument, "store URL '" + shown + "': " + *why + ". Accepted: " + std::string(kForms));
  }
  return parsed;
}

std::string StoreUrl::Identity() const {
  if (scheme == "file") return "file://";
  if (scheme != "s3") return scheme + "://" + authority;
  // Without an endpoint it is AWS, where bucket names are unique over all regions.
  const auto endpoint = options.find("endpoint");
  std::string identity = "s3://" + authority + "@" + (endpoint == options.end() ? "amazonaws.com" : endpoint->second);
  if (!credential.empty()) identity += "#" + credential;
  if (const auto profile = options.find("profile"); profile != options.end()) identity += "##" + profile->second;
  return identity;
}

std::string StoreUrl::Canonical() const {
  std::string url = scheme + "://" + authority + "/" + PercentEncode(path, "/");
  if (scheme != "file" && path.empty()) url.pop_back();
  char separator = '?';
  for (const auto& [name, value] : options) {
    url += separator + name + "=" + PercentEncode(value, "/:[]");
    separator = '&';
  }
  return url;
}

}  // namespace mlcache::store
