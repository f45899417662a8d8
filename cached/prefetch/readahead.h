// Runs ahead of one open handle: sees its reads, and has the chunks that it will want next fetched in time.
//
// The window begins at two chunks, doubles each time the handle has consumed half of it, and collapses when the handle
// turns away. Owned by one thread at a time (thread-compatible); OnRead is cheap and never blocks.
#pragma once

#include <cstdint>
#include <memory>
#include <stop_token>
#include <string>

#include "cached/detect/pattern_detector.h"
#include "cached/fetch/fetcher.h"

namespace mlcache {
class Metrics;
}

namespace mlcache::prefetch {

struct ReadaheadOptions {
  uint64_t initial_chunks = 2;
  uint64_t max_chunks = 16;  // of one handle; the fetcher's own byte budget holds for all of them
};

class Readahead {
 public:
  // `source` is copied; `fetcher` and `metrics` are borrowed and must outlive this. `job` goes into what is fetched.
  Readahead(const fetch::Source& source, fetch::Fetcher& fetcher, Metrics& metrics, std::string job = {},
            const ReadaheadOptions& options = {});
  Readahead(const Readahead&) = delete;
  Readahead& operator=(const Readahead&) = delete;
  ~Readahead();  // calls off what is queued

  // A read of the handle, within the object. Call it with every read, hit or miss, right after (or before) passing the
  // read to Fetcher::Read.
  void OnRead(uint64_t offset, uint64_t length);

  // What the handle does, for Source::pattern: "sequential", "strided", "reverse", "random" or "unknown".
  const char* pattern_name() const { return detect::PatternName(pattern_).data(); }
  detect::Pattern pattern() const { return pattern_; }

 private:
  void RunForward(uint64_t read_end);
  void RunBackward(uint64_t read_begin);
  void RunByStride(uint64_t offset, uint64_t length, int64_t stride);
  void Fetch(uint64_t begin, uint64_t end);
  void Collapse();

  const fetch::Source source_;
  fetch::Fetcher& fetcher_;
  Metrics& metrics_;
  const std::string job_;
  const ReadaheadOptions options_;
  const std::unique_ptr<detect::PatternDetector> detector_;

  detect::Pattern pattern_ = detect::Pattern::kUnknown;
  int64_t stride_ = 0;
  std::stop_source stop_;
  uint64_t window_chunks_ = 0;  // 0: not running ahead
  uint64_t issued_until_ = 0;   // asked for so far: up to here, in the direction of the run
};

}  // namespace mlcache::prefetch
