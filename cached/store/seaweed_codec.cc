#include "cached/store/seaweed_codec.h"

#include <openssl/evp.h>
#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <memory>

namespace mlcache::store {
namespace {

constexpr size_t kNonceBytes = 12;
constexpr size_t kTagBytes = 16;
constexpr size_t kKeyBytes = 32;
constexpr int kGzipOnly = 16 + MAX_WBITS;  // zlib's way to say so
constexpr size_t kStep = 256 << 10;

const unsigned char* Unsigned(std::string_view text) { return reinterpret_cast<const unsigned char*>(text.data()); }

}  // namespace

Result<std::string> DecryptBlob(std::string_view blob, std::string_view key) {
  if (key.size() != kKeyBytes) {
    return Fail(Code::kDataLoss, "the chunk's key has " + std::to_string(key.size()) + " bytes instead of 32");
  }
  if (blob.size() < kNonceBytes + kTagBytes) return Fail(Code::kDataLoss, "the encrypted chunk is too short");
  const std::string_view nonce = blob.substr(0, kNonceBytes);
  std::string tag(blob.substr(blob.size() - kTagBytes));
  blob = blob.substr(kNonceBytes, blob.size() - kNonceBytes - kTagBytes);
  const std::unique_ptr<EVP_CIPHER_CTX, decltype(&EVP_CIPHER_CTX_free)> context(EVP_CIPHER_CTX_new(),
                                                                                &EVP_CIPHER_CTX_free);
  std::string plain(blob.size(), '\0');
  int length = 0;
  int rest = 0;
  const bool sound =
      context != nullptr && blob.size() <= INT32_MAX &&
      EVP_DecryptInit_ex(context.get(), EVP_aes_256_gcm(), nullptr, Unsigned(key), Unsigned(nonce)) == 1 &&
      EVP_DecryptUpdate(context.get(), reinterpret_cast<unsigned char*>(plain.data()), &length, Unsigned(blob),
                        static_cast<int>(blob.size())) == 1 &&
      EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_GCM_SET_TAG, static_cast<int>(kTagBytes), tag.data()) == 1 &&
      EVP_DecryptFinal_ex(context.get(), reinterpret_cast<unsigned char*>(plain.data()) + length, &rest) == 1;
  if (!sound) return Fail(Code::kDataLoss, "the encrypted chunk does not match its tag");
  return plain;
}

Result<std::string> DecompressBlob(std::string_view blob, uint64_t limit) {
  z_stream stream{};
  if (blob.size() > UINT32_MAX || inflateInit2(&stream, kGzipOnly) != Z_OK) {
    return Fail(Code::kDataLoss, "the compressed chunk cannot be unpacked");
  }
  const std::unique_ptr<z_stream, decltype(&inflateEnd)> end(&stream, &inflateEnd);
  stream.next_in = const_cast<unsigned char*>(Unsigned(blob));  // zlib's old signature; it does not write there
  stream.avail_in = static_cast<uInt>(blob.size());
  std::string plain;
  for (int code = Z_OK; code != Z_STREAM_END;) {
    const size_t had = plain.size();
    plain.resize(had + kStep);
    stream.next_out = reinterpret_cast<unsigned char*>(plain.data()) + had;
    stream.avail_out = kStep;
    code = inflate(&stream, Z_NO_FLUSH);
    plain.resize(had + kStep - stream.avail_out);
    if ((code != Z_OK && code != Z_STREAM_END) || plain.size() > limit) {
      return Fail(Code::kDataLoss, "the compressed chunk is not a sound gzip stream of its size");
    }
  }
  return plain;
}

}  // namespace mlcache::store
