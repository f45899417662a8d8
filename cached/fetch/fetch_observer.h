// What the fetcher tells of the fetches made through a Source: how fast the store is, whether fetching ahead pays, and
// how long readers wait. Implementations are thread-safe and only count: some calls come with a lock held.
#pragma once

#include <cstdint>

#include "common/clock.h"

namespace mlcache::fetch {

class FetchObserver {
 public:
  virtual ~FetchObserver() = default;

  // A range came from the store: the first byte `first_byte` after it was asked for, the last one after `whole`.
  virtual void Fetched(uint64_t bytes, Nanos first_byte, Nanos whole) = 0;

  // Of what was fetched ahead for this source: a reader got it, or nobody will (it was evicted unread, or what it was
  // fetched for has been called off). Each byte is told of at most once.
  virtual void Used(uint64_t bytes) = 0;
  virtual void Wasted(uint64_t bytes) = 0;

  // A read waited so long because not all of it was cached.
  virtual void Stalled(Nanos waited) = 0;
};

}  // namespace mlcache::fetch
