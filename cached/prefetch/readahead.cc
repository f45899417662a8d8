#include "cached/prefetch/readahead.h"

#include <algorithm>
#include <utility>

#include "cached/metrics/metrics.h"

namespace mlcache::prefetch {
namespace {

using cache::kChunkBytes;
using detect::Pattern;

uint64_t ChunkFloor(uint64_t offset) { return offset / kChunkBytes * kChunkBytes; }
uint64_t ChunkCeiling(uint64_t offset) { return ChunkFloor(offset + kChunkBytes - 1); }

// Where at least half of what lies between two reads is read, whole chunks bring it sooner than a request for each
// read.
bool IsSparse(int64_t stride, uint64_t length) {
  const uint64_t step = static_cast<uint64_t>(stride < 0 ? -stride : stride);
  return step > kChunkBytes || 2 * length <= step;
}

}  // namespace

Readahead::Readahead(const fetch::Source& source, std::shared_ptr<Pacer> pacer, Metrics& metrics, std::string job)
    : source_(source),
      pacer_(std::move(pacer)),
      metrics_(metrics),
      job_(std::move(job)),
      detector_(detect::MakeHandleDetector()) {}

Readahead::~Readahead() { stop_.request_stop(); }

void Readahead::OnRead(uint64_t offset, uint64_t length) {
  if (length == 0 || !pacer_->optimizes()) return;
  detector_->OnRead(offset, length);
  speed_.Add(length, pacer_->clock().Now());
  const detect::Conclusion now = detector_->Current();
  if (now.pattern != pattern_ || now.stride != stride_) {
    Collapse();
    if (now.pattern == Pattern::kSequential && pattern_ != Pattern::kSequential) {
      metrics_.sequential_detected.Increment();
    }
    pattern_ = now.pattern;
    stride_ = now.stride;
  }
  const Read read{.begin = offset, .end = offset + length};
  const Read previous = std::exchange(last_, read);
  // A version that must not be kept, or an object of one chunk, has nothing to run ahead for.
  if (!now.predictable || !source_.hints.keep || source_.ref.size <= kChunkBytes) return;
  if (!now.agrees) return;  // a look at a footer, or the first reads of another pattern
  if (pattern_ == Pattern::kStrided && IsSparse(stride_, length)) {
    // A read beside the stride, which may yet be its end, says nothing of where it goes on.
    if (static_cast<int64_t>(read.begin - previous.begin) == stride_) RunByStride(read);
    return;
  }
  const bool backward = pattern_ == Pattern::kReverse || (pattern_ == Pattern::kStrided && stride_ < 0);
  if (window_ > 0 && TurnsAway(read, backward)) Collapse();
  // One read is no run: whoever has jumped may jump again.
  if (window_ == 0 && !Near(read, previous)) {
    looked_for_.reset();
    return;
  }
  if (backward) {
    RunBackward(read.begin);
  } else {
    RunForward(read.end);
  }
}

bool Readahead::Near(const Read& read, const Read& previous) {
  return read.begin <= previous.end + kChunkBytes && previous.begin <= read.end + kChunkBytes;
}

// Behind all that was asked for, or further back than reads that overtake each other come.
bool Readahead::TurnsAway(const Read& read, bool backward) const {
  const uint64_t slack = (window_ + 2) * kChunkBytes;
  const uint64_t front = looked_for_.value_or(read.end);
  if (backward) return read.end + kChunkBytes < issued_until_ || read.begin > front + slack;
  return read.begin > issued_until_ + kChunkBytes || read.end + slack < front;
}

// Looks after its window once a chunk.
void Readahead::RunForward(uint64_t read_end) {
  const uint64_t front = ChunkCeiling(read_end);  // the chunk being read is demand's own
  if (looked_for_.has_value() && front <= *looked_for_) return;
  looked_for_ = front;
  const uint64_t window = Widen(kChunkBytes);
  if (window == 0) return;
  issued_until_ = std::max(issued_until_, front);
  const uint64_t end = std::min(source_.ref.size, front + window * kChunkBytes);
  while (issued_until_ < end) {
    const uint64_t next = std::min(source_.ref.size, issued_until_ + kChunkBytes);
    if (!Fetch(issued_until_, next)) return;
    issued_until_ = next;
  }
}

void Readahead::RunBackward(uint64_t read_begin) {
  const uint64_t front = ChunkFloor(read_begin);
  if (looked_for_.has_value() && front >= *looked_for_) return;
  looked_for_ = front;
  const bool begins = window_ == 0;
  const uint64_t window = Widen(kChunkBytes);
  if (window == 0) return;
  if (begins || issued_until_ > front) issued_until_ = front;
  const uint64_t end = front > window * kChunkBytes ? front - window * kChunkBytes : 0;
  while (issued_until_ > end) {
    if (!Fetch(issued_until_ - kChunkBytes, issued_until_)) return;
    issued_until_ -= kChunkBytes;
  }
}

// Here each fetch is one read to come.
void Readahead::RunByStride(const Read& read) {
  const auto distance = static_cast<int64_t>(issued_until_ - read.begin);
  const bool begins = window_ == 0 || distance % stride_ != 0 || distance / stride_ < 0;
  if (begins) issued_until_ = read.begin;
  const uint64_t length = read.end - read.begin;
  const uint64_t window = Widen(length);
  auto at = static_cast<int64_t>(issued_until_);
  const int64_t last = static_cast<int64_t>(read.begin) + static_cast<int64_t>(window) * stride_;
  while (at != last && window > 0) {
    // The window may have shrunk below what was asked for.
    if ((stride_ > 0) == (at > last)) return;
    at += stride_;
    if (at < 0 || static_cast<uint64_t>(at) >= source_.ref.size) return;
    const auto begin = static_cast<uint64_t>(at);
    if (!Fetch(begin, std::min(source_.ref.size, begin + length))) return;
    issued_until_ = begin;
  }
}

uint64_t Readahead::Widen(uint64_t bytes_of_fetch) {
  std::optional<double> fetches_per_second = speed_.BytesPerSecond();
  if (fetches_per_second.has_value()) *fetches_per_second /= static_cast<double>(bytes_of_fetch);
  const uint64_t most = pacer_->Window(fetches_per_second);
  if (most == 0) return 0;  // what was asked for before still comes
  window_ = std::min(window_ == 0 ? kFirstWindow : window_ + 1, most);
  return window_;
}

bool Readahead::Fetch(uint64_t begin, uint64_t end) {
  return pacer_->Fetch({.source = source_, .range = {begin, end - begin}, .job = job_, .stop = stop_.get_token()});
}

void Readahead::Collapse() {
  looked_for_.reset();
  if (window_ == 0) return;
  stop_.request_stop();
  stop_ = std::stop_source();
  window_ = 0;
  issued_until_ = 0;
}

}  // namespace mlcache::prefetch
