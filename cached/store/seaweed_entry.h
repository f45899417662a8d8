// What a SeaweedFS filer says of a file, as the seam says it. Pure functions.
#pragma once

#include <memory>
#include <optional>

#include "cached/store/object_store.h"
#include "cached/store/seaweed_chunks.h"
#include "common/status.h"

namespace filer_pb {
class Entry;
}

namespace mlcache::store {

struct SeaweedEntry {
  ObjectInfo info;                              // without a layout
  std::shared_ptr<const SeaweedLayout> layout;  // of regular files
};

// Nothing for what is neither file, directory nor link (sockets, pipes, devices). kDataLoss for an unsound chunk.
//
// The version is a hash of the chunk list, the inline content, mtime and size. SeaweedFS never writes to a chunk
// again, so another version has other chunks, and what a list of chunks stands for never changes.
Result<std::optional<SeaweedEntry>> ParseSeaweedEntry(const filer_pb::Entry& entry);

}  // namespace mlcache::store
