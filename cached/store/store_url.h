// Store URLs, taken apart: file:///dir, s3://bucket/prefix?endpoint=…&region=…, seaweedfs://filer:8888/path. Pure
// functions.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "common/status.h"

namespace mlcache::store {

struct StoreUrl {
  std::string scheme;                          // "file", "s3", "seaweedfs"
  std::string authority;                       // bucket or host:port; empty for file
  std::string path;                            // decoded, no leading or trailing slash; the prefix within the store
  std::map<std::string, std::string> options;  // of the query, decoded
  std::string credential;                      // the daemon's profile that a mount asked for; no part of the text

  // What names the namespace that `path` lies in, and by whose rights it is seen: "file://", "s3://bucket@endpoint",
  // "s3://bucket@endpoint#team-a" for credential profile team-a. Objects are cached under (Identity, path below it), so
  // mounts of different prefixes share them, and mounts of different rights do not.
  std::string Identity() const;

  // The URL in one spelling: what `status` and metrics show.
  std::string Canonical() const;
};

// kInvalidArgument names the URL, what is wrong with it, and the accepted forms (an unknown scheme lists the known
// ones; user:password@ is refused and names where credentials belong).
Result<StoreUrl> ParseStoreUrl(std::string_view url);

}  // namespace mlcache::store
