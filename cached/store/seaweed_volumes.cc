#include "cached/store/seaweed_volumes.h"

#include <glog/logging.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "cached/store/call.h"
#include "cached/store/seaweed_codec.h"
#include "common/units.h"

namespace mlcache::store {
namespace {

constexpr Nanos kLocationLife = std::chrono::minutes(10);
constexpr Nanos kAskAgainAfter = std::chrono::seconds(10);  // where a volume is, after no filer could tell
constexpr Nanos kAvoidFor = std::chrono::seconds(30);       // a server that could not be reached
constexpr Nanos kRefusedFor = std::chrono::minutes(5);      // one that wants a token
constexpr uint64_t kMaxBlob = 256 * kMiB;
constexpr size_t kMaxBuffers = 16;
constexpr uint64_t kMaxDecoded = 64 * kMiB;
// A handle that was opened before its file was replaced goes on reading until the volume is vacuumed.
constexpr char kReadDeleted[] = "?readDeleted=true";
constexpr size_t kMaxRemembered = 10'000;  // of locations, of servers to avoid

bool EndsEverything(const Error& error) {
  return error.code() == Code::kCancelled || error.code() == Code::kDeadlineExceeded;
}

}  // namespace

struct SeaweedVolumes::Source {
  std::string base;  // "http://host:port"
  std::string url;
  bool filer = false;
  bool avoided = false;
};

SeaweedVolumes::SeaweedVolumes(SeaweedFiler& filer, SeaweedAccess access, const SeaweedSecurity& security,
                               const HttpOptions& http, const Clock& clock)
    : filer_(filer), access_(access), security_(security), clock_(clock), http_(http, clock) {}

Status SeaweedVolumes::Read(const SeaweedChunk& chunk, uint64_t offset, uint64_t length, const ByteSink& sink,
                            const CallContext& context) {
  if (chunk.cipher_key != nullptr) {
    MLCACHE_ASSIGN_OR_RETURN(const PlainChunk plain, Decoded(chunk, context));
    // Here, as chunks of several entries may name one blob with sizes of their own. A blob that is longer is that of a
    // file that was shortened since.
    if (plain->size() < chunk.size) {
      return Fail(Code::kDataLoss, "chunk " + chunk.FileId() + " has " + std::to_string(plain->size()) +
                                       " bytes instead of " + std::to_string(chunk.size));
    }
    return sink(std::as_bytes(std::span(*plain)).subspan(offset, length));
  }
  uint64_t done = 0;
  std::string buffer = TakeBuffer();
  const Status status = TryServers(
      chunk,
      [&](const ChunkGet& get, bool& last) {
        const ByteSink counting = [&](std::span<const std::byte> bytes) -> Status {
          Status taken = sink(bytes);
          last = last || !taken;
          if (taken) done += bytes.size();
          return taken;
        };
        const Status got = GetChunkRange(http_, get, offset + done, length - done, buffer, counting, context);
        // What came after the last byte was wrong: nothing is left to ask for.
        last = last || (!got && done == length);
        return got;
      },
      context);
  GiveBack(std::move(buffer));
  return status;
}

Result<std::string> SeaweedVolumes::ReadBlob(const SeaweedChunk& chunk, const CallContext& context) {
  std::string plain;
  const Status status = TryServers(
      chunk,
      [&](const ChunkGet& get, bool& /*last*/) -> Status {
        MLCACHE_ASSIGN_OR_RETURN(std::string blob, GetBlob(http_, get, kMaxBlob, context));
        if (chunk.cipher_key != nullptr) {
          Result<std::string> clear = DecryptBlob(blob, *chunk.cipher_key);
          if (clear && chunk.compressed) clear = DecompressBlob(*clear, kMaxBlob);
          if (!clear) return std::unexpected(clear.error().WithContext(get.shown));
          blob = *std::move(clear);
        }
        plain = std::move(blob);
        return {};
      },
      context);
  if (!status) return std::unexpected(status.error());
  return plain;
}

// Pieces of an encrypted chunk all need the whole of it.
Result<SeaweedVolumes::PlainChunk> SeaweedVolumes::Decoded(const SeaweedChunk& chunk, const CallContext& context) {
  const std::string id = chunk.FileId();
  {
    const std::lock_guard lock(mutex_);
    const auto found = std::ranges::find(decoded_, id, &std::pair<std::string, PlainChunk>::first);
    if (found != decoded_.end()) {
      decoded_.splice(decoded_.begin(), decoded_, found);
      return found->second;
    }
  }
  MLCACHE_ASSIGN_OR_RETURN(std::string plain, ReadBlob(chunk, context));
  auto shared = std::make_shared<const std::string>(std::move(plain));
  const std::lock_guard lock(mutex_);
  decoded_.emplace_front(id, shared);
  decoded_bytes_ += shared->size();
  while (decoded_bytes_ > kMaxDecoded && decoded_.size() > 1) {
    decoded_bytes_ -= decoded_.back().second->size();
    decoded_.pop_back();
  }
  return shared;
}

Status SeaweedVolumes::TryServers(const SeaweedChunk& chunk, const ReadFrom& read_from, const CallContext& context) {
  const Nanos begin = clock_.Now();
  MLCACHE_ASSIGN_OR_RETURN(const std::vector<Source> sources, SourcesOf(chunk, Nanos::min(), context));
  bool last = false;
  Status status = TryEach(sources, chunk, read_from, last, context);
  if (status || last) return status;
  // Volumes move: what was known of this one may be old.
  MLCACHE_ASSIGN_OR_RETURN(const std::vector<Source> renewed, SourcesOf(chunk, begin, context));
  const bool moved = !std::ranges::all_of(renewed, [&](const Source& source) {
    return std::ranges::find(sources, source.url, &Source::url) != sources.end();
  });
  return moved ? TryEach(renewed, chunk, read_from, last, context) : status;
}

Status SeaweedVolumes::TryEach(const std::vector<Source>& sources, const SeaweedChunk& chunk, const ReadFrom& read_from,
                               bool& last, const CallContext& context) {
  const std::string id = chunk.FileId();
  std::optional<Error> verdict;
  for (const Source& source : sources) {
    ChunkGet get{.chunk = chunk, .url = source.url, .shown = source.base + ", chunk " + id, .token = {}};
    const TokenKey& key = source.filer ? security_.filer_read : security_.volume_read;
    if (!key.secret.empty()) get.token = MakeToken(key, source.filer ? "" : id, clock_.WallNow());
    const Status status = read_from(get, last);
    if (status) return status;
    last = last || EndsEverything(status.error());
    if (last) return status;
    Judge(source, status.error());
    // That one server is away says less than what another one answered.
    const bool tells_more =
        !verdict || verdict->code() == Code::kUnavailable || status.error().code() == Code::kNotFound;
    if (tells_more) verdict = status.error();
  }
  MLCACHE_RETURN_IF_ERROR(CheckCall(context, clock_, "chunk " + id));
  return std::unexpected(verdict.value_or(Error(Code::kUnavailable, "chunk " + id + ": no server has its volume")));
}

Result<std::vector<SeaweedVolumes::Source>> SeaweedVolumes::SourcesOf(const SeaweedChunk& chunk, Nanos not_before,
                                                                      const CallContext& context) {
  const std::string id = chunk.FileId();
  const std::string scheme = security_.https ? "https://" : "http://";
  const std::string direct = "/" + id + kReadDeleted;
  const std::string proxied = std::string("/") + kReadDeleted + "&proxyChunkId=" + id;
  std::vector<Source> sources;
  if (access_ != SeaweedAccess::kFiler) {
    MLCACHE_ASSIGN_OR_RETURN(const std::shared_ptr<const Locations> locations,
                             Locate(chunk.volume_id, not_before, context));
    for (const filer_pb::Location& server : locations->servers) {
      const bool by_public = access_ == SeaweedAccess::kPublic && !server.public_url().empty();
      const std::string base = scheme + (by_public ? server.public_url() : server.url());
      sources.push_back({.base = base, .url = base + direct});
    }
    // Readers of different chunks spread over the replicas; one chunk is always asked of the same first.
    if (!sources.empty()) {
      std::ranges::rotate(sources, sources.begin() + static_cast<ptrdiff_t>(chunk.file_key % sources.size()));
    }
  }
  for (const std::string& base : filer_.HttpBases()) {
    sources.push_back({.base = base, .url = base + proxied, .filer = true});
  }
  const Nanos now = clock_.Now();
  {
    const std::lock_guard lock(mutex_);
    for (Source& source : sources) {
      const auto found = avoid_until_.find(source.base);
      source.avoided = found != avoid_until_.end() && found->second > now;
    }
  }
  std::ranges::stable_partition(sources, [](const Source& source) { return !source.avoided; });
  return sources;
}

Result<std::shared_ptr<const SeaweedVolumes::Locations>> SeaweedVolumes::Locate(uint32_t volume_id, Nanos not_before,
                                                                                const CallContext& context) {
  {
    std::unique_lock lock(mutex_);
    for (;;) {
      const auto found = locations_.find(volume_id);
      if (found != locations_.end() && found->second->fetched_at >= not_before &&
          found->second->good_until > clock_.Now()) {
        return found->second;
      }
      if (locating_.insert(volume_id).second) break;
      located_.wait_for(lock, context.stop, std::chrono::milliseconds(100),
                        [&] { return !locating_.contains(volume_id); });
      MLCACHE_RETURN_IF_ERROR(CheckCall(context, clock_, "volume " + std::to_string(volume_id)));
    }
  }
  const Nanos begin = clock_.Now();
  Result<std::vector<filer_pb::Location>> servers = filer_.LookupVolume(volume_id, context);
  const std::lock_guard lock(mutex_);
  locating_.erase(volume_id);
  located_.notify_all();
  if (!servers) {
    const auto known = locations_.find(volume_id);
    const bool usable = servers.error().code() == Code::kUnavailable && known != locations_.end() &&
                        known->second->fetched_at >= not_before;
    if (!usable) return std::unexpected(servers.error());
    // No filer can be reached. Volumes seldom move: an old place is better than none.
    auto old = std::make_shared<Locations>(*known->second);
    old->good_until = clock_.Now() + kAskAgainAfter;
    return known->second = std::move(old);
  }
  auto locations = std::make_shared<const Locations>(
      Locations{.servers = *std::move(servers), .fetched_at = begin, .good_until = begin + kLocationLife});
  // An empty answer may only mean that a server has not told its master yet.
  if (locations_.size() >= kMaxRemembered) locations_.clear();
  if (locations->servers.empty()) {
    locations_.erase(volume_id);
  } else {
    locations_[volume_id] = locations;
  }
  return locations;
}

void SeaweedVolumes::Judge(const Source& source, const Error& error) {
  const bool refused = error.code() == Code::kUnauthenticated;
  if (error.code() != Code::kUnavailable && !refused) return;
  LOG_EVERY_T(WARNING, 10) << "SeaweedFS: " << error << "; trying elsewhere";
  const std::lock_guard lock(mutex_);
  if (avoid_until_.size() >= kMaxRemembered) avoid_until_.clear();
  avoid_until_[source.base] = clock_.Now() + (refused ? kRefusedFor : kAvoidFor);
}

// Kept buffers spare a page fault for each page of each chunk.
std::string SeaweedVolumes::TakeBuffer() {
  const std::lock_guard lock(mutex_);
  if (buffers_.empty()) return {};
  std::string buffer = std::move(buffers_.back());
  buffers_.pop_back();
  return buffer;
}

void SeaweedVolumes::GiveBack(std::string buffer) {
  const std::lock_guard lock(mutex_);
  if (buffers_.size() < kMaxBuffers) buffers_.push_back(std::move(buffer));
}

}  // namespace mlcache::store
