// The checksums that S3 keeps of an object and sends along, checked against the bytes that came.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace mlcache::store {

// Each over all the bytes so far; begin with 0. CRC-32 as zlib's, CRC-32C (Castagnoli; by the
// processor's instruction where it has one), CRC-64/NVME.
uint32_t Crc32(std::span<const std::byte> bytes, uint32_t crc = 0);
uint32_t Crc32c(std::span<const std::byte> bytes, uint32_t crc = 0);
uint64_t Crc64Nvme(std::span<const std::byte> bytes, uint64_t crc = 0);

struct ExpectedChecksum {
  enum class Kind : uint8_t { kCrc32c, kCrc64Nvme, kCrc32, kSha256, kSha1 };
  Kind kind;
  std::string value;  // as many bytes as the kind has

  // Whether `bytes` have it.
  bool Matches(std::span<const std::byte> bytes) const;
};

// The cheapest of the checksums in `headers` ("x-amz-checksum-crc32c", …; names in lower case) that holds for the
// reply's own bytes. Nothing where the server sends none, or one that is composed of its parts' ("…-7").
std::optional<ExpectedChecksum> ChecksumOf(const std::map<std::string, std::string>& headers);

}  // namespace mlcache::store
