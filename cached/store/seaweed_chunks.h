// Which chunk of a SeaweedFS file holds which of its bytes. Pure functions.
//
// A file is a list of chunks, each a blob of a volume server with its place in the file. Chunks may overlap (a file
// written in place): the one modified last wins. What no chunk covers is a hole and reads as zeros.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cached/store/object_store.h"
#include "common/status.h"

namespace filer_pb {
class FileChunk;
}

namespace mlcache::store {

struct SeaweedChunk {
  uint64_t offset = 0;  // in the file
  uint64_t size = 0;    // plain bytes
  int64_t modified_ts_ns = 0;
  uint64_t file_key = 0;
  uint32_t volume_id = 0;
  uint32_t cookie = 0;
  bool compressed = false;
  bool manifest = false;                          // the blob lists further chunks, all within this one's range
  bool gateway_encrypted = false;                 // by the S3 gateway, with a key that only it has
  std::shared_ptr<const std::string> cipher_key;  // null: not encrypted

  uint64_t end() const { return offset + size; }
  // "3,01637037d6": the blob's name on its volume servers, and in their tokens.
  std::string FileId() const;
};

// kDataLoss for a chunk without a sound id, or whose end is past 2^63.
Result<SeaweedChunk> ParseSeaweedChunk(const filer_pb::FileChunk& chunk);

// The bytes [begin, end) of the file are those of chunks[chunk] from offset_in_chunk on.
struct ChunkView {
  uint64_t begin = 0;
  uint64_t end = 0;
  size_t chunk = 0;
  uint64_t offset_in_chunk = 0;

  friend bool operator==(const ChunkView&, const ChunkView&) = default;
};

// In order, without overlaps; no chunk may be a manifest. Of overlapping chunks of one time the one that begins first
// wins, as SeaweedFS has it.
std::vector<ChunkView> VisibleChunks(const std::vector<SeaweedChunk>& chunks);

// What an ObjectRef carries of a file: where its bytes are. Immutable.
struct SeaweedLayout : ObjectLayout {
  std::string version;
  uint64_t size = 0;
  std::string content;               // the file's first bytes, when its entry holds them itself
  std::vector<SeaweedChunk> chunks;  // manifests not yet resolved
  std::string remote_etag;           // of a remote-mounted file that has no chunks
  bool remote_only = false;
};

}  // namespace mlcache::store
