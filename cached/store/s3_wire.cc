#include "cached/store/s3_wire.h"

#include <curl/curl.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <ctime>
#include <pugixml.hpp>
#include <utility>

#include "cached/store/percent.h"

namespace mlcache::store {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

Error Unsound(std::string_view why) { return {Code::kDataLoss, "unsound ListObjectsV2 reply: " + std::string(why)}; }

struct Explanation {
  std::string_view code;
  Code maps_to;
  std::string_view remedy;
};

constexpr std::array<Explanation, 14> kExplanations = {{
    {"InvalidAccessKeyId", Code::kUnauthenticated, "the server does not know AWS_ACCESS_KEY_ID"},
    {"SignatureDoesNotMatch", Code::kUnauthenticated, "AWS_SECRET_ACCESS_KEY does not belong to the access key"},
    {"ExpiredToken", Code::kUnauthenticated, "the session token has expired: renew the credentials"},
    {"InvalidToken", Code::kUnauthenticated, "AWS_SESSION_TOKEN is wrong or belongs to other keys"},
    {"TokenRefreshRequired", Code::kUnauthenticated, "the session token has expired: renew the credentials"},
    {"RequestTimeTooSkewed", Code::kUnauthenticated, "this host's clock is wrong: synchronise it (timedatectl)"},
    {"AccessDenied", Code::kPermissionDenied,
     "the credentials need s3:GetObject and s3:ListBucket here (or give ?anonymous=1 for a public bucket)"},
    {"AllAccessDisabled", Code::kPermissionDenied, "the bucket is disabled"},
    {"AccountProblem", Code::kPermissionDenied, "the account has a problem; ask the store's operator"},
    {"InvalidObjectState", Code::kPermissionDenied, "the object is archived: restore it first"},
    {"NoSuchBucket", Code::kNotFound, "check the bucket's name and ?endpoint="},
    {"InvalidBucketName", Code::kInvalidArgument, "check the bucket's name"},
    {"SlowDown", Code::kUnavailable, "the server asks for fewer requests"},
    {"RequestTimeout", Code::kUnavailable, "the server waited too long for the request"},
}};

Code CodeOfStatus(int status) {
  switch (status) {
    case 401:
      return Code::kUnauthenticated;
    case 403:
      return Code::kPermissionDenied;
    case 404:
    case 410:
      return Code::kNotFound;
    case 408:
    case 429:
      return Code::kUnavailable;
    case 412:
    case 416:
      return Code::kFailedPrecondition;
    case 501:
      return Code::kUnimplemented;
    default:
      return status >= 500 ? Code::kUnavailable : Code::kInvalidArgument;
  }
}

}  // namespace

Result<S3Listing> ParseS3Listing(std::string_view xml) {
  pugi::xml_document document;
  const auto flags = pugi::parse_escapes | pugi::parse_cdata | pugi::parse_ws_pcdata_single;
  const pugi::xml_parse_result parsed = document.load_buffer(xml.data(), xml.size(), flags);
  if (!parsed) return std::unexpected(Unsound(parsed.description()));
  const pugi::xml_node root = document.child("ListBucketResult");
  if (!root) return std::unexpected(Unsound("not a ListBucketResult"));
  const bool encoded = std::string_view(root.child_value("EncodingType")) == "url";
  const auto decode = [&](const char* text) {
    return encoded ? PercentDecode(text, true) : std::optional<std::string>(text);
  };
  S3Listing listing;
  for (const pugi::xml_node node : root.children("Contents")) {
    const std::optional<std::string> key = decode(node.child_value("Key"));
    const std::optional<uint64_t> size = ParseNumber(node.child_value("Size"));
    std::string etag = UnquoteEtag(node.child_value("ETag"));
    if (!key || key->empty() || !size || etag.empty()) {
      return std::unexpected(Unsound("an object without a key, size or ETag"));
    }
    listing.objects.push_back({.key = *key,
                               .etag = std::move(etag),
                               .size = *size,
                               .mtime_ns = ParseIsoDate(node.child_value("LastModified"))});
  }
  for (const pugi::xml_node node : root.children("CommonPrefixes")) {
    std::optional<std::string> prefix = decode(node.child_value("Prefix"));
    if (!prefix || !prefix->ends_with('/')) return std::unexpected(Unsound("a common prefix without its delimiter"));
    listing.prefixes.push_back(*std::move(prefix));
  }
  if (std::string_view(root.child_value("IsTruncated")) == "true") {
    listing.next_token = root.child_value("NextContinuationToken");
    if (listing.next_token.empty()) return std::unexpected(Unsound("truncated, but without a continuation token"));
  }
  return listing;
}

S3Refusal ParseS3Refusal(const HttpResponse& response) {
  pugi::xml_document document;
  document.load_buffer(response.body.data(), response.body.size());
  const pugi::xml_node root = document.child("Error");
  S3Refusal refusal{.code = root.child_value("Code"),
                    .message = root.child_value("Message"),
                    .region = response.head.Header("x-amz-bucket-region"),
                    .endpoint = root.child_value("Endpoint")};
  if (refusal.region.empty()) refusal.region = root.child_value("Region");
  return refusal;
}

Error S3Error(const HttpResponse& response, std::string_view what, std::string_view bucket, std::string_view endpoint) {
  const auto [s3_code, text, region, other_endpoint] = ParseS3Refusal(response);
  const int status = response.head.status;
  std::string message = std::string(what) + ": " + std::string(endpoint) + " answers " + std::to_string(status);
  if (!s3_code.empty()) message += " " + s3_code;
  if (!text.empty()) message.append(" (").append(text) += ')';

  const bool misdirected = s3_code == "AuthorizationHeaderMalformed" || s3_code == "IllegalLocationConstraintException";
  if (status / 100 == 3 || misdirected) {
    message += ": bucket " + std::string(bucket) + " lies elsewhere; ";
    if (!region.empty()) {
      message += "its region is " + region + ", give ?region=" + region;
    } else if (!other_endpoint.empty()) {
      message += "the server points to " + other_endpoint + ", give that ?endpoint=";
    } else if (const std::string& location = response.head.Header("location"); !location.empty()) {
      message += "the server points to " + location.substr(0, location.find('?')) + ", give that ?endpoint=";
    } else {
      message += "give its ?region= and ?endpoint=";
    }
    return {Code::kInvalidArgument, message};
  }
  const auto* known = std::ranges::find(kExplanations, std::string_view(s3_code), &Explanation::code);
  if (known != kExplanations.end()) {
    const std::string place = known->code == "NoSuchBucket" ? ": there is no bucket " + std::string(bucket) : "";
    return {known->maps_to, message + place + ": " + std::string(known->remedy)};
  }
  // HEAD has no body to say which.
  if (status == 401 || status == 403) {
    message +=
        ": the credentials are wrong, or lack s3:GetObject and s3:ListBucket (without the latter S3 answers 403 "
        "for what does not exist)";
  }
  return {CodeOfStatus(status), message};
}

std::string UnquoteEtag(std::string_view etag) {
  if (etag.starts_with("W/")) etag.remove_prefix(2);
  if (etag.size() >= 2 && etag.starts_with('"') && etag.ends_with('"')) etag = etag.substr(1, etag.size() - 2);
  return std::string(etag);
}

std::optional<uint64_t> ParseNumber(std::string_view text) {
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return {};
  return number;
}

std::optional<ContentRange> ParseContentRange(std::string_view header) {
  constexpr std::string_view kUnit = "bytes ";
  if (!header.starts_with(kUnit)) return {};
  header.remove_prefix(kUnit.size());
  const size_t dash = header.find('-');
  const size_t slash = header.find('/');
  if (dash == std::string_view::npos || slash == std::string_view::npos || dash > slash) return {};
  const auto first = ParseNumber(header.substr(0, dash));
  const auto last = ParseNumber(header.substr(dash + 1, slash - dash - 1));
  const auto total = ParseNumber(header.substr(slash + 1));
  if (!first || !last || !total) return {};
  return ContentRange{.first = *first, .last = *last, .total = *total};
}

int64_t ParseIsoDate(const char* text) {
  std::tm time{};
  if (strptime(text, "%Y-%m-%dT%H:%M:%S", &time) == nullptr) return 0;
  return timegm(&time) * kSecond;
}

int64_t ParseHttpDate(const std::string& header) {
  const time_t time = curl_getdate(header.c_str(), nullptr);
  return time < 0 ? 0 : time * kSecond;
}

}  // namespace mlcache::store
