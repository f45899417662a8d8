// One GET of a SeaweedFS chunk from one server, believed only as far as it can be checked. Thread-compatible.
#pragma once

#include <cstdint>
#include <string>

#include "cached/store/http_client.h"
#include "cached/store/object_store.h"
#include "cached/store/seaweed_chunks.h"
#include "common/status.h"

namespace mlcache::store {

struct ChunkGet {
  const SeaweedChunk& chunk;
  std::string url;    // of the chunk on that server
  std::string shown;  // names both in messages
  std::string token;  // empty: none
};

// Passes on [offset, offset + length) of the chunk's plain bytes. A whole chunk of at most 8 MiB that is kept plain is
// gathered in `buffer` first, and passed on when it matches the checksum (CRC-32C) that the server gives as its ETag;
// one whose blob is longer (its file was shortened since) is asked for once more as a piece, which no checksum covers.
// Errors: what `sink` returned; kNotFound, kUnauthenticated or kUnavailable for what the server said; kDataLoss for a
// reply that is not what was asked for; those of HttpClient::Do.
Status GetChunkRange(HttpClient& http, const ChunkGet& get, uint64_t offset, uint64_t length, std::string& buffer,
                     const ByteSink& sink, const CallContext& context);

// The blob as it is stored, but for gzip, which the server unpacks.
Result<std::string> GetBlob(HttpClient& http, const ChunkGet& get, uint64_t max_bytes, const CallContext& context);

}  // namespace mlcache::store
