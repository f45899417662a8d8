#include "cached/fetch/ranges.h"

#include <algorithm>

namespace mlcache::fetch {

cache::ByteRange Union(const cache::ByteRange& a, const cache::ByteRange& b) {
  const uint64_t begin = std::min(a.offset, b.offset);
  return {begin, std::max(EndOf(a), EndOf(b)) - begin};
}

bool Covers(const cache::ByteRange& outer, uint64_t begin, uint64_t end) {
  return begin >= outer.offset && end <= EndOf(outer);
}

uint64_t ReadyAt(const std::vector<cache::ByteRange>& ranges, uint64_t begin, uint64_t end) {
  for (auto range = ranges.rbegin(); range != ranges.rend(); ++range) {
    if (range->offset < end && EndOf(*range) > begin) return std::min(end, EndOf(*range));
  }
  return 0;
}

std::vector<cache::ByteRange> Intersection(const std::vector<cache::ByteRange>& a,
                                           const std::vector<cache::ByteRange>& b) {
  std::vector<cache::ByteRange> both;
  for (const cache::ByteRange& x : a) {
    for (const cache::ByteRange& y : b) {
      const uint64_t begin = std::max(x.offset, y.offset);
      const uint64_t end = std::min(EndOf(x), EndOf(y));
      if (begin < end) both.push_back({begin, end - begin});
    }
  }
  return both;
}

}  // namespace mlcache::fetch
