// Runs ahead of one open handle: sees its reads, and has the chunks that it will want next fetched in time.
//
// The window begins at one or two chunks, doubles while the handle consumes it, and collapses when the handle turns
// away. Owned by one thread at a time (thread-compatible); OnRead is cheap and never blocks.
#pragma once

#include <cstdint>
#include <memory>
#include <stop_token>
#include <string>

#include "cached/detect/pattern_detector.h"
#include "cached/fetch/fetcher.h"
#include "common/clock.h"

namespace mlcache {
class Metrics;
}

namespace mlcache::prefetch {

struct ReadaheadOptions {
  uint64_t initial_chunks = 2;
  uint64_t max_chunks = 16;  // of one handle, whatever the fetcher's budget
};

class Readahead {
 public:
  // `source` is copied; `fetcher` and `metrics` are borrowed and must outlive this. `job` goes into what is fetched.
  Readahead(const fetch::Source& source, fetch::Fetcher& fetcher, Metrics& metrics, std::string job = {},
            const ReadaheadOptions& options = {});
  Readahead(const Readahead&) = delete;
  Readahead& operator=(const Readahead&) = delete;
  ~Readahead();  // calls off what is queued

  // A read of the handle is about to be served. Call it before Fetcher::Read, with every read, hit or miss.
  void OnRead(uint64_t offset, uint64_t length);

  // What the handle does, for Source::pattern: "sequential", "strided", "reverse", "random" or "unknown".
  detect::Pattern pattern() const;
  const char* pattern_name() const;

 private:
  void RunAhead(uint64_t begin, uint64_t end);
  void Collapse();

  const fetch::Source source_;
  fetch::Fetcher& fetcher_;
  Metrics& metrics_;
  const std::string job_;
  const ReadaheadOptions options_;

  std::unique_ptr<detect::PatternDetector> detector_;
  std::stop_source stop_;
  uint64_t window_chunks_ = 0;  // 0: not running ahead
  uint64_t issued_begin_ = 0;   // bytes asked for so far: [issued_begin_, issued_end_)
  uint64_t issued_end_ = 0;
};

}  // namespace mlcache::prefetch
