// How a secured SeaweedFS cluster wants to be spoken to: what its own programs read from security.toml.
#pragma once

#include <string>

#include "common/clock.h"
#include "common/status.h"

namespace mlcache::store {

// Paths of PEM files; empty where not set.
struct TlsFiles {
  std::string ca;
  std::string certificate;
  std::string key;
};

// A key that signs the tokens of requests; no tokens are sent without one.
struct TokenKey {
  std::string secret;
  Nanos lifetime = std::chrono::seconds(10);
};

struct SeaweedSecurity {
  TlsFiles grpc;         // [grpc] ca, [grpc.client] cert and key; mutual TLS when all three are set, else plain
  bool https = false;    // [https.client] enabled: filers and volume servers by https
  TlsFiles https_files;  // [https.client] ca, cert, key
  TokenKey volume_read;  // [jwt.signing.read]
  TokenKey filer_read;   // [jwt.filer_signing.read]
};

// Reads `path` (TOML; empty: the systemd credential "seaweedfs", if there is one), then the environment, which wins, by
// SeaweedFS's names: WEED_JWT_SIGNING_READ_KEY for jwt.signing.read.key. Relative paths of PEM files are relative to
// the file. kInvalidArgument, kNotFound or kPermissionDenied name the file and what to mend; secrets are in no message.
Result<SeaweedSecurity> LoadSeaweedSecurity(const std::string& path);

// A JSON web token (RFC 7519, HS256) for a read of chunk `file_id`, or for the filer if it is empty.
std::string MakeToken(const TokenKey& key, const std::string& file_id, Nanos wall_now);

}  // namespace mlcache::store
