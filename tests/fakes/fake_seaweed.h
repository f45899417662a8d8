// A SeaweedFS cluster of one filer and any number of volume servers on 127.0.0.1, in memory: gRPC and HTTP as the real
// one speaks them (held to it by tests/store/seaweed_fixtures_test.cc), and as it should not where a test says so.
// Thread-safe.
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "proto/filer.grpc.pb.h"
#include "tests/fakes/scripted_http_server.h"

namespace mlcache::testing {

class FakeSeaweed {
 public:
  struct FileOptions {
    uint64_t chunk_size = 4 << 20;
    bool compressed = false;
    bool encrypted = false;
    bool inline_content = false;
    bool manifest = false;  // the chunks in a list of their own
  };
  // Replaces the answer of volume server `server` (the filer's own HTTP is server -1), or lets it be.
  using Fault = std::function<std::optional<ScriptedHttpServer::Reply>(int server, const std::string& head)>;

  explicit FakeSeaweed(int volume_servers = 2);
  FakeSeaweed(const FakeSeaweed&) = delete;
  FakeSeaweed& operator=(const FakeSeaweed&) = delete;
  ~FakeSeaweed();

  // "127.0.0.1:PORT", gRPC 10000 above it.
  const std::string& filer() const { return filer_address_; }
  uint16_t grpc_port() const;
  std::string volume_server(int server) const;

  // Paths are absolute. Directories above are made; what was there is replaced and its chunks are gone at once.
  void Put(const std::string& path, const std::string& bytes, const FileOptions& options);
  void Put(const std::string& path, const std::string& bytes) { Put(path, bytes, {}); }
  void PutDirectory(const std::string& path);
  void PutEntry(const std::string& path, filer_pb::Entry entry);
  void Remove(const std::string& path);
  filer_pb::Entry Find(const std::string& path) const;  // empty if there is none
  // What the fake's remote store gives for a remote-only entry.
  void SetRemote(const std::string& path, const std::string& bytes);

  // A blob as it lies on the volume servers; the chunk has everything but an offset.
  filer_pb::FileChunk Store(const std::string& plain, const FileOptions& options);
  filer_pb::FileChunk Store(const std::string& plain) { return Store(plain, {}); }
  void DropBlob(const filer_pb::FileChunk& chunk);

  void SetFault(Fault fault);
  void RequireTokens(const std::string& volume_key, const std::string& filer_key);
  void StopFiler();   // its gRPC and its HTTP
  void StartFiler();  // on the same ports
  void StopVolumeServer(int server);
  // Lists only `servers` as places of its volumes from now on.
  void Locate(std::vector<int> servers);
  // What the filer answers to every look-up of an entry from now on; OK: what there is.
  void AnswerLookups(grpc::Status status);
  void RefuseFeeds(bool refuse) { refuse_feeds_ = refuse; }
  // Ends the feeds that are being read now.
  void BreakFeeds();
  // The clock that the feed's positions are taken from, ahead of the real one.
  void AdvanceClock(int64_t nanos);

  int lookups() const { return lookups_; }
  int listings() const { return listings_; }
  int volume_lookups() const { return volume_lookups_; }
  size_t gets() const;  // of all volume servers
  size_t proxied() const { return proxied_; }
  std::vector<int64_t> feed_positions() const;  // since_ns of each subscription
  // Until a feed that is open has been told of everything.
  void WaitForFeed();

 private:
  class Service;
  struct Blob {
    std::string bytes;  // as stored
    bool compressed = false;
    uint32_t checksum = 0;
  };

  void Announce(const std::string& path, const filer_pb::Entry* before, const filer_pb::Entry* after);
  ScriptedHttpServer::Reply Answer(int server, const std::string& head);
  ScriptedHttpServer::Reply AnswerChunk(const std::string& file_id, const std::string& head) const;
  bool TokenAllows(int server, const std::string& file_id, const std::string& head) const;
  int64_t NextTime();

  std::string filer_address_;
  std::string grpc_address_;
  std::unique_ptr<Service> service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<ScriptedHttpServer> filer_http_;
  std::vector<std::unique_ptr<ScriptedHttpServer>> volume_servers_;
  std::vector<std::string> addresses_;  // of the volume servers, also those stopped; constant after construction

  mutable std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  std::map<std::string, std::map<std::string, filer_pb::Entry>> directories_;
  std::map<std::string, Blob> blobs_;
  std::map<std::string, std::string> remote_;
  std::vector<filer_pb::SubscribeMetadataResponse> log_;
  std::vector<int64_t> positions_;
  std::vector<int> located_;
  Fault fault_;
  grpc::Status lookup_status_;
  bool stopping_ = false;
  std::string volume_key_;
  std::string filer_key_;
  uint64_t next_key_ = 0x1f;
  int64_t last_time_ = 0;
  int64_t ahead_ = 0;
  int open_feeds_ = 0;
  size_t told_ = 0;  // of log_, by the feed opened last
  uint64_t breaks_ = 0;

  std::atomic<bool> refuse_feeds_{false};
  std::atomic<int> lookups_{0};
  std::atomic<int> listings_{0};
  std::atomic<int> volume_lookups_{0};
  std::atomic<size_t> proxied_{0};
};

}  // namespace mlcache::testing
