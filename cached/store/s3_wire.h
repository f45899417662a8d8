// What S3 says in XML and in status codes, turned into values. Pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cached/store/http_client.h"
#include "common/status.h"

namespace mlcache::store {

// One page of ListObjectsV2; keys and prefixes are decoded.
struct S3Listing {
  struct Object {
    std::string key;
    std::string etag;  // without quotes
    uint64_t size = 0;
    int64_t mtime_ns = 0;  // whole seconds, as HEAD gives it
  };
  std::vector<Object> objects;
  std::vector<std::string> prefixes;  // each ends with the delimiter
  std::string next_token;             // empty at the end
};

// kDataLoss for anything that is not a whole, sound reply.
Result<S3Listing> ParseS3Listing(std::string_view xml);

// What the reply to a refused request says of why.
struct S3Refusal {
  std::string code;  // "SlowDown"; empty where there is no body, as after HEAD
  std::string message;
  std::string region;    // where the bucket is, if it says
  std::string endpoint;  // host name at which to ask, if it says
};
S3Refusal ParseS3Refusal(const HttpResponse& response);

// The error that a reply other than 2xx stands for. `what` names the thing asked for ("s3://bucket/key"), `bucket` and
// `endpoint` say where. Codes: kNotFound, kPermissionDenied, kUnauthenticated, kFailedPrecondition (412, 416),
// kInvalidArgument (wrong region, malformed request), kUnavailable (429, 5xx), kUnimplemented.
Error S3Error(const HttpResponse& response, std::string_view what, std::string_view bucket, std::string_view endpoint);

// `"abc"` and `W/"abc"` become `abc`.
std::string UnquoteEtag(std::string_view etag);

// "bytes 0-99/1000".
struct ContentRange {
  uint64_t first = 0;
  uint64_t last = 0;
  uint64_t total = 0;
};
std::optional<ContentRange> ParseContentRange(std::string_view header);

// A whole string of decimal digits.
std::optional<uint64_t> ParseNumber(std::string_view text);

// Of "2026-11-23T16:01:22.123Z", to whole seconds, since HEAD gives no more and both must agree; 0 if it is not a date.
int64_t ParseIsoDate(const char* text);

// Of "Wed, 21 Oct 2015 07:28:00 GMT"; 0 if it is not a date.
int64_t ParseHttpDate(const std::string& header);

}  // namespace mlcache::store
