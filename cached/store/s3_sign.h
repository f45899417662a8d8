// AWS Signature Version 4 for S3 requests without a body
// (https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html). Pure.
//
// Ours rather than CURLOPT_AWS_SIGV4: that of curl 7.88 leaves out x-amz-content-sha256, which S3 demands.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/clock.h"

namespace mlcache::store {

struct SigningKey {
  std::string access_key_id;
  std::string secret_access_key;
  std::string session_token;  // may be empty
  std::string region;
};

// The headers ("name: value") to send beside `headers`, all of which are signed. `url` is as it goes over the wire:
// encoded as PercentEncode does it, without default port, its query in the order of the encoded names, each with '='.
// `wall_now` is since 1970.
std::vector<std::string> SignS3(std::string_view method, std::string_view url, const std::vector<std::string>& headers,
                                const SigningKey& key, Nanos wall_now);

}  // namespace mlcache::store
