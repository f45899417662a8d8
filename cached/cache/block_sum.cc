#include "cached/cache/block_sum.h"

#include <array>
#include <string>

namespace mlcache::cache {
namespace {

// Each part preceded by its length, so that no two keys give one text.
std::string KeyText(const ObjectKey& key) {
  std::string text;
  text.reserve(key.store.size() + key.path.size() + key.version.size() + 64);
  for (const std::string* part : {&key.store, &key.path, &key.version}) {
    text += std::to_string(part->size());
    text += ':';
    text += *part;
  }
  text += std::to_string(key.size);
  return text;
}

constexpr uint64_t kFingerprintSeed = 0x6d6c6361636865ULL;

}  // namespace

ObjectId IdOf(const ObjectKey& key) { return Hash128(KeyText(key)); }

uint64_t FingerprintOf(const ObjectKey& key) { return Hash64(KeyText(key), kFingerprintSeed); }

uint64_t BlockSum(uint64_t fingerprint, uint64_t offset, std::span<const std::byte> bytes) {
  const std::array<uint64_t, 3> place = {fingerprint, offset, bytes.size()};
  return Hash64(bytes, Hash64(std::as_bytes(std::span(place))));
}

}  // namespace mlcache::cache
