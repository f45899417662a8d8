#include "cached/store/s3_sign.h"

#include <glog/logging.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <map>
#include <span>

#include "common/hash.h"

namespace mlcache::store {
namespace {

constexpr char kEmptySha256[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

using Digest = std::array<unsigned char, 32>;

std::string_view View(const Digest& digest) { return {reinterpret_cast<const char*>(digest.data()), digest.size()}; }
std::string Hex(const Digest& digest) { return ToHex(std::as_bytes(std::span(digest))); }

std::string Sha256Hex(std::string_view text) {
  Digest digest{};
  unsigned int size = digest.size();
  CHECK_EQ(EVP_Digest(text.data(), text.size(), digest.data(), &size, EVP_sha256(), nullptr), 1);
  return Hex(digest);
}

Digest HmacSha256(std::string_view key, std::string_view text) {
  Digest digest{};
  unsigned int size = digest.size();
  CHECK(HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()),
             reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest.data(), &size) != nullptr);
  return digest;
}

std::string FormatTime(Nanos wall_now) {
  const time_t seconds = std::chrono::duration_cast<std::chrono::seconds>(wall_now).count();
  std::tm utc{};
  gmtime_r(&seconds, &utc);
  std::array<char, 32> text{};
  return {text.data(), std::strftime(text.data(), text.size(), "%Y%m%dT%H%M%SZ", &utc)};
}

std::string Lower(std::string_view text) {
  std::string lower(text);
  std::ranges::transform(lower, lower.begin(),
                         [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  return lower;
}

}  // namespace

std::vector<std::string> SignS3(std::string_view method, std::string_view url, const std::vector<std::string>& headers,
                                const SigningKey& key, Nanos wall_now) {
  const size_t host_begin = url.find("://") + 3;
  const size_t host_end = std::min(url.find('/', host_begin), url.size());
  const size_t mark = std::min(url.find('?', host_end), url.size());
  const std::string_view path = url.substr(host_end, mark - host_end);
  const std::string_view query = url.substr(std::min(mark + 1, url.size()));
  const std::string time = FormatTime(wall_now);

  std::vector<std::string> added = {"x-amz-content-sha256: " + std::string(kEmptySha256), "x-amz-date: " + time};
  if (!key.session_token.empty()) added.push_back("x-amz-security-token: " + key.session_token);

  std::map<std::string, std::string> signed_headers = {
      {"host", std::string(url.substr(host_begin, host_end - host_begin))}};
  for (const std::vector<std::string>* lines : {&headers, static_cast<const std::vector<std::string>*>(&added)}) {
    for (const std::string& line : *lines) {
      const size_t colon = line.find(": ");
      CHECK_NE(colon, std::string::npos) << "a header without ': '";
      signed_headers[Lower(std::string_view(line).substr(0, colon))] = line.substr(colon + 2);
    }
  }
  std::string names;
  std::string lines;
  for (const auto& [name, value] : signed_headers) {
    names.append(names.empty() ? "" : ";").append(name);
    lines.append(name).append(":").append(value).append("\n");
  }

  std::string canonical(method);
  canonical.append("\n").append(path.empty() ? "/" : path).append("\n").append(query).append("\n");
  canonical.append(lines).append("\n").append(names).append("\n").append(kEmptySha256);

  const std::string day = time.substr(0, 8);
  const std::string scope = day + "/" + key.region + "/s3/aws4_request";
  const Digest day_key = HmacSha256("AWS4" + key.secret_access_key, day);
  const Digest region_key = HmacSha256(View(day_key), key.region);
  const Digest service_key = HmacSha256(View(region_key), "s3");
  const Digest signing_key = HmacSha256(View(service_key), "aws4_request");
  const std::string to_sign = "AWS4-HMAC-SHA256\n" + time + "\n" + scope + "\n" + Sha256Hex(canonical);
  added.push_back("Authorization: AWS4-HMAC-SHA256 Credential=" + key.access_key_id + "/" + scope +
                  ", SignedHeaders=" + names + ", Signature=" + Hex(HmacSha256(View(signing_key), to_sign)));
  return added;
}

}  // namespace mlcache::store
