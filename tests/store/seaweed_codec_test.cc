// Checksums, encryption, compression, tokens and security.toml, against values of others.
#include "cached/store/seaweed_codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <numeric>

#include "cached/store/checksum.h"
#include "cached/store/seaweed_security.h"
#include "tests/store/backend.h"

namespace mlcache::store {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::span<const std::byte> Bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

std::string FromHex(std::string_view hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16));
  }
  return bytes;
}

// RFC 3720, B.4.
TEST(Crc32c, AgreesWithTheStandard) {
  EXPECT_EQ(Crc32c(Bytes("123456789")), 0xE3069283U);
  EXPECT_EQ(Crc32c(Bytes(std::string(32, '\0'))), 0x8A9136AAU);
  EXPECT_EQ(Crc32c(Bytes(std::string(32, '\xff'))), 0x62A8AB43U);
  std::string rising(32, '\0');
  std::iota(rising.begin(), rising.end(), '\0');
  EXPECT_EQ(Crc32c(Bytes(rising)), 0x46DD794EU);
  EXPECT_EQ(Crc32c({}), 0U);
  for (size_t cut = 0; cut <= rising.size(); ++cut) {
    EXPECT_EQ(Crc32c(Bytes(rising.substr(cut)), Crc32c(Bytes(rising.substr(0, cut)))), 0x46DD794EU) << cut;
  }
}

// Test case 16 of the GCM specification, without its additional data: case 15.
TEST(DecryptBlob, AgreesWithTheStandardAndRefusesAnyChange) {
  const std::string key = FromHex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308");
  const std::string plain = FromHex(
      "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657"
      "ba637b391aafd255");
  const std::string blob = FromHex(
      "cafebabefacedbaddecaf888"
      "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0a"
      "bcc9f662898015ad"
      "b094dac5d93471bdec1a502270e3cc6c");
  const Result<std::string> decrypted = DecryptBlob(blob, key);
  ASSERT_TRUE(decrypted) << decrypted.error();
  EXPECT_EQ(*decrypted, plain);
  for (size_t i = 0; i < blob.size(); ++i) {
    std::string changed = blob;
    changed[i] = static_cast<char>(changed[i] ^ 1);
    ASSERT_FALSE(DecryptBlob(changed, key)) << i;
    EXPECT_FALSE(DecryptBlob(blob.substr(0, i), key)) << i;
  }
  EXPECT_THAT(DecryptBlob(blob, "short").error().message(), HasSubstr("has 5 bytes instead of 32"));
}

TEST(DecompressBlob, TakesWholeGzipStreamsOfTheRightSize) {
  // printf 'hello hello hello' | gzip -n
  const std::string packed = FromHex("1f8b0800000000000003cb48cdc9c957c84090008088f9e511000000");
  const Result<std::string> plain = DecompressBlob(packed, 17);
  ASSERT_TRUE(plain) << plain.error();
  EXPECT_EQ(*plain, "hello hello hello");
  EXPECT_EQ(DecompressBlob(packed, 16).error().code(), Code::kDataLoss);
  EXPECT_FALSE(DecompressBlob(packed.substr(0, packed.size() - 1), 17));
  EXPECT_FALSE(DecompressBlob("plain text", 17));
  EXPECT_FALSE(DecompressBlob("", 17));
}

// Made by github.com/golang-jwt/jwt/v5 would be {"fid":…,"exp":…}; the order of claims is free, the signature is not.
TEST(MakeToken, IsASignedJsonWebToken) {
  const TokenKey key{.secret = "your-256-bit-secret"};
  const std::string token = MakeToken(key, "3,01637037d6", std::chrono::seconds(1'700'000'000));
  // printf '%s' HEADER.CLAIMS | openssl dgst -sha256 -hmac your-256-bit-secret -binary | basenc --base64url
  EXPECT_EQ(token.substr(0, token.rfind('.')),
            "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJleHAiOjE3MDAwMDAwMTAsImZpZCI6IjMsMDE2MzcwMzdkNiJ9");
  EXPECT_EQ(token.substr(token.rfind('.') + 1), "Go_zOjqcpQ6TYspQl1JaQrFBawG_seWdpENx95q8wf4");
}

class SecurityFile : public ::testing::Test {
 protected:
  std::string Write(const std::string& name, const std::string& text) {
    const std::string path = directory_.Path() + "/" + name;
    std::ofstream(path) << text;
    return path;
  }
  void TearDown() override {
    for (const char* name : {"WEED_JWT_SIGNING_READ_KEY", "CREDENTIALS_DIRECTORY"}) unsetenv(name);
  }
  TempDir directory_;
};

TEST_F(SecurityFile, IsSeaweedFSsOwn) {
  Write("ca.pem", "x");
  Write("client.crt", "x");
  Write("client.key", "x");
  const std::string path = Write("security.toml", R"(
[jwt.signing.read]
key = "volume secret"
expires_after_seconds = 30
[jwt.filer_signing.read]
key = "filer secret"
[grpc]
ca = "ca.pem"
[grpc.client]
cert = "client.crt"
key = "client.key"
[https.client]
enabled = true
ca = ")" + directory_.Path() + R"(/ca.pem"
[unrelated]
list = [1, 2]
)");
  const Result<SeaweedSecurity> security = LoadSeaweedSecurity(path);
  ASSERT_TRUE(security) << security.error();
  EXPECT_EQ(security->volume_read.secret, "volume secret");
  EXPECT_EQ(security->volume_read.lifetime, std::chrono::seconds(30));
  EXPECT_EQ(security->filer_read.secret, "filer secret");
  EXPECT_EQ(security->filer_read.lifetime, std::chrono::seconds(10));
  EXPECT_EQ(security->grpc.ca, directory_.Path() + "/ca.pem");
  EXPECT_EQ(security->grpc.key, directory_.Path() + "/client.key");
  EXPECT_TRUE(security->https);
  EXPECT_EQ(security->https_files.ca, directory_.Path() + "/ca.pem");

  setenv("WEED_JWT_SIGNING_READ_KEY", "from the environment", 1);
  EXPECT_EQ(LoadSeaweedSecurity(path)->volume_read.secret, "from the environment");
  EXPECT_EQ(LoadSeaweedSecurity("")->volume_read.secret, "from the environment");
}

TEST_F(SecurityFile, MayBeACredentialOfTheUnit) {
  EXPECT_EQ(LoadSeaweedSecurity("")->volume_read.secret, "");
  setenv("CREDENTIALS_DIRECTORY", directory_.Path().c_str(), 1);
  EXPECT_EQ(LoadSeaweedSecurity("")->volume_read.secret, "");
  Write("seaweedfs", "[jwt.signing.read]\nkey = \"of the unit\"\n");
  EXPECT_EQ(LoadSeaweedSecurity("")->volume_read.secret, "of the unit");
  EXPECT_EQ(LoadSeaweedSecurity(Write("named", ""))->volume_read.secret, "");
}

TEST_F(SecurityFile, WhatIsWrongWithItIsSaidWithoutSecrets) {
  const auto message = [&](const std::string& text) {
    const Result<SeaweedSecurity> security = LoadSeaweedSecurity(Write("security.toml", text));
    return security ? "" : security.error().message();
  };
  EXPECT_THAT(LoadSeaweedSecurity("/no/such/file").error().message(), HasSubstr("/no/such/file"));
  EXPECT_THAT(message("[jwt.signing.read]\nkey = \"hush\nx"), HasSubstr("line 2"));
  EXPECT_THAT(message("[jwt.signing.read]\nkey = \"hush\"\nexpires_after_seconds = -1"),
              ::testing::AllOf(HasSubstr("expires_after_seconds"), Not(HasSubstr("hush"))));
  EXPECT_THAT(message("[grpc.client]\ncert = \"/dev/null\""), HasSubstr("cert and key belong together"));
  EXPECT_THAT(message("[grpc.client]\ncert = \"/dev/null\"\nkey = \"/dev/null\""), HasSubstr("ca is missing"));
  EXPECT_THAT(message("[grpc]\nca = \"gone.pem\""), HasSubstr("gone.pem"));
}

}  // namespace
}  // namespace mlcache::store
