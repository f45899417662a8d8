#include "cached/store/checksum.h"

#include <openssl/evp.h>

#include <array>
#include <bit>
#include <cstring>
#include <type_traits>

#ifdef __x86_64__
#include <nmmintrin.h>
#endif

namespace mlcache::store {
namespace {

// Eight tables, so that eight bytes are taken at a step ("slicing by eight", Intel, 2006): Boost's CRC takes one, which
// is too slow for bytes that come from a network. Reflected polynomials, initial value and final complement all ones.
template <typename T>
using Tables = std::array<std::array<T, 256>, 8>;

template <typename T>
constexpr Tables<T> MakeTables(T polynomial) {
  Tables<T> tables{};
  for (size_t byte = 0; byte < 256; ++byte) {
    T value = byte;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) != 0 ? polynomial : 0);
    tables[0][byte] = value;
  }
  for (size_t table = 1; table < 8; ++table) {
    for (size_t byte = 0; byte < 256; ++byte) {
      const T before = tables[table - 1][byte];
      tables[table][byte] = (before >> 8) ^ tables[0][before & 0xff];
    }
  }
  return tables;
}

template <typename T>
T Crc(const Tables<T>& tables, std::span<const std::byte> bytes, T crc) {
  static_assert(std::endian::native == std::endian::little);
  crc = ~crc;
  for (; bytes.size() >= 8; bytes = bytes.subspan(8)) {
    uint64_t word = 0;
    std::memcpy(&word, bytes.data(), sizeof(word));
    word ^= crc;
    crc = 0;
    for (size_t i = 0; i < 8; ++i) crc ^= tables[7 - i][word >> (8 * i) & 0xff];
  }
  for (const std::byte byte : bytes) crc = (crc >> 8) ^ tables[0][(crc ^ static_cast<T>(byte)) & 0xff];
  return ~crc;
}

#ifdef __x86_64__
__attribute__((target("sse4.2"))) uint32_t CrcByInstruction(std::span<const std::byte> bytes, uint32_t crc) {
  uint64_t wide = crc;
  while (bytes.size() >= sizeof(uint64_t)) {
    uint64_t word = 0;
    std::memcpy(&word, bytes.data(), sizeof(word));
    wide = _mm_crc32_u64(wide, word);
    bytes = bytes.subspan(sizeof(word));
  }
  crc = static_cast<uint32_t>(wide);
  for (const std::byte byte : bytes) crc = _mm_crc32_u8(crc, static_cast<unsigned char>(byte));
  return crc;
}
#endif

constexpr Tables<uint32_t> kCrc32 = MakeTables<uint32_t>(0xEDB88320U);
constexpr Tables<uint32_t> kCrc32c = MakeTables<uint32_t>(0x82F63B78U);
constexpr Tables<uint64_t> kCrc64Nvme = MakeTables<uint64_t>(0x9A6C9329AC4BC9B5ULL);

struct KindInfo {
  const char* header;
  ExpectedChecksum::Kind kind;
  size_t bytes;
};

// The cheapest first.
constexpr std::array<KindInfo, 5> kKinds = {{
    {"x-amz-checksum-crc32c", ExpectedChecksum::Kind::kCrc32c, 4},
    {"x-amz-checksum-crc64nvme", ExpectedChecksum::Kind::kCrc64Nvme, 8},
    {"x-amz-checksum-crc32", ExpectedChecksum::Kind::kCrc32, 4},
    {"x-amz-checksum-sha256", ExpectedChecksum::Kind::kSha256, 32},
    {"x-amz-checksum-sha1", ExpectedChecksum::Kind::kSha1, 20},
}};

std::optional<std::string> DecodeBase64(std::string_view text) {
  if (text.empty() || text.size() % 4 != 0 || text.size() > 128) return {};
  std::string bytes(text.size() / 4 * 3, '\0');
  const int size = EVP_DecodeBlock(reinterpret_cast<unsigned char*>(bytes.data()),
                                   reinterpret_cast<const unsigned char*>(text.data()), static_cast<int>(text.size()));
  if (size < 0) return {};
  const size_t padding = text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0;
  bytes.resize(static_cast<size_t>(size) - padding);
  return bytes;
}

template <typename T>
std::string BigEndian(T value) {
  std::string bytes(sizeof(T), '\0');
  for (size_t i = 0; i < sizeof(T); ++i) bytes[sizeof(T) - 1 - i] = static_cast<char>(value >> (8 * i) & 0xff);
  return bytes;
}

std::string Digest(const EVP_MD* kind, std::span<const std::byte> bytes) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int size = digest.size();
  if (EVP_Digest(bytes.data(), bytes.size(), digest.data(), &size, kind, nullptr) != 1) return "";
  return {reinterpret_cast<const char*>(digest.data()), size};
}

}  // namespace

uint32_t Crc32(std::span<const std::byte> bytes, uint32_t crc) { return Crc(kCrc32, bytes, crc); }
uint32_t Crc32c(std::span<const std::byte> bytes, uint32_t crc) {
#ifdef __x86_64__
  if (__builtin_cpu_supports("sse4.2")) return ~CrcByInstruction(bytes, ~crc);
#endif
  return Crc(kCrc32c, bytes, crc);
}
uint64_t Crc64Nvme(std::span<const std::byte> bytes, uint64_t crc) { return Crc(kCrc64Nvme, bytes, crc); }

bool ExpectedChecksum::Matches(std::span<const std::byte> bytes) const {
  switch (kind) {
    case Kind::kCrc32c:
      return value == BigEndian(Crc32c(bytes));
    case Kind::kCrc64Nvme:
      return value == BigEndian(Crc64Nvme(bytes));
    case Kind::kCrc32:
      return value == BigEndian(Crc32(bytes));
    case Kind::kSha256:
      return value == Digest(EVP_sha256(), bytes);
    case Kind::kSha1:
      return value == Digest(EVP_sha1(), bytes);
  }
  return false;
}

std::optional<ExpectedChecksum> ChecksumOf(const std::map<std::string, std::string>& headers) {
  if (const auto type = headers.find("x-amz-checksum-type"); type != headers.end() && type->second == "COMPOSITE") {
    return {};
  }
  for (const KindInfo& kind : kKinds) {
    const auto found = headers.find(kind.header);
    if (found == headers.end()) continue;
    std::optional<std::string> value = DecodeBase64(found->second);
    if (value && value->size() == kind.bytes) return ExpectedChecksum{.kind = kind.kind, .value = *std::move(value)};
  }
  return {};
}

}  // namespace mlcache::store
