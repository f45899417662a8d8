// XXH3 hashes (xxHash 0.8, https://xxhash.com): fast, not cryptographic; stable across hosts and versions. Pure.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace mlcache {

uint64_t Hash64(std::span<const std::byte> bytes, uint64_t seed = 0);
uint64_t Hash64(std::string_view text, uint64_t seed = 0);

// 16 bytes, big-endian canonical form.
using Hash128Bytes = std::array<std::byte, 16>;
Hash128Bytes Hash128(std::string_view text);

// Lower-case hexadecimal.
std::string ToHex(std::span<const std::byte> bytes);

}  // namespace mlcache
