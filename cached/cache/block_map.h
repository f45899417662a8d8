// Which blocks of an object are present, verified and being filled, with their checksums. Pure; thread-compatible.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <vector>

#include "cached/cache/object_cache.h"

namespace mlcache::cache {

static_assert(kBlocksPerChunk == 64, "one bit a block");

struct ChunkBlocks {
  uint64_t present = 0;
  uint64_t verified = 0;  // filled by this process, or read back and checked; only of present blocks
  uint64_t filling = 0;
  bool dirty = false;  // differs from its row
  std::vector<uint64_t> sums;
};
using ChunkMap = std::map<uint32_t, ChunkBlocks>;

constexpr uint64_t BlockCount(uint64_t object_size) { return (object_size + kBlockBytes - 1) / kBlockBytes; }
constexpr uint64_t ChunkCount(uint64_t object_size) { return (object_size + kChunkBytes - 1) / kChunkBytes; }
constexpr uint64_t BlockLength(uint64_t object_size, uint64_t block) {
  return std::min(kBlockBytes, object_size - block * kBlockBytes);
}
constexpr uint32_t ChunkOf(uint64_t block) { return static_cast<uint32_t>(block / kBlocksPerChunk); }
constexpr uint64_t BitOf(uint64_t block) { return uint64_t{1} << (block % kBlocksPerChunk); }

// Of the blocks of `chunk` in `mask`: their bytes, and the space they take in a file.
uint64_t BytesOfBlocks(uint64_t object_size, uint32_t chunk, uint64_t mask);
uint64_t SpaceOfBlocks(uint64_t object_size, uint32_t chunk, uint64_t mask);

// What a file of this size takes beside its blocks (the file system's map of its extents), at most.
uint64_t SpaceOfExtents(uint64_t object_size);

// Neighbouring bits of a chunk's mask.
struct BlockRun {
  uint64_t first = 0;
  uint64_t count = 0;
};
std::vector<BlockRun> RunsOf(uint64_t mask);

class BlockMap {
 public:
  explicit BlockMap(uint64_t object_size) : object_size_(object_size) {}

  // Forgets what was known and takes over what an index held.
  void Load(ChunkMap chunks) { chunks_ = std::move(chunks); }
  void Clear() { chunks_.clear(); }
  void Distrust();

  const ChunkMap& chunks() const { return chunks_; }
  ChunkMap& chunks() { return chunks_; }
  // Made when absent, with room for its checksums.
  ChunkBlocks& Chunk(uint32_t chunk);

  bool Has(uint64_t block, uint64_t ChunkBlocks::* which) const;
  // False when the chunk is not known.
  bool Matches(uint64_t block, uint64_t sum) const;
  // Whether all blocks that [offset, offset + length) touches are.
  bool AllOf(uint64_t offset, uint64_t length, uint64_t ChunkBlocks::* which) const;
  std::vector<ByteRange> Missing(uint64_t offset, uint64_t length) const;
  bool Everything(uint64_t ChunkBlocks::* which) const;

 private:
  const uint64_t object_size_;
  ChunkMap chunks_;
};

}  // namespace mlcache::cache
