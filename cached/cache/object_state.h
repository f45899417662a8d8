// What is known and kept of one object: the row that survives a restart, and the heart of its entry in memory. A value.
#pragma once

#include <cstdint>

#include "cached/cache/object_cache.h"

namespace mlcache::cache {

// What a file was when its blocks were last known to be good: as long as none of this changes, nobody has written to
// it since.
struct FileIdentity {
  uint64_t inode = 0;
  int64_t ctime_ns = 0;
  bool operator==(const FileIdentity&) const = default;
};

struct ObjectState {
  uint64_t fingerprint = 0;
  uint64_t size = 0;
  uint64_t cached_bytes = 0;   // present blocks
  uint64_t charged_bytes = 0;  // of the tier's budget
  uint64_t boot = 0;           // hash of the boot id under which `identity` was recorded
  FileIdentity identity;
  uint32_t epoch = 0;  // of trust: verified bits recorded under another epoch count for nothing
  ObjectClass object_class = ObjectClass::kUnknown;
  bool complete = false;
  bool all_verified = false;  // every block is, under `epoch`
};

}  // namespace mlcache::cache
