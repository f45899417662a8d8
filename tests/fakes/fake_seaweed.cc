#include "tests/fakes/fake_seaweed.h"

#include <glog/logging.h>
#include <openssl/evp.h>
#include <zlib.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "cached/store/checksum.h"
#include "cached/store/percent.h"
#include "cached/store/seaweed_chunks.h"
#include "cached/store/seaweed_codec.h"
#include "cached/store/seaweed_filer.h"
#include "cached/store/seaweed_security.h"

namespace mlcache::testing {
namespace {

using Reply = ScriptedHttpServer::Reply;

constexpr int kGrpcOffset = 10'000;
constexpr int kMostPort = 65'535;
constexpr uint32_t kVolume = 3;
constexpr uint32_t kCookie = 0x637037d6;
constexpr int64_t kGoZeroTime = -62'135'596'800;  // what the filer gives for a time that it does not know
constexpr uint32_t kGoDirectory = 1U << 31;
constexpr char kKey[] = "0123456789abcdef0123456789ABCDEF";

std::string Gzip(const std::string& plain) {
  z_stream stream{};
  CHECK_EQ(deflateInit2(&stream, Z_BEST_SPEED, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string packed(deflateBound(&stream, plain.size()), '\0');
  stream.next_in = reinterpret_cast<unsigned char*>(const_cast<char*>(plain.data()));
  stream.avail_in = static_cast<uInt>(plain.size());
  stream.next_out = reinterpret_cast<unsigned char*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  CHECK_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  packed.resize(stream.total_out);
  deflateEnd(&stream);
  return packed;
}

std::string Encrypt(const std::string& plain) {
  const std::string nonce = "twelve bytes";
  std::string cipher(plain.size(), '\0');
  std::string tag(16, '\0');
  EVP_CIPHER_CTX* context = EVP_CIPHER_CTX_new();
  int length = 0;
  const auto* key = reinterpret_cast<const unsigned char*>(kKey);
  EVP_EncryptInit_ex(context, EVP_aes_256_gcm(), nullptr, key, reinterpret_cast<const unsigned char*>(nonce.data()));
  EVP_EncryptUpdate(context, reinterpret_cast<unsigned char*>(cipher.data()), &length,
                    reinterpret_cast<const unsigned char*>(plain.data()), static_cast<int>(plain.size()));
  EVP_EncryptFinal_ex(context, reinterpret_cast<unsigned char*>(cipher.data()) + length, &length);
  EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_GCM_GET_TAG, static_cast<int>(tag.size()), tag.data());
  EVP_CIPHER_CTX_free(context);
  return nonce + cipher + tag;
}

std::string HeaderOf(const std::string& head, const std::string& name) {
  const size_t begin = head.find("\r\n" + name + ": ");
  if (begin == std::string::npos) return "";
  const size_t value = begin + name.size() + 4;
  return head.substr(value, head.find("\r\n", value) - value);
}

// What stands between "GET /" and the query or the version.
std::string TargetOf(const std::string& head) { return head.substr(4, head.find(' ', 4) - 4); }

std::string FileIdOf(const filer_pb::FileChunk& chunk) { return store::ParseSeaweedChunk(chunk)->FileId(); }

void Stamp(filer_pb::FuseAttributes* attributes) {
  const int64_t now = std::chrono::system_clock::now().time_since_epoch().count();
  attributes->set_mtime(now / 1'000'000'000);
  attributes->set_mtime_ns(static_cast<int32_t>(now % 1'000'000'000));
  attributes->set_ctime(kGoZeroTime);
}

// As text: "/a" is also a prefix of "/ab".
bool Concerns(const filer_pb::SubscribeMetadataResponse& event, const std::string& prefix) {
  const filer_pb::EventNotification& change = event.event_notification();
  const auto below = [&](const std::string& directory, const std::string& name) {
    return ((directory == "/" ? "" : directory) + "/" + name).starts_with(prefix);
  };
  return below(event.directory(), change.has_old_entry() ? change.old_entry().name() : change.new_entry().name()) ||
         (change.has_new_entry() && below(change.new_parent_path(), change.new_entry().name()));
}

// The log names chunks by their `fid` alone.
void Compact(filer_pb::Entry* entry) {
  for (filer_pb::FileChunk& chunk : *entry->mutable_chunks()) chunk.clear_file_id();
}

grpc::Status NotFound() { return {grpc::StatusCode::UNKNOWN, "filer: no entry is found in filer store"}; }

}  // namespace

class FakeSeaweed::Service final : public filer_pb::SeaweedFiler::Service {
 public:
  explicit Service(FakeSeaweed& fake) : fake_(fake) {}

  grpc::Status LookupDirectoryEntry(grpc::ServerContext* /*context*/,
                                    const filer_pb::LookupDirectoryEntryRequest* request,
                                    filer_pb::LookupDirectoryEntryResponse* reply) override {
    ++fake_.lookups_;
    const std::lock_guard lock(fake_.mutex_);
    if (fake_.stopping_) return {grpc::StatusCode::UNAVAILABLE, "the filer is going away"};
    if (!fake_.lookup_status_.ok()) return fake_.lookup_status_;
    reply->set_log_ts_ns(fake_.NextTime());
    if (request->directory() == "/" && request->name().empty()) {
      reply->mutable_entry()->set_is_directory(true);
      reply->mutable_entry()->mutable_attributes()->set_file_mode(kGoDirectory | 0755U);
      Stamp(reply->mutable_entry()->mutable_attributes());
      return grpc::Status::OK;
    }
    const auto directory = fake_.directories_.find(request->directory());
    if (directory == fake_.directories_.end()) return NotFound();
    const auto entry = directory->second.find(request->name());
    if (entry == directory->second.end()) return NotFound();
    *reply->mutable_entry() = entry->second;
    return grpc::Status::OK;
  }

  grpc::Status ListEntries(grpc::ServerContext* /*context*/, const filer_pb::ListEntriesRequest* request,
                           grpc::ServerWriter<filer_pb::ListEntriesResponse>* writer) override {
    ++fake_.listings_;
    std::vector<filer_pb::Entry> entries;
    {
      const std::lock_guard lock(fake_.mutex_);
      const auto directory = fake_.directories_.find(request->directory());
      if (directory == fake_.directories_.end()) return grpc::Status::OK;
      auto at = directory->second.upper_bound(request->start_from_file_name());
      for (; at != directory->second.end() && entries.size() < request->limit(); ++at) entries.push_back(at->second);
    }
    for (filer_pb::Entry& entry : entries) {
      filer_pb::ListEntriesResponse reply;
      *reply.mutable_entry() = std::move(entry);
      if (!writer->Write(reply)) break;
    }
    return grpc::Status::OK;
  }

  grpc::Status LookupVolume(grpc::ServerContext* /*context*/, const filer_pb::LookupVolumeRequest* request,
                            filer_pb::LookupVolumeResponse* reply) override {
    ++fake_.volume_lookups_;
    const std::lock_guard lock(fake_.mutex_);
    for (const std::string& id : request->volume_ids()) {
      if (id != std::to_string(kVolume) || fake_.located_.empty()) continue;
      filer_pb::Locations& locations = (*reply->mutable_locations_map())[id];
      for (const int server : fake_.located_) {
        filer_pb::Location* location = locations.add_locations();
        location->set_url(fake_.volume_server(server));
        location->set_public_url(fake_.volume_server(server));
      }
    }
    return grpc::Status::OK;
  }

  grpc::Status Statistics(grpc::ServerContext* /*context*/, const filer_pb::StatisticsRequest* /*request*/,
                          filer_pb::StatisticsResponse* reply) override {
    reply->set_total_size(1 << 30);
    reply->set_used_size(1 << 20);
    return grpc::Status::OK;
  }

  grpc::Status CacheRemoteObjectToLocalCluster(grpc::ServerContext* /*context*/,
                                               const filer_pb::CacheRemoteObjectToLocalClusterRequest* request,
                                               filer_pb::CacheRemoteObjectToLocalClusterResponse* reply) override {
    const std::string path = (request->directory() == "/" ? "" : request->directory()) + "/" + request->name();
    std::string bytes;
    {
      const std::lock_guard lock(fake_.mutex_);
      const auto found = fake_.remote_.find(path);
      if (found == fake_.remote_.end()) return {grpc::StatusCode::UNKNOWN, "read from remote: no such object"};
      bytes = found->second;
    }
    filer_pb::Entry entry = fake_.Find(path);
    *entry.add_chunks() = fake_.Store(bytes);
    entry.mutable_attributes()->set_file_size(bytes.size());
    fake_.PutEntry(path, entry);
    *reply->mutable_entry() = std::move(entry);
    return grpc::Status::OK;
  }

  grpc::Status SubscribeMetadata(grpc::ServerContext* context, const filer_pb::SubscribeMetadataRequest* request,
                                 grpc::ServerWriter<filer_pb::SubscribeMetadataResponse>* writer) override {
    if (fake_.refuse_feeds_) return {grpc::StatusCode::UNKNOWN, "reading from persisted logs: not found"};
    std::unique_lock lock(fake_.mutex_);
    fake_.positions_.push_back(request->since_ns());
    const uint64_t breaks = fake_.breaks_;
    ++fake_.open_feeds_;
    for (size_t next = 0; !context->IsCancelled() && fake_.breaks_ == breaks;) {
      fake_.told_ = next;
      fake_.changed_.notify_all();
      if (next == fake_.log_.size()) {
        // A cancelled call wakes nobody.
        fake_.changed_.wait_for(lock, std::chrono::milliseconds(20));
        continue;
      }
      const filer_pb::SubscribeMetadataResponse reply = fake_.log_[next++];
      if (reply.ts_ns() <= request->since_ns() || !Concerns(reply, request->path_prefix())) continue;
      lock.unlock();
      writer->Write(reply);
      lock.lock();
    }
    --fake_.open_feeds_;
    return {grpc::StatusCode::UNAVAILABLE, "the filer is going away"};
  }

 private:
  FakeSeaweed& fake_;
};

FakeSeaweed::FakeSeaweed(int volume_servers) : service_(std::make_unique<Service>(*this)) {
  for (int server = 0; server < volume_servers; ++server) {
    volume_servers_.push_back(
        std::make_unique<ScriptedHttpServer>([this, server](const std::string& head) { return Answer(server, head); }));
    addresses_.push_back("127.0.0.1:" + std::to_string(volume_servers_.back()->port()));
    located_.push_back(server);
  }
  // A port whose neighbour 10000 above is free, too.
  while (server_ == nullptr) {
    filer_http_ = std::make_unique<ScriptedHttpServer>([this](const std::string& head) { return Answer(-1, head); });
    const int grpc_port = filer_http_->port() + kGrpcOffset;
    if (grpc_port > kMostPort) continue;
    filer_address_ = "127.0.0.1:" + std::to_string(filer_http_->port());
    grpc_address_ = "127.0.0.1:" + std::to_string(grpc_port);
    StartFiler();
  }
}

FakeSeaweed::~FakeSeaweed() { StopFiler(); }

std::string FakeSeaweed::volume_server(int server) const { return addresses_[static_cast<size_t>(server)]; }

uint16_t FakeSeaweed::grpc_port() const {
  return static_cast<uint16_t>(std::stoi(grpc_address_.substr(grpc_address_.find(':') + 1)));
}

void FakeSeaweed::StartFiler() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = false;
  }
  if (filer_http_ == nullptr) {
    const auto port = static_cast<uint16_t>(std::stoi(filer_address_.substr(filer_address_.find(':') + 1)));
    filer_http_ =
        std::make_unique<ScriptedHttpServer>([this](const std::string& head) { return Answer(-1, head); }, port);
  }
  grpc::ServerBuilder builder;
  int bound = 0;
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddListeningPort(grpc_address_, grpc::InsecureServerCredentials(), &bound);
  builder.RegisterService(service_.get());
  server_ = builder.BuildAndStart();
  if (bound == 0) server_.reset();
}

void FakeSeaweed::StopFiler() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;  // whoever comes before the server has closed its door must not take it for a healthy one
  }
  BreakFeeds();
  if (server_ != nullptr) {
    server_->Shutdown(std::chrono::system_clock::now());
    server_->Wait();
    server_.reset();
  }
  filer_http_.reset();
}

void FakeSeaweed::StopVolumeServer(int server) { volume_servers_[static_cast<size_t>(server)].reset(); }

int64_t FakeSeaweed::NextTime() {
  const int64_t now = std::chrono::system_clock::now().time_since_epoch().count() + ahead_;
  return last_time_ = std::max(last_time_ + 1, now);
}

void FakeSeaweed::AdvanceClock(int64_t nanos) {
  const std::lock_guard lock(mutex_);
  ahead_ += nanos;
}

filer_pb::FileChunk FakeSeaweed::Store(const std::string& plain, const FileOptions& options) {
  Blob blob{.bytes = plain, .compressed = options.compressed && !options.encrypted};
  if (options.compressed) blob.bytes = Gzip(blob.bytes);
  if (options.encrypted) blob.bytes = Encrypt(blob.bytes);
  blob.checksum = store::Crc32c(std::as_bytes(std::span(blob.bytes)));
  const std::lock_guard lock(mutex_);
  filer_pb::FileChunk chunk;
  chunk.mutable_fid()->set_volume_id(kVolume);
  chunk.mutable_fid()->set_file_key(next_key_++);
  chunk.mutable_fid()->set_cookie(kCookie);
  chunk.set_file_id(FileIdOf(chunk));
  chunk.set_size(plain.size());
  chunk.set_modified_ts_ns(NextTime());
  chunk.set_is_compressed(options.compressed);
  if (options.encrypted) chunk.set_cipher_key(std::string(kKey, 32));
  blobs_[FileIdOf(chunk)] = std::move(blob);
  return chunk;
}

void FakeSeaweed::DropBlob(const filer_pb::FileChunk& chunk) {
  const std::lock_guard lock(mutex_);
  blobs_.erase(FileIdOf(chunk));
}

void FakeSeaweed::Put(const std::string& path, const std::string& bytes, const FileOptions& options) {
  filer_pb::Entry entry;
  Stamp(entry.mutable_attributes());
  entry.mutable_attributes()->set_file_size(bytes.size());
  entry.mutable_attributes()->set_file_mode(0644);
  if (options.inline_content) {
    entry.set_content(bytes);
  } else {
    filer_pb::FileChunkManifest manifest;
    for (uint64_t at = 0; at < bytes.size(); at += options.chunk_size) {
      filer_pb::FileChunk chunk = Store(bytes.substr(at, options.chunk_size), options);
      chunk.set_offset(static_cast<int64_t>(at));
      *manifest.add_chunks() = std::move(chunk);
    }
    if (options.manifest) {
      filer_pb::FileChunk* chunk = entry.add_chunks();
      *chunk = Store(manifest.SerializeAsString());
      chunk->set_is_chunk_manifest(true);
      chunk->set_size(bytes.size());
    } else {
      *entry.mutable_chunks() = std::move(*manifest.mutable_chunks());
    }
  }
  PutEntry(path, std::move(entry));
}

void FakeSeaweed::PutDirectory(const std::string& path) {
  filer_pb::Entry entry;
  entry.set_is_directory(true);
  entry.mutable_attributes()->set_file_mode(kGoDirectory | 0771U);
  Stamp(entry.mutable_attributes());
  PutEntry(path, std::move(entry));
}

void FakeSeaweed::PutEntry(const std::string& path, filer_pb::Entry entry) {
  const auto [directory, name] = store::SplitFilerPath(path);
  if (directory != "/" && Find(directory).name().empty()) PutDirectory(directory);
  const std::lock_guard lock(mutex_);
  entry.set_name(name);
  if (entry.is_directory()) directories_.try_emplace(path);
  std::map<std::string, filer_pb::Entry>& siblings = directories_[directory];
  const auto found = siblings.find(name);
  const bool existed = found != siblings.end();
  const filer_pb::Entry before = existed ? found->second : filer_pb::Entry();
  siblings[name] = entry;
  for (const filer_pb::FileChunk& chunk : before.chunks()) {
    const bool kept = std::ranges::any_of(
        entry.chunks(), [&](const filer_pb::FileChunk& other) { return FileIdOf(other) == FileIdOf(chunk); });
    if (!kept) blobs_.erase(FileIdOf(chunk));
  }
  Announce(path, existed ? &before : nullptr, &entry);
}

void FakeSeaweed::Remove(const std::string& path) {
  const auto [directory, name] = store::SplitFilerPath(path);
  const std::lock_guard lock(mutex_);
  const auto siblings = directories_.find(directory);
  if (siblings == directories_.end()) return;
  const auto found = siblings->second.find(name);
  if (found == siblings->second.end()) return;
  const filer_pb::Entry before = found->second;
  for (const filer_pb::FileChunk& chunk : before.chunks()) blobs_.erase(FileIdOf(chunk));
  siblings->second.erase(found);
  std::erase_if(directories_,
                [&](const auto& item) { return item.first == path || item.first.starts_with(path + "/"); });
  Announce(path, &before, nullptr);
}

filer_pb::Entry FakeSeaweed::Find(const std::string& path) const {
  const auto [directory, name] = store::SplitFilerPath(path);
  const std::lock_guard lock(mutex_);
  const auto siblings = directories_.find(directory);
  if (siblings == directories_.end()) return {};
  const auto found = siblings->second.find(name);
  return found == siblings->second.end() ? filer_pb::Entry() : found->second;
}

void FakeSeaweed::SetRemote(const std::string& path, const std::string& bytes) {
  const std::lock_guard lock(mutex_);
  remote_[path] = bytes;
}

void FakeSeaweed::Announce(const std::string& path, const filer_pb::Entry* before, const filer_pb::Entry* after) {
  const auto [directory, name] = store::SplitFilerPath(path);
  filer_pb::SubscribeMetadataResponse& event = log_.emplace_back();
  event.set_directory(directory);
  event.set_ts_ns(NextTime());
  filer_pb::EventNotification& notification = *event.mutable_event_notification();
  if (before != nullptr) {
    *notification.mutable_old_entry() = *before;
    Compact(notification.mutable_old_entry());
  }
  if (after != nullptr) {
    *notification.mutable_new_entry() = *after;
    Compact(notification.mutable_new_entry());
    notification.set_new_parent_path(directory);
  }
  changed_.notify_all();
}

void FakeSeaweed::SetFault(Fault fault) {
  const std::lock_guard lock(mutex_);
  fault_ = std::move(fault);
}

void FakeSeaweed::AnswerLookups(grpc::Status status) {
  const std::lock_guard lock(mutex_);
  lookup_status_ = std::move(status);
}

void FakeSeaweed::RequireTokens(const std::string& volume_key, const std::string& filer_key) {
  const std::lock_guard lock(mutex_);
  volume_key_ = volume_key;
  filer_key_ = filer_key;
}

void FakeSeaweed::Locate(std::vector<int> servers) {
  const std::lock_guard lock(mutex_);
  located_ = std::move(servers);
}

void FakeSeaweed::BreakFeeds() {
  const std::lock_guard lock(mutex_);
  ++breaks_;
  changed_.notify_all();
}

void FakeSeaweed::WaitForFeed() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return open_feeds_ > 0 && told_ == log_.size(); });
}

std::vector<int64_t> FakeSeaweed::feed_positions() const {
  const std::lock_guard lock(mutex_);
  return positions_;
}

size_t FakeSeaweed::gets() const {
  size_t count = 0;
  for (const auto& server : volume_servers_) count += server == nullptr ? 0 : server->requests().size();
  return count;
}

// A token is right if it is the one that the key makes for the same claims.
bool FakeSeaweed::TokenAllows(int server, const std::string& file_id, const std::string& head) const {
  const std::string& secret = server < 0 ? filer_key_ : volume_key_;
  if (secret.empty()) return true;
  const std::string header = HeaderOf(head, "Authorization");
  const Nanos now = std::chrono::system_clock::now().time_since_epoch();
  const store::TokenKey key{.secret = secret};
  for (const int late : {0, 1, 2}) {
    const std::string right = store::MakeToken(key, server < 0 ? "" : file_id, now - std::chrono::seconds(late));
    if (header == "Bearer " + right) return true;
  }
  return false;
}

Reply FakeSeaweed::Answer(int server, const std::string& head) {
  const std::lock_guard lock(mutex_);
  if (fault_) {
    if (std::optional<Reply> reply = fault_(server, head)) return *std::move(reply);
  }
  const std::string target = TargetOf(head);
  const size_t mark = std::min(target.find('?'), target.size());
  std::string file_id = target.substr(1, mark - 1);
  if (server < 0) {
    const size_t proxy = target.find("proxyChunkId=");
    if (proxy == std::string::npos) return {ScriptedHttpServer::Http("404 Not Found", {}, "")};
    ++proxied_;
    file_id = target.substr(proxy + std::string("proxyChunkId=").size());
  }
  if (!TokenAllows(server, file_id, head)) {
    return {ScriptedHttpServer::Http("401 Unauthorized", {}, R"({"error":"wrong jwt"})")};
  }
  return AnswerChunk(file_id, head);
}

Reply FakeSeaweed::AnswerChunk(const std::string& file_id, const std::string& head) const {
  const auto found = blobs_.find(file_id);
  if (found == blobs_.end()) return {ScriptedHttpServer::Http("404 Not Found", {}, "")};
  const Blob& blob = found->second;
  char etag[16];
  std::snprintf(etag, sizeof(etag), "\"%08x\"", blob.checksum);
  std::vector<std::string> headers = {"Accept-Ranges: bytes", std::string("Etag: ") + etag};
  std::string bytes = blob.bytes;
  if (blob.compressed) {
    if (HeaderOf(head, "Accept-Encoding").find("gzip") != std::string::npos) {
      headers.emplace_back("Content-Encoding: gzip");
    } else {
      bytes = *store::DecompressBlob(bytes, 1 << 30);
    }
  }
  const std::string range = HeaderOf(head, "Range");
  if (range.empty()) return {ScriptedHttpServer::Http("200 OK", headers, bytes)};
  const uint64_t first = std::stoull(range.substr(std::string("bytes=").size()));
  const uint64_t last = std::min<uint64_t>(std::stoull(range.substr(range.find('-') + 1)), bytes.size() - 1);
  if (first >= bytes.size()) return {ScriptedHttpServer::Http("416 Requested Range Not Satisfiable", headers, "")};
  headers.push_back("Content-Range: bytes " + std::to_string(first) + "-" + std::to_string(last) + "/" +
                    std::to_string(bytes.size()));
  return {ScriptedHttpServer::Http("206 Partial Content", headers, bytes.substr(first, last - first + 1))};
}

}  // namespace mlcache::testing
