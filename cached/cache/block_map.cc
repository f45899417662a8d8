#include "cached/cache/block_map.h"

#include <bit>

#include "cached/cache/budget.h"
#include "common/units.h"

namespace mlcache::cache {
namespace {

// The blocks that exist in a chunk: all 64 of it, fewer in the last one.
uint64_t FullMask(uint64_t object_size, uint32_t chunk) {
  const uint64_t blocks = std::min(kBlocksPerChunk, BlockCount(object_size) - chunk * kBlocksPerChunk);
  return blocks == kBlocksPerChunk ? ~uint64_t{0} : (uint64_t{1} << blocks) - 1;
}

}  // namespace

uint64_t BytesOfBlocks(uint64_t object_size, uint32_t chunk, uint64_t mask) {
  if (mask == 0) return 0;
  const uint64_t last = BlockCount(object_size) - 1;
  const bool has_last = ChunkOf(last) == chunk && (mask & BitOf(last)) != 0;
  const uint64_t bytes = static_cast<uint64_t>(std::popcount(mask)) * kBlockBytes;
  return has_last ? bytes - kBlockBytes + BlockLength(object_size, last) : bytes;
}

uint64_t SpaceOfBlocks(uint64_t object_size, uint32_t chunk, uint64_t mask) {
  return RoundToFileBlocks(BytesOfBlocks(object_size, chunk, mask));
}

uint64_t SpaceOfExtents(uint64_t object_size) {
  constexpr uint64_t kNoMapBelow = 256 * kKiB;       // at most four extents, which fit the inode
  constexpr uint64_t kMappedByOneBlock = 16 * kMiB;  // even when each block is an extent of its own
  return object_size <= kNoMapBelow ? 0 : kFileBlockBytes * (1 + object_size / kMappedByOneBlock);
}

std::vector<BlockRun> RunsOf(uint64_t mask) {
  std::vector<BlockRun> runs;
  for (uint64_t bit = 0; bit < kBlocksPerChunk; ++bit) {
    if ((mask >> bit & 1) == 0) continue;
    if (!runs.empty() && runs.back().first + runs.back().count == bit) {
      ++runs.back().count;
    } else {
      runs.push_back({bit, 1});
    }
  }
  return runs;
}

ChunkBlocks& BlockMap::Chunk(uint32_t chunk) {
  ChunkBlocks& blocks = chunks_[chunk];
  if (blocks.sums.empty()) {
    blocks.sums.resize(std::min(kBlocksPerChunk, BlockCount(object_size_) - chunk * kBlocksPerChunk));
  }
  return blocks;
}

void BlockMap::Distrust() {
  for (auto& [chunk, blocks] : chunks_) {
    blocks.verified = 0;
    blocks.dirty = true;
  }
}

bool BlockMap::Has(uint64_t block, uint64_t ChunkBlocks::* which) const {
  const auto found = chunks_.find(ChunkOf(block));
  return found != chunks_.end() && (found->second.*which & BitOf(block)) != 0;
}

bool BlockMap::Matches(uint64_t block, uint64_t sum) const {
  const auto found = chunks_.find(ChunkOf(block));
  return found != chunks_.end() && found->second.sums[block % kBlocksPerChunk] == sum;
}

bool BlockMap::AllOf(uint64_t offset, uint64_t length, uint64_t ChunkBlocks::* which) const {
  if (length == 0) return true;
  for (uint64_t block = offset / kBlockBytes; block <= (offset + length - 1) / kBlockBytes; ++block) {
    if (!Has(block, which)) return false;
  }
  return true;
}

std::vector<ByteRange> BlockMap::Missing(uint64_t offset, uint64_t length) const {
  std::vector<ByteRange> missing;
  if (offset >= object_size_ || length == 0) return missing;
  const uint64_t last = (offset + std::min(length, object_size_ - offset) - 1) / kBlockBytes;
  for (uint64_t block = offset / kBlockBytes; block <= last; ++block) {
    if (Has(block, &ChunkBlocks::present)) continue;
    const uint64_t start = block * kBlockBytes;
    if (!missing.empty() && missing.back().offset + missing.back().length == start) {
      missing.back().length += BlockLength(object_size_, block);
    } else {
      missing.push_back({start, BlockLength(object_size_, block)});
    }
  }
  return missing;
}

bool BlockMap::Everything(uint64_t ChunkBlocks::* which) const {
  const uint64_t count = ChunkCount(object_size_);
  if (chunks_.size() != count) return false;
  return std::ranges::all_of(
      chunks_, [&](const auto& chunk) { return chunk.second.*which == FullMask(object_size_, chunk.first); });
}

}  // namespace mlcache::cache
