// What one open handle is doing, concluded from its reads alone. Pure: no clock, threads or I/O. Thread-compatible.
//
// Reads may come slightly out of order and overlap (the kernel's readahead has several in flight), and may leave small
// gaps. A conclusion is changed only after several reads in a row against it (hysteresis), so that one look at a footer
// does not end a sequential run.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

namespace mlcache::detect {

enum class Pattern : uint8_t { kUnknown, kSequential, kStrided, kReverse, kRandom };

// "unknown", "sequential", …: the metrics label; valid for ever, NUL-terminated.
std::string_view PatternName(Pattern pattern);

struct Conclusion {
  Pattern pattern = Pattern::kUnknown;
  double confidence = 0;     // 0..1
  int64_t stride = 0;        // kStrided: bytes from one read's begin to the next one's, negative when backwards
  bool predictable = false;  // it is worth running ahead of the reads
  bool agrees = false;       // the last read was one of the pattern
};

class PatternDetector {
 public:
  virtual ~PatternDetector() = default;

  // One read, in the order in which it arrived. `length` is not 0.
  virtual void OnRead(uint64_t offset, uint64_t length) = 0;

  virtual Conclusion Current() const = 0;
};

struct DetectorOptions {
  uint64_t gap_bytes = 4 << 20;  // a forward skip up to this, and to four times the read, still counts as sequential
  int turn_after = 4;            // reads in a row against the conclusion that change it
};

// A file read from its beginning is taken for sequential at once, and prefetched from its second read on.
std::unique_ptr<PatternDetector> MakeHandleDetector(const DetectorOptions& options = {});

}  // namespace mlcache::detect
