// Two speeds that readahead is steered by, each from what was seen lately: the store's and a reader's. Pure;
// thread-compatible.
#pragma once

#include <cstdint>
#include <optional>

#include "common/clock.h"

namespace mlcache::prefetch {

// How long a chunk takes from when it is asked for until it is there: the time to the first byte (an average that
// fades), and the time from there on. The latter grows with the number of fetches that share the way, which must not
// make them more: it follows its low values quickly and its high ones slowly.
class StoreSpeed {
 public:
  void Add(uint64_t bytes, Nanos first_byte, Nanos whole);

  // Nothing while nothing was seen.
  std::optional<double> ChunkSeconds() const;

 private:
  bool seen_ = false;
  double first_byte_seconds_ = 0;
  double seconds_per_byte_ = 0;  // 0: no read yet that was long enough to tell
};

// Bytes a second of one reader. A pause, whether it waits for us or has something else to do, counts as kLongestPause
// at most: when it reads on, it does so as fast as before.
class ReaderSpeed {
 public:
  static constexpr Nanos kLongestPause = std::chrono::milliseconds(50);

  void Add(uint64_t bytes, Nanos now);

  // Nothing while nothing can be said.
  std::optional<double> BytesPerSecond() const;

 private:
  std::optional<Nanos> last_;
  double bytes_ = 0;
  double seconds_ = 0;
};

}  // namespace mlcache::prefetch
