// The bytes of SeaweedFS chunks, straight from the volume servers by HTTP, or through a filer.
//
// Locations of volumes are looked up once and kept; old ones are used for as long as no filer can be reached. Replicas
// are tried in turn, those that failed lately last; where no volume server can be reached, or they refuse (a token that
// this daemon has no key for), the chunk is read through the filers. A chunk never changes, so a read that broke off
// goes on elsewhere where it stopped. A whole chunk that is neither compressed nor encrypted is handed on only when its
// CRC-32C matches what the volume server stored with it. Thread-safe.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "cached/store/http_client.h"
#include "cached/store/object_store.h"
#include "cached/store/seaweed_chunks.h"
#include "cached/store/seaweed_filer.h"
#include "cached/store/seaweed_get.h"
#include "cached/store/seaweed_security.h"
#include "common/clock.h"
#include "common/status.h"

namespace mlcache::store {

enum class SeaweedAccess : uint8_t {
  kDirect,  // volume servers at the address they have in the cluster
  kPublic,  // volume servers at their public address
  kFiler,   // through the filers alone
};

class SeaweedVolumes {
 public:
  // Borrows `filer` and `clock`.
  SeaweedVolumes(SeaweedFiler& filer, SeaweedAccess access, const SeaweedSecurity& security, const HttpOptions& http,
                 const Clock& clock);

  // Streams the plain bytes [offset, offset + length) of a chunk. kNotFound: its servers answered and have it no more.
  Status Read(const SeaweedChunk& chunk, uint64_t offset, uint64_t length, const ByteSink& sink,
              const CallContext& context);

  // The whole blob, decrypted and unpacked; for manifests, whose length nothing tells.
  Result<std::string> ReadBlob(const SeaweedChunk& chunk, const CallContext& context);

 private:
  struct Source;
  struct Locations {
    std::vector<filer_pb::Location> servers;
    Nanos fetched_at{};
    Nanos good_until{};  // then it is asked for again
  };
  using PlainChunk = std::shared_ptr<const std::string>;
  // Reads from one server; `last` is set where asking another one cannot help.
  using ReadFrom = std::function<Status(const ChunkGet& get, bool& last)>;

  Status TryServers(const SeaweedChunk& chunk, const ReadFrom& read_from, const CallContext& context);
  Status TryEach(const std::vector<Source>& sources, const SeaweedChunk& chunk, const ReadFrom& read_from, bool& last,
                 const CallContext& context);
  Result<std::vector<Source>> SourcesOf(const SeaweedChunk& chunk, Nanos not_before, const CallContext& context);
  Result<std::shared_ptr<const Locations>> Locate(uint32_t volume_id, Nanos not_before, const CallContext& context);
  Result<PlainChunk> Decoded(const SeaweedChunk& chunk, const CallContext& context);
  void Judge(const Source& source, const Error& error);
  std::string TakeBuffer();
  void GiveBack(std::string buffer);

  SeaweedFiler& filer_;
  const SeaweedAccess access_;
  const SeaweedSecurity security_;
  const Clock& clock_;
  HttpClient http_;

  std::mutex mutex_;  // a leaf; guards all below
  std::condition_variable_any located_;
  std::map<uint32_t, std::shared_ptr<const Locations>> locations_;
  std::set<uint32_t> locating_;
  std::map<std::string, Nanos> avoid_until_;               // by base URL
  std::list<std::pair<std::string, PlainChunk>> decoded_;  // by file id, the front was used last
  uint64_t decoded_bytes_ = 0;
  std::vector<std::string> buffers_;  // idle ones of whole chunks
};

}  // namespace mlcache::store
