#include "cached/prefetch/readahead.h"

#include <algorithm>
#include <utility>

#include "cached/metrics/metrics.h"

namespace mlcache::prefetch {
namespace {

using cache::kChunkBytes;
using detect::Pattern;

uint64_t ChunkCeiling(uint64_t offset) { return (offset + kChunkBytes - 1) / kChunkBytes * kChunkBytes; }

}  // namespace

Readahead::Readahead(const fetch::Source& source, fetch::Fetcher& fetcher, Metrics& metrics, std::string job,
                     const ReadaheadOptions& options)
    : source_(source),
      fetcher_(fetcher),
      metrics_(metrics),
      job_(std::move(job)),
      options_(options),
      detector_(detect::MakeHandleDetector(
          {.first_prefetch_bytes = options.initial_chunks * kChunkBytes,
           .max_prefetch_bytes = std::max(options.initial_chunks, options.max_chunks) * kChunkBytes})) {}

Readahead::~Readahead() { stop_.request_stop(); }

void Readahead::OnRead(uint64_t offset, uint64_t length) {
  if (length == 0) return;
  detector_->OnRead(offset, length);
  const detect::Conclusion now = detector_->Current();
  if (now.pattern != pattern_ || now.stride != stride_) {
    Collapse();
    if (now.pattern == Pattern::kSequential && pattern_ != Pattern::kSequential) {
      metrics_.sequential_detected.Increment();
    }
    pattern_ = now.pattern;
    stride_ = now.stride;
  }
  // A version that must not be kept, or an object of one chunk, has nothing to run ahead for.
  if (now.prefetch_bytes == 0 || !source_.hints.keep || source_.ref.size <= kChunkBytes) return;
  if (pattern_ == Pattern::kReverse || (pattern_ == Pattern::kStrided && stride_ < 0)) {
    RunBackward(offset);
  } else if (pattern_ == Pattern::kStrided && static_cast<uint64_t>(stride_) > kChunkBytes) {
    RunByStride(offset, length, stride_);
  } else {
    RunForward(offset + length);
  }
}

// Asks for more once half of what was asked for is consumed, so that requests are few and the store never idles.
void Readahead::RunForward(uint64_t read_end) {
  if (window_chunks_ == 0) {
    window_chunks_ = options_.initial_chunks;
    issued_until_ = ChunkCeiling(read_end);  // the chunk being read is demand's own
  } else {
    const uint64_t ahead = issued_until_ > read_end ? issued_until_ - read_end : 0;
    if (ahead > window_chunks_ * kChunkBytes / 2) return;
    window_chunks_ = std::min(window_chunks_ * 2, options_.max_chunks);
  }
  const uint64_t begin = std::max(issued_until_, ChunkCeiling(read_end));
  const uint64_t end = std::min(source_.ref.size, ChunkCeiling(read_end) + window_chunks_ * kChunkBytes);
  if (begin >= end) return;
  issued_until_ = end;
  Fetch(begin, end);
}

void Readahead::RunBackward(uint64_t read_begin) {
  const uint64_t chunk_begin = read_begin / kChunkBytes * kChunkBytes;
  if (window_chunks_ == 0) {
    window_chunks_ = options_.initial_chunks;
    issued_until_ = chunk_begin;
  } else {
    const uint64_t ahead = read_begin > issued_until_ ? read_begin - issued_until_ : 0;
    if (ahead > window_chunks_ * kChunkBytes / 2) return;
    window_chunks_ = std::min(window_chunks_ * 2, options_.max_chunks);
  }
  const uint64_t window_bytes = window_chunks_ * kChunkBytes;
  const uint64_t begin = chunk_begin > window_bytes ? chunk_begin - window_bytes : 0;
  const uint64_t end = std::min(issued_until_, chunk_begin);
  if (begin >= end) return;
  issued_until_ = begin;
  // Nearest first: a range is brought in from its lower end.
  for (uint64_t at = end; at > begin; at -= kChunkBytes) Fetch(at - kChunkBytes, at);
}

void Readahead::RunByStride(uint64_t offset, uint64_t length, int64_t stride) {
  const auto step = static_cast<uint64_t>(stride);
  if (window_chunks_ == 0) {
    window_chunks_ = options_.initial_chunks;
    issued_until_ = offset;
  } else if (issued_until_ > offset && (issued_until_ - offset) / step > window_chunks_ / 2) {
    return;
  } else {
    window_chunks_ = std::min(window_chunks_ * 2, options_.max_chunks);
  }
  // Here the window counts reads: each is of a chunk of its own.
  const uint64_t last = offset + window_chunks_ * step;
  for (uint64_t at = std::max(issued_until_, offset) + step; at <= last && at < source_.ref.size; at += step) {
    Fetch(at, std::min(source_.ref.size, at + length));
    issued_until_ = at;
  }
}

void Readahead::Fetch(uint64_t begin, uint64_t end) {
  fetcher_.Ensure(source_, {begin, end - begin},
                  {.priority = store::Priority::kSequential, .job = job_, .stop = stop_.get_token()}, nullptr);
}

void Readahead::Collapse() {
  if (window_chunks_ == 0) return;
  stop_.request_stop();
  stop_ = std::stop_source();
  window_chunks_ = 0;
  issued_until_ = 0;
}

}  // namespace mlcache::prefetch
