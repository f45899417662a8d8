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
  std::string authority;                       // bucket, or "host:port[,host:port…]" of filers; empty for file
  std::string path;                            // decoded, no leading or trailing slash; the prefix within the store
  std::map<std::string, std::string> options;  // of the query, decoded

  // What names the namespace that `path` lies in, without credentials: "file://", "s3://bucket@endpoint". Objects are
  // cached under (Identity, path below it), so mounts of different prefixes share them.
  std::string Identity() const;

  // The URL in one spelling: what `status` and metrics show.
  std::string Canonical() const;
};

// kInvalidArgument names the URL, what is wrong with it, and the accepted forms (an unknown scheme lists the known
// ones; user:password@ is refused and names where credentials belong).
Result<StoreUrl> ParseStoreUrl(std::string_view url);

}  // namespace mlcache::store
