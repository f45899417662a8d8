// Runs ahead of one open handle: sees its reads, and has the chunks that it will want next fetched in time.
//
// A run begins with two reads that follow each other. Its window begins at two chunks, grows by one with each chunk
// consumed up to what the mount's pacer finds enough, shrinks when the pacer finds less enough, and collapses when the
// handle turns away: what was asked for and has not begun is then called off. Owned by one thread at a time
// (thread-compatible); OnRead is cheap and never blocks.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>

#include "cached/detect/pattern_detector.h"
#include "cached/fetch/fetcher.h"
#include "cached/prefetch/pacer.h"
#include "cached/prefetch/speed.h"

namespace mlcache {
class Metrics;
}

namespace mlcache::prefetch {

class Readahead {
 public:
  static constexpr uint64_t kFirstWindow = 2;

  // `source` is copied; `metrics` is borrowed and must outlive this. `job` goes into what is fetched.
  Readahead(const fetch::Source& source, std::shared_ptr<Pacer> pacer, Metrics& metrics, std::string job = {});
  Readahead(const Readahead&) = delete;
  Readahead& operator=(const Readahead&) = delete;
  ~Readahead();  // calls off what is queued

  // A read of the handle, within the object. Call it with every read, hit or miss, right after (or before) passing the
  // read to Fetcher::Read. Without effect where the pacer does not optimize: the pattern then stays unknown.
  void OnRead(uint64_t offset, uint64_t length);

  // What the handle does, for Source::pattern: "sequential", "strided", "reverse", "random" or "unknown".
  const char* pattern_name() const { return detect::PatternName(pattern_).data(); }
  detect::Pattern pattern() const { return pattern_; }

 private:
  struct Read {
    uint64_t begin = 0;
    uint64_t end = 0;
  };

  static bool Near(const Read& read, const Read& previous);
  bool TurnsAway(const Read& read, bool backward) const;
  void RunForward(uint64_t read_end);
  void RunBackward(uint64_t read_begin);
  void RunByStride(const Read& read);
  uint64_t Widen(uint64_t bytes_of_fetch);
  bool Fetch(uint64_t begin, uint64_t end);
  void Collapse();

  const fetch::Source source_;
  const std::shared_ptr<Pacer> pacer_;
  Metrics& metrics_;
  const std::string job_;
  const std::unique_ptr<detect::PatternDetector> detector_;

  detect::Pattern pattern_ = detect::Pattern::kUnknown;
  int64_t stride_ = 0;
  ReaderSpeed speed_;
  Read last_;
  std::stop_source stop_;
  uint64_t window_ = 0;                 // fetches; 0: not running ahead
  uint64_t issued_until_ = 0;           // asked for so far: up to here, in the direction of the run
  std::optional<uint64_t> looked_for_;  // where the window began when it was last looked after
};

}  // namespace mlcache::prefetch
