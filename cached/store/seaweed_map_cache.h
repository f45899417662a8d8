// Where the bytes of the files that were read last are, so that lists of chunks are not fetched for every read.
#pragma once

#include <cstddef>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "cached/store/seaweed_chunks.h"

namespace mlcache::store {

// A version's, with its manifests resolved.
struct SeaweedMap {
  std::shared_ptr<const SeaweedLayout> layout;
  std::vector<SeaweedChunk> chunks;
  std::vector<ChunkView> views;
};

class SeaweedMapCache {  // thread-safe
 public:
  using MapPtr = std::shared_ptr<const SeaweedMap>;

  // Keeps maps of `max_cost` together, but always the one that was used last. A map costs a unit for itself, one for
  // each chunk (about 80 bytes) and one for each 80 bytes of content.
  explicit SeaweedMapCache(size_t max_cost) : max_cost_(max_cost) {}

  // Null if it is not there.
  MapPtr Find(const std::string& key);
  // The map that the key has from now on: the one it has already, where two made it at once.
  MapPtr Insert(const std::string& key, MapPtr map);

  size_t cost() const;

 private:
  using Order = std::list<std::pair<std::string, MapPtr>>;

  const size_t max_cost_;
  mutable std::mutex mutex_;  // a leaf; guards all below
  Order order_;               // the front was used last
  std::unordered_map<std::string, Order::iterator> places_;
  size_t cost_ = 0;
};

}  // namespace mlcache::store
