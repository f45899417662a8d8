#include "cached/store/seaweed_store.h"

#include <algorithm>
#include <array>
#include <climits>
#include <optional>

#include "cached/store/call.h"
#include "common/units.h"

namespace mlcache::store {
namespace {

// Larger layouts are not kept with every listing that shows the file, but looked up when it is read.
constexpr size_t kMaxListedChunks = 16;
constexpr size_t kMaxListedContent = 4 * kKiB;
constexpr size_t kMaxMapCost = 500'000;  // of all files in memory; about 80 bytes each
constexpr size_t kMaxChunksPerFile = 20'000'000;
constexpr int kMaxManifestDepth = 8;
constexpr size_t kZeros = 64 * kKiB;

SeaweedAccess AccessOf(const StoreUrl& url) {
  const auto access = url.options.find("access");
  if (access == url.options.end() || access->second == "direct") return SeaweedAccess::kDirect;
  return access->second == "public" ? SeaweedAccess::kPublic : SeaweedAccess::kFiler;
}

bool IsFileName(std::string_view name) {
  return !name.empty() && name.size() <= NAME_MAX && name != "." && name != ".." &&
         name.find('/') == std::string_view::npos && name.find('\0') == std::string_view::npos;
}

// The filer's names are UTF-8, and it refuses a question for any other.
bool IsUtf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const size_t length = lead < 0x80 ? 1 : (lead >> 5) == 6 ? 2 : (lead >> 4) == 14 ? 3 : (lead >> 3) == 30 ? 4 : 0;
    if (length == 0 || length > text.size() - i) return false;
    uint32_t point = length == 1 ? lead : lead & (0x7FU >> length);
    for (size_t k = 1; k < length; ++k) {
      const auto next = static_cast<unsigned char>(text[i + k]);
      if ((next >> 6) != 2) return false;
      point = point << 6 | (next & 0x3FU);
    }
    constexpr std::array<uint32_t, 5> kLeast = {0, 0, 0x80, 0x800, 0x10000};
    if (point < kLeast[length] || point > 0x10FFFF || (point >= 0xD800 && point < 0xE000)) return false;
    i += length;
  }
  return true;
}

bool FitsListing(const SeaweedLayout& layout) {
  return layout.chunks.size() <= kMaxListedChunks && layout.content.size() <= kMaxListedContent;
}

ObjectInfo WithLayout(SeaweedEntry entry) {
  if (entry.layout != nullptr && FitsListing(*entry.layout)) entry.info.layout = std::move(entry.layout);
  return std::move(entry.info);
}

Status SendZeros(uint64_t length, const ByteSink& sink) {
  static constexpr std::array<std::byte, kZeros> kNothing{};
  while (length > 0) {
    const size_t step = static_cast<size_t>(std::min<uint64_t>(length, kNothing.size()));
    MLCACHE_RETURN_IF_ERROR(sink(std::span(kNothing).first(step)));
    length -= step;
  }
  return {};
}

}  // namespace

Result<std::shared_ptr<SeaweedStore>> SeaweedStore::Open(const StoreUrl& url, const SeaweedSecurity& security,
                                                         const SeaweedOptions& options, const Clock& clock) {
  MLCACHE_ASSIGN_OR_RETURN(std::unique_ptr<SeaweedFiler> filer,
                           SeaweedFiler::Make(url, security, options.filer, clock));
  SeaweedOptions complete = options;
  complete.http.ca_bundle = security.https_files.ca;
  complete.http.client_certificate_file = security.https_files.certificate;
  complete.http.client_key_file = security.https_files.key;
  return std::shared_ptr<SeaweedStore>(
      new SeaweedStore(url, std::move(filer), AccessOf(url), security, complete, clock));
}

SeaweedStore::SeaweedStore(const StoreUrl& url, std::unique_ptr<SeaweedFiler> filer, SeaweedAccess access,
                           const SeaweedSecurity& security, const SeaweedOptions& options, const Clock& clock)
    : url_(url),
      root_(url.path.empty() ? "" : "/" + url.path),
      options_(options),
      clock_(clock),
      filer_(std::move(filer)),
      volumes_(*filer_, access, security, options.http, clock),
      maps_(kMaxMapCost) {}

std::string SeaweedStore::Absolute(const std::string& path) const {
  if (path.empty()) return root_.empty() ? "/" : root_;
  return root_ + "/" + path;
}

std::string SeaweedStore::Shown(const std::string& path) const {
  return "seaweedfs://" + url_.authority + Absolute(path);
}

Result<SeaweedEntry> SeaweedStore::Lookup(const std::string& path, const CallContext& context) {
  MLCACHE_RETURN_IF_ERROR(CheckPath(path));
  if (!IsUtf8(path)) return Fail(Code::kNotFound, Shown(path) + ": SeaweedFS has only names in UTF-8");
  const Result<filer_pb::LookupDirectoryEntryResponse> reply = filer_->Lookup(Absolute(path), context);
  if (!reply) return std::unexpected(reply.error().WithContext("seaweedfs://" + url_.authority));
  Result<std::optional<SeaweedEntry>> entry = ParseSeaweedEntry(reply->entry());
  if (!entry) return std::unexpected(entry.error().WithContext(Shown(path)));
  if (!*entry) return Fail(Code::kNotFound, Shown(path) + ": is neither a file, a directory nor a link");
  return **std::move(entry);
}

Result<ObjectInfo> SeaweedStore::Stat(const std::string& path, const CallContext& context) {
  MLCACHE_ASSIGN_OR_RETURN(SeaweedEntry entry, Lookup(path, context));
  return WithLayout(std::move(entry));
}

Result<ListPage> SeaweedStore::List(const std::string& path, const std::string& token, const CallContext& context) {
  MLCACHE_RETURN_IF_ERROR(CheckPath(path));
  if (!IsUtf8(path)) return Fail(Code::kNotFound, Shown(path) + ": SeaweedFS has only names in UTF-8");
  Result<std::vector<filer_pb::Entry>> entries = filer_->List(Absolute(path), token, options_.page_entries, context);
  if (!entries) return std::unexpected(entries.error().WithContext("seaweedfs://" + url_.authority));
  if (token.empty() && entries->empty()) {
    MLCACHE_ASSIGN_OR_RETURN(const SeaweedEntry self, Lookup(path, context));
    if (self.info.type != FileType::kDirectory) return Fail(Code::kNotFound, Shown(path) + ": is not a directory");
  }
  ListPage page;
  page.entries.reserve(entries->size());
  for (const filer_pb::Entry& entry : *entries) {
    if (!IsFileName(entry.name())) continue;
    Result<std::optional<SeaweedEntry>> parsed = ParseSeaweedEntry(entry);
    if (!parsed) return std::unexpected(parsed.error().WithContext(entry.name()).WithContext(Shown(path)));
    if (*parsed) page.entries.push_back({.name = entry.name(), .info = WithLayout(**std::move(parsed))});
  }
  if (entries->size() == options_.page_entries) page.next = entries->back().name();
  return page;
}

// Manifests are fetched once for a version, in the order of the list, and each level at once.
Status SeaweedStore::ResolveManifests(std::vector<SeaweedChunk>& chunks, const CallContext& context) {
  for (int depth = 0; std::ranges::any_of(chunks, &SeaweedChunk::manifest); ++depth) {
    if (depth == kMaxManifestDepth) return Fail(Code::kDataLoss, "the lists of its chunks are nested too deeply");
    std::vector<SeaweedChunk> resolved;
    for (SeaweedChunk& chunk : chunks) {
      if (!chunk.manifest) {
        resolved.push_back(std::move(chunk));
        continue;
      }
      MLCACHE_ASSIGN_OR_RETURN(const std::string blob, volumes_.ReadBlob(chunk, context));
      filer_pb::FileChunkManifest manifest;
      if (!manifest.ParseFromString(blob)) {
        return Fail(Code::kDataLoss, "chunk " + chunk.FileId() + " is no list of chunks, as its file says");
      }
      for (const filer_pb::FileChunk& listed : manifest.chunks()) {
        MLCACHE_ASSIGN_OR_RETURN(SeaweedChunk parsed, ParseSeaweedChunk(listed));
        if (parsed.offset < chunk.offset) {
          return Fail(Code::kDataLoss, "chunk " + chunk.FileId() + " lists chunks outside its own range");
        }
        // Of a file that was shortened, the list still has what was cut off.
        if (parsed.offset >= chunk.end()) continue;
        parsed.size = std::min(parsed.size, chunk.end() - parsed.offset);
        resolved.push_back(std::move(parsed));
      }
      if (resolved.size() > kMaxChunksPerFile) return Fail(Code::kResourceExhausted, "it has too many chunks");
    }
    chunks = std::move(resolved);
  }
  return {};
}

Result<SeaweedStore::MapPtr> SeaweedStore::MakeMap(const ObjectRef& ref, std::shared_ptr<const SeaweedLayout> layout,
                                                   const CallContext& context) {
  auto map = std::make_shared<SeaweedMap>();
  map->layout = std::move(layout);
  map->chunks = map->layout->chunks;
  if (map->layout->remote_only) {
    MLCACHE_ASSIGN_OR_RETURN(const filer_pb::Entry fetched, filer_->FetchRemote(Absolute(ref.path), context));
    MLCACHE_ASSIGN_OR_RETURN(std::optional<SeaweedEntry> entry, ParseSeaweedEntry(fetched));
    const bool same = entry && entry->layout != nullptr && !entry->layout->remote_only &&
                      fetched.remote_entry().remote_e_tag() == map->layout->remote_etag && entry->info.size == ref.size;
    if (!same) return Fail(Code::kFailedPrecondition, "the remote object changed since it was opened; open it again");
    map->chunks = entry->layout->chunks;
  }
  MLCACHE_RETURN_IF_ERROR(ResolveManifests(map->chunks, context));
  if (std::ranges::any_of(map->chunks, &SeaweedChunk::gateway_encrypted)) {
    return Fail(Code::kUnimplemented,
                "encrypted by the S3 gateway (SSE), which alone has the key: mount it as s3:// through that gateway");
  }
  map->views = VisibleChunks(map->chunks);
  return map;
}

Result<SeaweedStore::MapPtr> SeaweedStore::MapOf(const ObjectRef& ref, const CallContext& context) {
  auto layout = std::dynamic_pointer_cast<const SeaweedLayout>(ref.layout);
  if (layout != nullptr && layout->version != ref.version) layout.reset();
  const bool simple =
      layout != nullptr && !layout->remote_only && std::ranges::none_of(layout->chunks, &SeaweedChunk::manifest);
  if (simple) return MakeMap(ref, std::move(layout), context);
  const std::string key = ref.version + ref.path;
  if (MapPtr found = maps_.Find(key)) return found;
  if (layout == nullptr) {
    Result<SeaweedEntry> entry = Lookup(ref.path, context);
    const bool gone = !entry && entry.error().code() == Code::kNotFound;
    if (!entry && !gone) return std::unexpected(entry.error());
    if (gone || entry->layout == nullptr || entry->layout->version != ref.version) {
      return Fail(Code::kFailedPrecondition, "the file changed since it was opened; open it again");
    }
    layout = std::move(entry->layout);
  }
  MLCACHE_ASSIGN_OR_RETURN(MapPtr map, MakeMap(ref, std::move(layout), context));
  return maps_.Insert(key, std::move(map));
}

Status SeaweedStore::ReadMapped(const SeaweedMap& map, uint64_t offset, uint64_t length, const ByteSink& sink,
                                const CallContext& context) {
  const uint64_t end = offset + length;
  uint64_t at = offset;
  if (const std::string& content = map.layout->content; at < content.size()) {
    const auto bytes = std::as_bytes(std::span(content)).subspan(at, std::min<uint64_t>(content.size(), end) - at);
    MLCACHE_RETURN_IF_ERROR(sink(bytes));
    at += bytes.size();
  }
  auto view = std::ranges::upper_bound(map.views, at, {}, &ChunkView::end);
  while (at < end) {
    MLCACHE_RETURN_IF_ERROR(CheckCall(context, clock_, "read"));
    const uint64_t begin = view == map.views.end() ? end : std::min(view->begin, end);
    if (at < begin) {  // a hole
      MLCACHE_RETURN_IF_ERROR(SendZeros(begin - at, sink));
      at = begin;
      continue;
    }
    const uint64_t stop = std::min(view->end, end);
    MLCACHE_RETURN_IF_ERROR(
        volumes_.Read(map.chunks[view->chunk], view->offset_in_chunk + (at - view->begin), stop - at, sink, context));
    at = stop;
    ++view;
  }
  return {};
}

// A chunk that cannot be had may be one of a version that is no more.
Error SeaweedStore::Explain(const ObjectRef& ref, Error error, const CallContext& context) {
  error = error.WithContext(Shown(ref.path));
  if (error.code() != Code::kNotFound && error.code() != Code::kUnavailable && error.code() != Code::kDataLoss) {
    return error;
  }
  const Result<SeaweedEntry> now = Lookup(ref.path, context);
  const bool gone = !now && now.error().code() == Code::kNotFound;
  if (gone || (now && (now->layout == nullptr || now->layout->version != ref.version))) {
    return {Code::kFailedPrecondition, Shown(ref.path) + ": the file changed since it was opened; open it again"};
  }
  if (error.code() != Code::kNotFound) return error;
  return {Code::kDataLoss, error.message() + ", although the filer still lists it (volume.fsck tells which others)"};
}

Status SeaweedStore::ReadRange(const ObjectRef& ref, uint64_t offset, uint64_t length, const ByteSink& sink,
                               const CallContext& context) {
  MLCACHE_RETURN_IF_ERROR(CheckPath(ref.path));
  if (offset > ref.size || length > ref.size - offset) {
    return Fail(Code::kOutOfRange, Shown(ref.path) + ": range past the end");
  }
  MLCACHE_RETURN_IF_ERROR(CheckCall(context, clock_, Shown(ref.path)));
  if (length == 0) return {};
  bool sink_failed = false;
  const ByteSink watched = [&](std::span<const std::byte> bytes) -> Status {
    Status status = sink(bytes);
    sink_failed = !status;
    return status;
  };
  const Result<MapPtr> map = MapOf(ref, context);
  const Status status = map ? ReadMapped(**map, offset, length, watched, context) : std::unexpected(map.error());
  if (status || sink_failed) return status;
  return std::unexpected(Explain(ref, status.error(), context));
}

Result<StoreCapacity> SeaweedStore::Capacity(const CallContext& context) {
  MLCACHE_ASSIGN_OR_RETURN(const filer_pb::StatisticsResponse reply, filer_->Statistics(context));
  const uint64_t used = std::min(reply.used_size(), reply.total_size());
  return StoreCapacity{.total_bytes = reply.total_size(), .free_bytes = reply.total_size() - used};
}

Status SeaweedStore::Watch(const std::string& path, const ChangeSink& sink, const CallContext& context) {
  MLCACHE_RETURN_IF_ERROR(CheckPath(path));
  const std::string root = Absolute(path);
  SeaweedFeed feed(*filer_, root == "/" ? "" : root, options_.feed, clock_, &Pause);
  const std::string prefix = path.empty() ? "" : path + "/";
  return feed.Run(
      [&](const ChangeEvent& event) {
        sink({.path = event.path.empty() ? path : prefix + event.path, .subtree = event.subtree});
      },
      context);
}

}  // namespace mlcache::store
