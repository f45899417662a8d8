// What the fetcher's parts pass around: a read waiting for bytes, a request to bring bytes in, and a flight, which is
// one chunk of one object on its way from the store. Private to cached/fetch.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "cached/cache/object_cache.h"
#include "cached/fetch/buffer_pool.h"
#include "cached/fetch/fetcher.h"
#include "common/clock.h"
#include "common/status.h"

namespace mlcache::fetch {

// One call of Fetcher::Read that the cache could not answer at once. Ends when all its parts have. Thread-safe.
class ReadOperation {
 public:
  ReadOperation(const Source& source, uint64_t offset, std::span<std::byte> out, const store::CallContext& context,
                Nanos began, ReadDone done);

  const Source& source() const { return source_; }
  const std::string& job() const { return job_; }
  const std::stop_token& stop() const { return stop_; }
  Nanos deadline() const { return deadline_; }
  Nanos began() const { return began_; }
  uint64_t begin() const { return offset_; }
  uint64_t end() const { return offset_ + out_.size(); }

  // Where the bytes [begin, end) of the object go.
  std::span<std::byte> Out(uint64_t begin, uint64_t end) const { return out_.subspan(begin - offset_, end - begin); }

  // Some of it had to come from the store.
  void MarkMissed() { missed_.store(true, std::memory_order_relaxed); }
  bool missed() const { return missed_.load(std::memory_order_relaxed); }

  void ExpectParts(uint32_t parts) { open_parts_.store(parts, std::memory_order_relaxed); }

  // True for the last part: the caller then calls Finish.
  bool EndPart(const Status& status);
  Status result();
  void Finish() { done_(result()); }

 private:
  const Source source_;
  const std::string job_;
  const uint64_t offset_;
  const std::span<std::byte> out_;
  const std::stop_token stop_;
  const Nanos deadline_;
  const Nanos began_;
  ReadDone done_;
  std::atomic<bool> missed_ = false;
  std::atomic<uint32_t> open_parts_ = 1;
  std::mutex mutex_;
  std::optional<Error> error_;  // guarded by mutex_; the first one
};

// The part of a read that lies within one chunk. Whoever holds it must end it or hand it on.
struct Part {
  std::shared_ptr<ReadOperation> operation;
  uint64_t begin = 0;
  uint64_t end = 0;
  uint64_t ready_at = 0;  // what a flight must have reached for it; meaningful while it waits for one
  uint32_t attempts = 0;
};

// One call of Fetcher::Ensure: hands out its chunks one by one, so that a terabyte waits in a few words of state.
// Guarded by the board's mutex but for the constants.
struct EnsureOperation {
  Source source;
  std::string job;
  store::Priority priority = store::Priority::kWarmup;
  std::stop_token stop;
  Nanos deadline = Nanos::max();
  uint64_t begin = 0;
  uint64_t end = 0;

  uint64_t next = 0;       // what was not handed out yet begins here
  uint64_t in_flight = 0;  // chunks it waits for
  std::optional<Error> error;
  bool listed = false;  // in one of the board's lists
  bool ended = false;
  ReadDone done;
};

// One chunk of one object on its way.
struct Flight {
  enum class State : uint8_t { kQueued, kRunning, kDone };

  // Constant.
  Source source;
  std::string job;
  store::Priority priority = store::Priority::kDemand;
  uint64_t chunk = 0;
  uint64_t begin = 0;  // the chunk's, within the object
  uint64_t end = 0;
  std::stop_source stop;
  std::stop_token purpose;  // requested: what it was fetched ahead for has been called off

  // Guarded by the board's mutex.
  State state = State::kQueued;
  bool started = false;     // `ranges` is known
  bool cancelled = false;   // winding down: nobody joins it any more
  bool overrun = false;     // cancelled because the store did not end it in time
  bool served = false;      // it has been of use to a reader
  bool background = false;  // goes on when no reader waits any more
  bool lane_is_demand = false;
  Nanos deadline = Nanos::max();
  cache::ByteRange want;                 // of the chunk, whole blocks; grows while queued
  std::vector<cache::ByteRange> serves;  // once started: a part within one of these may wait for it
  uint64_t arrived_until = 0;            // every byte of `ranges` below this is in the buffer
  std::vector<Part> waiting;             // within `want`
  std::vector<Part> afterwards;          // to be looked at again when this flight has ended
  struct EnsureWait {
    std::shared_ptr<EnsureOperation> operation;
    bool again = false;  // this flight does not bring all it wants: look at the chunk again afterwards
  };
  std::vector<EnsureWait> ensures;

  // Constant once started. The bytes of `ranges` below arrived_until do not change in the buffer.
  std::vector<cache::ByteRange> ranges;  // what is fetched, ascending
  Buffer buffer;                         // of [begin, end)

  std::span<std::byte> Bytes(uint64_t from, uint64_t to) const {
    return buffer.bytes().subspan(from - begin, to - from);
  }
};

}  // namespace mlcache::fetch
