// What one open handle is doing, concluded from its reads alone. Pure: no clock, threads or I/O. Thread-compatible.
//
// Reads may come slightly out of order and overlap (the kernel's readahead has several in flight), and may leave small
// gaps. A conclusion is changed only after several reads against it (hysteresis), so that one seek to a footer does not
// end a sequential run.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

namespace mlcache::detect {

enum class Pattern : uint8_t { kUnknown, kSequential, kStrided, kReverse, kRandom };

// "unknown", "sequential", … : the metrics label.
std::string_view PatternName(Pattern pattern);

struct Conclusion {
  Pattern pattern = Pattern::kUnknown;
  double confidence = 0;        // 0..1
  int64_t stride = 0;           // bytes from one read's begin to the next one's; kStrided and kReverse only
  uint64_t prefetch_bytes = 0;  // how far ahead of the reads it is worth running now; 0: not at all
};

class PatternDetector {
 public:
  virtual ~PatternDetector() = default;

  // One read, in the order in which it arrived.
  virtual void OnRead(uint64_t offset, uint64_t length) = 0;

  virtual Conclusion Current() const = 0;
};

struct DetectorOptions {
  uint64_t gap_bytes = 1 << 20;      // a forward skip up to this still counts as sequential
  uint64_t reorder_bytes = 4 << 20;  // so far behind the front a read may come late
  int turn_after = 4;                // reads in a row against the conclusion that change it
  uint64_t first_prefetch_bytes = 8 << 20;
  uint64_t max_prefetch_bytes = 64 << 20;
};

std::unique_ptr<PatternDetector> MakeHandleDetector(const DetectorOptions& options = {});

}  // namespace mlcache::detect
