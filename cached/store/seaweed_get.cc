#include "cached/store/seaweed_get.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

#include "cached/store/checksum.h"
#include "cached/store/s3_wire.h"
#include "cached/store/seaweed_codec.h"
#include "common/units.h"

namespace mlcache::store {
namespace {

constexpr uint64_t kMaxChecked = 8 * kMiB;
constexpr size_t kPiece = kMiB;  // between two looks at the caller's stop request

// The CRC-32C that a volume server gives as ETag; nothing where it is another kind of tag.
std::optional<uint32_t> ChecksumOf(const HttpHead& head) {
  const std::string etag = UnquoteEtag(head.Header("etag"));
  uint32_t checksum = 0;
  const auto [end, error] = std::from_chars(etag.data(), etag.data() + etag.size(), checksum, 16);
  if (etag.size() != 8 || error != std::errc() || end != etag.data() + etag.size()) return std::nullopt;
  return checksum;
}

Status CheckStatus(const HttpResponse& response, const std::string& shown) {
  if (response.head.status / 100 == 2) return {};
  const std::string text = shown + ": HTTP " + std::to_string(response.head.status);
  switch (response.head.status) {
    case 401:
    case 403:
      return Fail(Code::kUnauthenticated, text +
                                              ": the server wants a token: give mlcached the cluster's security.toml "
                                              "(--seaweedfs_security) or WEED_JWT_SIGNING_READ_KEY");
    case 404:
      return Fail(Code::kNotFound, text + ": no such chunk");
    case 416:
      return Fail(Code::kDataLoss, text + ": the chunk is shorter than its file's metadata says");
    default:
      return Fail(Code::kUnavailable, text);
  }
}

HttpRequest RequestOf(const ChunkGet& get) {
  HttpRequest request{.url = get.url};
  // The server unpacks what it has packed.
  request.headers.emplace_back("Accept-Encoding: identity");
  if (!get.token.empty()) request.headers.push_back("Authorization: Bearer " + get.token);
  return request;
}

Status CheckEncoding(const HttpHead& head, const std::string& shown) {
  const std::string& encoding = head.Header("content-encoding");
  if (encoding.empty() || encoding == "identity") return {};
  return Fail(Code::kDataLoss, shown + ": the reply is encoded as " + encoding + ", which was not asked for");
}

// Which bytes of a chunk are wanted, and whether they are asked for by a Range.
struct Wanted {
  uint64_t offset = 0;
  uint64_t length = 0;
  bool ranged = false;
};

// A file that was shortened keeps its last chunk's blob whole and says no more of it than its own length: the blob may
// be longer than the chunk.
bool IsLonger(const HttpHead& head, const ChunkGet& get) {
  return head.status == 200 && ParseNumber(head.Header("content-length")).value_or(0) > get.chunk.size;
}

Status CheckRangeHead(const HttpHead& head, const ChunkGet& get, const Wanted& wanted) {
  MLCACHE_RETURN_IF_ERROR(CheckEncoding(head, get.shown));
  const std::string& told = head.Header("content-length");
  if (!told.empty() && ParseNumber(told) != wanted.length) {
    return Fail(Code::kDataLoss,
                get.shown + ": asked for " + std::to_string(wanted.length) + " bytes, the reply has " + told);
  }
  if (head.status == 200 && !wanted.ranged) return {};
  const uint64_t last = wanted.offset + wanted.length - 1;
  const std::optional<ContentRange> range = ParseContentRange(head.Header("content-range"));
  const bool right = head.status == 206 && wanted.ranged && range && range->first == wanted.offset &&
                     range->last == last && range->total >= get.chunk.size;
  if (right) return {};
  return Fail(Code::kDataLoss, get.shown + ": asked for bytes " + std::to_string(wanted.offset) + "-" +
                                   std::to_string(last) + "/" + std::to_string(get.chunk.size) +
                                   ", the reply is HTTP " + std::to_string(head.status) + " with '" +
                                   head.Header("content-range") + "'");
}

// Whether the server keeps the chunk packed although its file does not say so: its checksum is then of other bytes.
bool StoredCompressed(HttpClient& http, const ChunkGet& get, const CallContext& context) {
  HttpRequest request = RequestOf(get);
  request.headers.front() = "Accept-Encoding: gzip";
  request.headers.emplace_back("Range: bytes=0-0");
  bool compressed = false;
  request.accept = [&](const HttpHead& head) -> Status {
    compressed = head.Header("content-encoding") == "gzip";
    return Fail(Code::kAborted, "the head is all that was wanted");
  };
  static_cast<void>(http.Do(request, context));
  return compressed;
}

// Sets `longer`, and fails, where the blob turns out to be longer than the chunk that was asked for whole.
Status GetOnce(HttpClient& http, const ChunkGet& get, const Wanted& wanted, bool& longer, std::string& buffer,
               const ByteSink& sink, const CallContext& context) {
  const uint64_t length = wanted.length;
  HttpRequest request = RequestOf(get);
  if (wanted.ranged) {
    request.headers.push_back("Range: bytes=" + std::to_string(wanted.offset) + "-" +
                              std::to_string(wanted.offset + length - 1));
  }
  std::optional<uint32_t> checksum;
  uint32_t computed = 0;
  uint64_t got = 0;
  request.accept = [&](const HttpHead& head) -> Status {
    longer = !wanted.ranged && IsLonger(head, get);
    MLCACHE_RETURN_IF_ERROR(CheckRangeHead(head, get, wanted));
    if (wanted.ranged || length > kMaxChecked || get.chunk.compressed) return {};
    checksum = ChecksumOf(head);
    if (checksum) buffer.reserve(length);
    if (checksum) return {};
    return Fail(Code::kDataLoss, get.shown + ": the reply has no checksum (an ETag of 8 hexadecimal digits)");
  };
  request.sink = [&](std::span<const std::byte> bytes) -> Status {
    if (bytes.size() > length - got) {
      return Fail(Code::kDataLoss, get.shown + ": the reply is longer than " + std::to_string(length) + " bytes");
    }
    got += bytes.size();
    if (!checksum) return sink(bytes);
    computed = Crc32c(bytes, computed);
    buffer.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return {};
  };
  buffer.clear();
  MLCACHE_ASSIGN_OR_RETURN(const HttpResponse response, http.Do(request, context));
  MLCACHE_RETURN_IF_ERROR(CheckStatus(response, get.shown));
  if (got != length) {
    return Fail(Code::kDataLoss,
                get.shown + ": asked for " + std::to_string(length) + " bytes, got " + std::to_string(got));
  }
  if (!checksum) return {};
  if (computed != *checksum && !StoredCompressed(http, get, context)) {
    return Fail(Code::kDataLoss, get.shown + ": the bytes do not match their checksum");
  }
  std::span<const std::byte> left = std::as_bytes(std::span(buffer));
  while (!left.empty()) {
    if (context.stop.stop_requested()) return Fail(Code::kCancelled, get.shown + ": called off");
    const std::span<const std::byte> piece = left.first(std::min<size_t>(left.size(), kPiece));
    MLCACHE_RETURN_IF_ERROR(sink(piece));
    left = left.subspan(piece.size());
  }
  return {};
}

}  // namespace

Status GetChunkRange(HttpClient& http, const ChunkGet& get, uint64_t offset, uint64_t length, std::string& buffer,
                     const ByteSink& sink, const CallContext& context) {
  const bool whole = offset == 0 && length == get.chunk.size;
  bool longer = false;
  const Status status = GetOnce(http, get, {offset, length, !whole}, longer, buffer, sink, context);
  if (!longer) return status;
  // The blob's checksum is not that of its beginning.
  return GetOnce(http, get, {offset, length, true}, longer, buffer, sink, context);
}

Result<std::string> GetBlob(HttpClient& http, const ChunkGet& get, uint64_t max_bytes, const CallContext& context) {
  HttpRequest request = RequestOf(get);
  request.max_body_bytes = max_bytes;
  request.accept = [&](const HttpHead& head) -> Status {
    if (head.status == 200) return CheckEncoding(head, get.shown);
    return Fail(Code::kDataLoss,
                get.shown + ": asked for a whole chunk, the reply is HTTP " + std::to_string(head.status));
  };
  MLCACHE_ASSIGN_OR_RETURN(HttpResponse response, http.Do(request, context));
  MLCACHE_RETURN_IF_ERROR(CheckStatus(response, get.shown));
  // An encrypted blob has its own, stronger check; a manifest is only as good as this one.
  const std::optional<uint32_t> checksum = ChecksumOf(response.head);
  const bool plain = !get.chunk.compressed && checksum.has_value();
  if (plain && Crc32c(std::as_bytes(std::span(response.body))) != *checksum && !StoredCompressed(http, get, context)) {
    return Fail(Code::kDataLoss, get.shown + ": the bytes do not match their checksum");
  }
  return std::move(response.body);
}

}  // namespace mlcache::store
