// How SeaweedFS stores the bytes of a chunk: compressed, encrypted. Pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/status.h"

namespace mlcache::store {

// AES-256-GCM as Go's crypto/cipher lays it out: 12 bytes of nonce, ciphertext, 16 bytes of tag. kDataLoss when the
// tag does not match.
Result<std::string> DecryptBlob(std::string_view blob, std::string_view key);

// Gunzips. kDataLoss for what is no whole gzip stream, or one of more than `limit` bytes.
Result<std::string> DecompressBlob(std::string_view blob, uint64_t limit);

}  // namespace mlcache::store
