// Hashes that tie a block's bytes to what they are: the key with its version, and the place in the object. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "cached/cache/object_cache.h"

namespace mlcache::cache {

// 64 bits of the key, independent of IdOf(key): equal ids with unequal fingerprints are a collision.
uint64_t FingerprintOf(const ObjectKey& key);

// The checksum of the block at `offset`. Seeded with the fingerprint, offset and length, so that a block never passes
// as a block of another object, version or place.
uint64_t BlockSum(uint64_t fingerprint, uint64_t offset, std::span<const std::byte> bytes);

}  // namespace mlcache::cache
