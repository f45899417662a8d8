#include "cached/store/s3_store.h"

#include <glog/logging.h>

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <unordered_set>
#include <utility>
#include <vector>

#include "cached/store/call.h"
#include "cached/store/percent.h"
#include "cached/store/s3_sign.h"
#include "cached/store/s3_wire.h"

namespace mlcache::store {
namespace {

constexpr int kPageKeys = 1000;
constexpr size_t kMaxEtag = 255;

std::string Option(const StoreUrl& url, const std::string& name) {
  const auto found = url.options.find(name);
  return found == url.options.end() ? "" : found->second;
}

std::string Region(const StoreUrl& url) {
  if (std::string region = Option(url, "region"); !region.empty()) return region;
  for (const char* name : {"AWS_REGION", "AWS_DEFAULT_REGION"}) {
    if (const char* region = std::getenv(name); region != nullptr && *region != '\0') return region;
  }
  return "us-east-1";
}

std::string Endpoint(const StoreUrl& url) {
  const std::string endpoint = Option(url, "endpoint");
  return endpoint.empty() ? "https://s3." + Region(url) + ".amazonaws.com" : endpoint;
}

// AWS wants the bucket in the host name; self-hosted servers are mostly set up without the DNS for it. A dot in the
// bucket's name does not match a wildcard certificate.
std::string Base(const StoreUrl& url) {
  const std::string addressing = Option(url, "addressing");
  const bool by_default = Option(url, "endpoint").empty() && url.authority.find('.') == std::string::npos;
  const std::string endpoint = Endpoint(url);
  if (addressing == "host" || (addressing.empty() && by_default)) {
    const size_t host = endpoint.find("://") + 3;
    return endpoint.substr(0, host) + url.authority + "." + endpoint.substr(host) + "/";
  }
  return endpoint + "/" + url.authority + "/";
}

bool IsFileName(std::string_view name) {
  return !name.empty() && name.size() <= NAME_MAX && name != "." && name != ".." &&
         name.find('/') == std::string_view::npos && name.find('\0') == std::string_view::npos;
}

ObjectInfo FileInfo(std::string etag, uint64_t size, int64_t mtime_ns) {
  ObjectInfo info;
  info.size = size;
  info.mtime_ns = info.ctime_ns = mtime_ns;
  info.version = std::move(etag);
  return info;
}

ObjectInfo DirectoryInfo() {
  ObjectInfo info;
  info.type = FileType::kDirectory;
  info.mode = 0755;
  return info;
}

// A page token is "f1/f2//CONTINUATION": before it those files of earlier pages that a common prefix of the same name
// may still follow (nothing but a prefix of the last name seen can be one), so that no name is listed twice.
struct PageToken {
  std::unordered_set<std::string> files;
  std::string continuation;

  static PageToken Parse(std::string_view text) {
    PageToken token;
    while (!text.empty() && !text.starts_with('/')) {
      const size_t end = std::min(text.find('/'), text.size());
      token.files.emplace(text.substr(0, end));
      text.remove_prefix(std::min(end + 1, text.size()));
    }
    if (!text.empty()) token.continuation = text.substr(1);
    return token;
  }

  std::string Text() const {
    std::string text;
    for (const std::string& file : files) text += file + "/";
    return text + "/" + continuation;
  }
};

// What is wrong with the head of a reply to a read; checked before any byte of it is passed on.
Status CheckReadHead(const HttpHead& head, const ObjectRef& ref, uint64_t offset, uint64_t length,
                     const std::string& shown) {
  const std::string etag = UnquoteEtag(head.Header("etag"));
  if (etag.empty()) return Fail(Code::kDataLoss, shown + ": the reply has no ETag");
  if (etag != ref.version) {
    return Fail(Code::kFailedPrecondition, shown + ": the object changed since it was opened; open it again");
  }
  const std::string& content_length = head.Header("content-length");
  if (!content_length.empty() && ParseNumber(content_length) != length) {
    return Fail(Code::kDataLoss,
                shown + ": asked for " + std::to_string(length) + " bytes, the reply has " + content_length);
  }
  if (head.status == 206) {
    const std::optional<ContentRange> range = ParseContentRange(head.Header("content-range"));
    if (!range || range->first != offset || range->last != offset + length - 1 || range->total != ref.size) {
      return Fail(Code::kDataLoss, shown + ": asked for bytes " + std::to_string(offset) + "-" +
                                       std::to_string(offset + length - 1) + "/" + std::to_string(ref.size) +
                                       ", the reply has '" + head.Header("content-range") + "'");
    }
    return {};
  }
  // A server that ignores Range sends the whole object.
  if (head.status == 200 && offset == 0 && length == ref.size) return {};
  return Fail(Code::kDataLoss, shown + ": asked for a range, got " + std::to_string(head.status) +
                                   " with the whole object; the server must support Range");
}

}  // namespace

S3Store::S3Store(const StoreUrl& url, const HttpOptions& options, const Clock& clock)
    : bucket_(url.authority),
      prefix_(url.path.empty() ? "" : url.path + "/"),
      endpoint_(Endpoint(url)),
      base_(Base(url)),
      anonymous_(Option(url, "anonymous") == "1"),
      clock_(clock),
      credentials_(Option(url, "profile"), Region(url), clock),
      http_(options, clock) {}

std::string S3Store::Key(const std::string& path) const {
  if (path.empty()) return prefix_.substr(0, prefix_.size() - (prefix_.empty() ? 0 : 1));
  return prefix_ + path;
}

std::string S3Store::Shown(const std::string& path) const { return "s3://" + bucket_ + "/" + Key(path); }

Error S3Store::Explain(const HttpResponse& response, const std::string& path) const {
  return S3Error(response, Shown(path), bucket_, endpoint_);
}

Result<HttpResponse> S3Store::Send(HttpRequest request, const CallContext& context) {
  if (!anonymous_) {
    MLCACHE_ASSIGN_OR_RETURN(const SigningKey key, credentials_.Get());
    const std::string_view method = request.method == HttpRequest::Method::kHead ? "HEAD" : "GET";
    for (std::string& header : SignS3(method, request.url, request.headers, key, clock_.WallNow())) {
      request.headers.push_back(std::move(header));
    }
  }
  return http_.Do(request, context);
}

Result<HttpResponse> S3Store::ListObjects(const std::string& prefix, const std::string& token, bool delimited,
                                          int max_keys, const CallContext& context) {
  // In the order of the names, as signing wants it.
  std::string url = base_ + "?";
  if (!token.empty()) url += "continuation-token=" + PercentEncode(token, "") + "&";
  if (delimited) url += "delimiter=%2F&";
  url += "encoding-type=url&list-type=2&max-keys=" + std::to_string(max_keys) + "&prefix=" + PercentEncode(prefix, "");
  return Send({.url = std::move(url)}, context);
}

Result<ObjectInfo> S3Store::Stat(const std::string& path, const CallContext& context) {
  MLCACHE_RETURN_IF_ERROR(CheckPath(path));
  if (path.empty()) return StatDirectory(path, context);
  MLCACHE_ASSIGN_OR_RETURN(
      const HttpResponse response,
      Send({.method = HttpRequest::Method::kHead, .url = base_ + PercentEncode(Key(path), "/")}, context));
  if (response.head.status == 404) return StatDirectory(path, context);
  if (response.head.status != 200) return std::unexpected(Explain(response, path));
  const std::optional<uint64_t> size = ParseNumber(response.head.Header("content-length"));
  std::string etag = UnquoteEtag(response.head.Header("etag"));
  if (!size || etag.empty() || etag.size() > kMaxEtag) {
    return Fail(Code::kDataLoss, Shown(path) + ": the server tells no length or no usable ETag");
  }
  return FileInfo(std::move(etag), *size, ParseHttpDate(response.head.Header("last-modified")));
}

Result<ObjectInfo> S3Store::StatDirectory(const std::string& path, const CallContext& context) {
  const std::string prefix = path.empty() ? prefix_ : prefix_ + path + "/";
  MLCACHE_ASSIGN_OR_RETURN(const HttpResponse response, ListObjects(prefix, "", false, 1, context));
  if (response.head.status != 200) return std::unexpected(Explain(response, path));
  Result<S3Listing> listing = ParseS3Listing(response.body);
  if (!listing) return std::unexpected(listing.error().WithContext(Shown(path)));
  // The root of a whole bucket is there even if nothing else is.
  if (listing->objects.empty() && !prefix.empty()) {
    return Fail(Code::kNotFound, Shown(path) + ": no such object, and none below it");
  }
  return DirectoryInfo();
}

Result<ListPage> S3Store::List(const std::string& path, const std::string& token, const CallContext& context) {
  MLCACHE_RETURN_IF_ERROR(CheckPath(path));
  const std::string prefix = path.empty() ? prefix_ : prefix_ + path + "/";
  PageToken at = PageToken::Parse(token);
  if (!token.empty() && at.continuation.empty()) {
    return Fail(Code::kInvalidArgument, Shown(path) + ": not a page token of this store");
  }
  MLCACHE_ASSIGN_OR_RETURN(const HttpResponse response, ListObjects(prefix, at.continuation, true, kPageKeys, context));
  if (response.head.status != 200) return std::unexpected(Explain(response, path));
  Result<S3Listing> listing = ParseS3Listing(response.body);
  if (!listing) return std::unexpected(listing.error().WithContext(Shown(path)));
  if (token.empty() && !prefix.empty() && listing->objects.empty() && listing->prefixes.empty() &&
      listing->next_token.empty()) {
    return Fail(Code::kNotFound, Shown(path) + ": no such directory");
  }

  ListPage page;
  size_t skipped = 0;
  std::string last;
  // The name of `key` below `prefix`; empty for the directory's own marker and for what no path can name.
  const auto name_of = [&](std::string_view key) -> std::string {
    if (key == prefix) return "";
    std::string name(key.starts_with(prefix) ? key.substr(prefix.size()) : "");
    last = std::max(last, name);
    if (IsFileName(name)) return name;
    LOG_IF(WARNING, ++skipped == 1) << Shown(path) << ": leaving out keys that cannot be file names, such as '"
                                    << PercentEncode(key, "/ ") << "'";
    return "";
  };
  for (S3Listing::Object& object : listing->objects) {
    std::string name = name_of(object.key);
    if (name.empty() || object.etag.size() > kMaxEtag) continue;
    at.files.insert(name);
    page.entries.push_back(
        {.name = std::move(name), .info = FileInfo(std::move(object.etag), object.size, object.mtime_ns)});
  }
  for (const std::string& common : listing->prefixes) {
    std::string name = name_of(std::string_view(common).substr(0, common.size() - 1));
    if (!name.empty() && !at.files.contains(name))
      page.entries.push_back({.name = std::move(name), .info = DirectoryInfo()});
  }
  std::ranges::sort(page.entries, {}, &ListEntry::name);
  if (!listing->next_token.empty()) {
    std::erase_if(at.files, [&](const std::string& file) { return !last.starts_with(file); });
    at.continuation = listing->next_token;
    page.next = at.Text();
  }
  return page;
}

Status S3Store::ReadRange(const ObjectRef& ref, uint64_t offset, uint64_t length, const ByteSink& sink,
                          const CallContext& context) {
  MLCACHE_RETURN_IF_ERROR(CheckPath(ref.path));
  const std::string shown = Shown(ref.path);
  if (offset > ref.size || length > ref.size - offset) return Fail(Code::kOutOfRange, shown + ": range past the end");
  if (length == 0) return CheckCall(context, clock_, shown);
  HttpRequest request{.url = base_ + PercentEncode(Key(ref.path), "/")};
  request.headers = {"Range: bytes=" + std::to_string(offset) + "-" + std::to_string(offset + length - 1),
                     "If-Match: \"" + ref.version + "\""};
  uint64_t done = 0;
  request.accept = [&](const HttpHead& head) { return CheckReadHead(head, ref, offset, length, shown); };
  request.sink = [&](std::span<const std::byte> bytes) -> Status {
    if (bytes.size() > length - done) {
      return Fail(Code::kDataLoss,
                  shown + ": the reply is longer than the " + std::to_string(length) + " bytes asked for");
    }
    done += bytes.size();
    return sink(bytes);
  };
  MLCACHE_ASSIGN_OR_RETURN(const HttpResponse response, Send(std::move(request), context));
  if (response.head.status / 100 != 2) {
    const Error error = Explain(response, ref.path);
    const bool bucket_gone = response.body.find("NoSuchBucket") != std::string::npos;
    if (error.code() == Code::kNotFound && !bucket_gone) return Fail(Code::kFailedPrecondition, error.message());
    return std::unexpected(error);
  }
  if (done != length) {
    return Fail(Code::kDataLoss,
                shown + ": asked for " + std::to_string(length) + " bytes, got " + std::to_string(done));
  }
  return {};
}

Result<StoreCapacity> S3Store::Capacity(const CallContext& context) {
  MLCACHE_RETURN_IF_ERROR(CheckCall(context, clock_, Shown("")));
  return StoreCapacity{};
}

Status S3Store::Watch(const std::string& path, const ChangeSink& /*sink*/, const CallContext& /*context*/) {
  return Fail(Code::kUnimplemented, Shown(path) + ": s3:// stores have no change feed");
}

}  // namespace mlcache::store
