#include "cached/store/s3_store.h"

#include <glog/logging.h>

#include <algorithm>
#include <climits>
#include <unordered_set>
#include <utility>
#include <vector>

#include "cached/store/call.h"
#include "cached/store/checksum.h"
#include "cached/store/percent.h"
#include "cached/store/s3_profile.h"
#include "cached/store/s3_sign.h"
#include "cached/store/s3_wire.h"

namespace mlcache::store {
namespace {

constexpr int kPageKeys = 1000;
constexpr size_t kMaxEtag = 255;
constexpr uint64_t kMostHeld = 16 << 20;   // bytes held back until their checksum was checked
constexpr size_t kPieceBytes = 256 << 10;  // of what was held back, between two looks at stop and deadline
constexpr int kMostSends = 4;              // a region, an addressing and a clock may be learned

std::string Option(const StoreUrl& url, const std::string& name) {
  const auto found = url.options.find(name);
  return found == url.options.end() ? "" : found->second;
}

// Where to begin; the server knows better (S3Locator), unless the URL asks for a region.
std::string Region(const StoreUrl& url) {
  if (std::string region = Option(url, "region"); !region.empty()) return region;
  for (const char* name : {"AWS_REGION", "AWS_DEFAULT_REGION"}) {
    if (std::string region = Environment(name); !region.empty()) return region;
  }
  std::string profile = Option(url, "profile");
  if (profile.empty()) profile = Environment("AWS_PROFILE");
  const Result<Profile> found = ReadProfile(FindProfileFiles(), profile.empty() ? "default" : profile);
  return found && !found->region.empty() ? found->region : "us-east-1";
}

HttpOptions WithCaBundle(HttpOptions http) {
  if (http.ca_bundle.empty()) http.ca_bundle = Environment("AWS_CA_BUNDLE");
  return http;
}

std::shared_ptr<CredentialsProvider> Credentials(const StoreUrl& url, const S3Options& options, const Clock& clock) {
  if (Option(url, "anonymous") == "1") return nullptr;
  if (options.credentials != nullptr) return options.credentials;
  const CredentialOptions wanted{.profile = Option(url, "profile"),
                                 .region = Region(url),
                                 .instance_metadata = options.instance_metadata,
                                 .http = WithCaBundle(options.http)};
  return MakeDefaultCredentials(wanted, clock);
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

S3Store::S3Store(const StoreUrl& url, const S3Options& options, const Clock& clock)
    : bucket_(url.authority),
      prefix_(url.path.empty() ? "" : url.path + "/"),
      anonymous_(Option(url, "anonymous") == "1"),
      checksums_(Option(url, "checksums") != "0"),
      clock_(clock),
      locator_(url, Region(url)),
      credentials_(Credentials(url, options, clock)),
      http_(WithCaBundle(options.http), clock) {}

std::string S3Store::Key(const std::string& path) const {
  if (path.empty()) return prefix_.substr(0, prefix_.size() - (prefix_.empty() ? 0 : 1));
  return prefix_ + path;
}

std::string S3Store::Shown(const std::string& path) const { return "s3://" + bucket_ + "/" + Key(path); }

Error S3Store::Explain(const HttpResponse& response, const std::string& path) const {
  return S3Error(response, Shown(path), bucket_, locator_.target()->endpoint);
}

Status S3Store::Sign(HttpRequest& request, const std::string& region, Nanos wall_now, const CallContext& context) {
  if (anonymous_) return {};
  MLCACHE_ASSIGN_OR_RETURN(S3Keys keys, credentials_->Get(context));
  const SigningKey key{.access_key_id = std::move(keys.access_key_id),
                       .secret_access_key = std::move(keys.secret_access_key),
                       .session_token = std::move(keys.session_token),
                       .region = region};
  const std::string_view method = request.method == HttpRequest::Method::kHead ? "HEAD" : "GET";
  for (std::string& header : SignS3(method, request.url, request.headers, key, wall_now)) {
    request.headers.push_back(std::move(header));
  }
  return {};
}

Result<HttpResponse> S3Store::Send(const std::string& suffix, HttpRequest request, const CallContext& context) {
  const std::vector<std::string> unsigned_headers = request.headers;
  std::string redirect;
  for (int sends = 1;; ++sends) {
    const std::shared_ptr<const S3Target> target = locator_.target();
    request.url = redirect.empty() ? target->base + suffix : redirect;
    request.headers = unsigned_headers;
    const Nanos wall_now = clock_.WallNow();
    MLCACHE_RETURN_IF_ERROR(Sign(request, target->region, wall_now + locator_.skew(), context));
    Result<HttpResponse> response = http_.Do(request, context);
    if (!response || response->head.status / 100 == 2 || sends == kMostSends) return response;
    redirect = S3Locator::Redirect(*response, request.url);
    if (redirect.empty() && !locator_.Learn(*response, *target, wall_now)) return response;
  }
}

Result<HttpResponse> S3Store::ListObjects(const std::string& prefix, const std::string& token, bool delimited,
                                          int max_keys, const CallContext& context) {
  // In the order of the names, as signing wants it.
  std::string url = "?";
  if (!token.empty()) url += "continuation-token=" + PercentEncode(token, "") + "&";
  if (delimited) url += "delimiter=%2F&";
  url += "encoding-type=url&list-type=2&max-keys=" + std::to_string(max_keys) + "&prefix=" + PercentEncode(prefix, "");
  return Send(url, {}, context);
}

Result<ObjectInfo> S3Store::Stat(const std::string& path, const CallContext& context) {
  MLCACHE_RETURN_IF_ERROR(CheckPath(path));
  if (path.empty()) return StatDirectory(path, context);
  MLCACHE_ASSIGN_OR_RETURN(const HttpResponse response,
                           Send(PercentEncode(Key(path), "/"), {.method = HttpRequest::Method::kHead}, context));
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
  HttpRequest request;
  request.headers = {"Range: bytes=" + std::to_string(offset) + "-" + std::to_string(offset + length - 1),
                     "If-Match: \"" + ref.version + "\""};
  // S3 sends checksums of whole objects. Bytes that readers may take at once cannot be taken back, so they wait for it.
  const bool may_check = checksums_ && offset == 0 && length == ref.size && length <= kMostHeld;
  if (may_check) request.headers.emplace_back("x-amz-checksum-mode: ENABLED");
  std::optional<ExpectedChecksum> checksum;
  std::vector<std::byte> held;
  uint64_t done = 0;
  request.accept = [&](const HttpHead& head) {
    if (may_check) checksum = ChecksumOf(head.headers);
    if (checksum) held.reserve(length);
    return CheckReadHead(head, ref, offset, length, shown);
  };
  request.sink = [&](std::span<const std::byte> bytes) -> Status {
    if (bytes.size() > length - done) {
      return Fail(Code::kDataLoss,
                  shown + ": the reply is longer than the " + std::to_string(length) + " bytes asked for");
    }
    done += bytes.size();
    if (!checksum) return sink(bytes);
    held.insert(held.end(), bytes.begin(), bytes.end());
    return {};
  };
  MLCACHE_ASSIGN_OR_RETURN(const HttpResponse response,
                           Send(PercentEncode(Key(ref.path), "/"), std::move(request), context));
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
  if (!checksum) return {};
  if (!checksum->Matches(held)) {
    return Fail(Code::kDataLoss, shown + ": the bytes do not match the checksum that the server keeps of them");
  }
  for (std::span<const std::byte> left(held); !left.empty();) {
    MLCACHE_RETURN_IF_ERROR(CheckCall(context, clock_, shown));
    const std::span<const std::byte> piece = left.first(std::min(left.size(), kPieceBytes));
    left = left.subspan(piece.size());
    MLCACHE_RETURN_IF_ERROR(sink(piece));
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
