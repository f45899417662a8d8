// Arithmetic of byte ranges. A list of them is disjoint and ascending. Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "cached/cache/object_cache.h"

namespace mlcache::fetch {

inline uint64_t EndOf(const cache::ByteRange& range) { return range.offset + range.length; }

// The smallest range that holds both.
cache::ByteRange Union(const cache::ByteRange& a, const cache::ByteRange& b);

bool Covers(const cache::ByteRange& outer, uint64_t begin, uint64_t end);

// What is in both lists.
std::vector<cache::ByteRange> Intersection(const std::vector<cache::ByteRange>& a,
                                           const std::vector<cache::ByteRange>& b);

// What a flight of `ranges` must have reached before [begin, end) is whole: the end of the last fetched byte in it, or
// 0.
uint64_t ReadyAt(const std::vector<cache::ByteRange>& ranges, uint64_t begin, uint64_t end);

}  // namespace mlcache::fetch
