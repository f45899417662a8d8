// Who waits for which chunk, and what a worker should do next: the state behind single flight, priorities, promotion,
// cancellation and the byte budget. Does no I/O and calls nobody back. Thread-safe; its mutex is a leaf lock.
//
// INVARIANT: at most one flight a (object, chunk) is on the board, and whoever runs it alone fetches and fills it.
// INVARIANT: a Part is in one place: on the board, or in the hands of the caller a method returned it to.
#pragma once

#include <prometheus/gauge.h>

#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "cached/fetch/flight.h"

namespace mlcache::fetch {

using EnsureList = std::vector<std::shared_ptr<EnsureOperation>>;

class FlightBoard {
 public:
  struct Limits {
    uint64_t in_flight_bytes = 0;
    size_t max_ensures = 16384;
  };
  enum class Lane : uint8_t { kDemand, kBackground };

  // What a worker gets: a flight to run, and operations that turned out to be done.
  struct Work {
    std::shared_ptr<Flight> flight;  // may be null
    EnsureList ended;
    bool stopping = false;
  };
  struct Leftovers {
    std::vector<Part> parts;       // share the flight's end
    std::vector<Part> afterwards;  // must be looked at again
    EnsureList ended;
  };
  struct Expired {
    std::vector<std::pair<Part, Code>> parts;
    EnsureList ended;
    std::vector<std::shared_ptr<Flight>> stopped;  // whose `stop` the caller must request
  };

  // The gauges are borrowed.
  FlightBoard(const Limits& limits, prometheus::Gauge& queue_depth, prometheus::Gauge& in_flight)
      : limits_(limits), queue_depth_(queue_depth), in_flight_(in_flight) {}

  enum class Joined : uint8_t { kWaiting, kReady, kStopping };
  // Puts `part` on the flight of its chunk, made and queued when there is none, to fetch at least `want`. kReady: its
  // bytes are in *flight already; kReady and kStopping leave the part to the caller.
  Joined Join(Part& part, cache::ByteRange want, std::shared_ptr<Flight>* flight);

  // Queues it; false when too many are queued or the board is stopping.
  bool Add(std::shared_ptr<EnsureOperation> ensure);

  // The next thing to do for a worker of that lane; waits for it. `flight` is then running and its caller's to end.
  Work Take(Lane lane);

  // What the running flight is going to fetch, ascending; `buffer` takes its bytes. With `keeps` false what comes will
  // be kept by nobody, so `ranges` shrink to what is waited for now. Returns the parts that need none of it. False as
  // second: nobody wants it any more.
  std::pair<std::vector<Part>, bool> Start(Flight& flight, std::vector<cache::ByteRange> ranges, bool keeps,
                                           Buffer buffer, Nanos deadline);

  // Bytes below `until` are in the buffer: the parts that this completes.
  std::vector<Part> Arrive(Flight& flight, uint64_t until);

  // Lets the part be looked at again when the flight has ended; false when it has.
  bool Postpone(Flight& flight, Part& part);

  // True while somebody reads from the flight (rather than only having it brought in).
  bool HasReaders(Flight& flight);

  // The flight is off the board; ensures that waited for it are told.
  Leftovers Finish(const std::shared_ptr<Flight>& flight, const Status& kept);

  // Takes out what was called off or ran out of time. `stopping` takes out everything.
  Expired Expire(Nanos now, bool stopping);

  // Waits until there is something that Expire could find, or `period`; false once stopping.
  bool WaitForReaper(std::chrono::milliseconds period);

  void Stop();

 private:
  struct Key {
    const cache::CachedObject* object;
    uint64_t chunk;
    bool operator==(const Key&) const = default;
  };
  struct KeyHash {
    size_t operator()(const Key& key) const {
      return std::hash<const void*>()(key.object) ^ (key.chunk * 0x9e3779b97f4a7c15ULL);
    }
  };

  // All below: mutex_ held.
  std::shared_ptr<Flight> Launch(const Source& source, uint64_t chunk, cache::ByteRange want);
  void List(const std::shared_ptr<EnsureOperation>& ensure);
  void Abandon(const std::shared_ptr<Flight>& flight, Expired& expired);
  std::shared_ptr<Flight> NextOf(const std::shared_ptr<EnsureOperation>& ensure, EnsureList& ended);
  std::shared_ptr<Flight> Pick(Lane lane, EnsureList& ended);
  bool MayHoldWork(Lane lane) const;
  void Publish();
  bool Admits(Lane lane, uint64_t bytes) const;
  void Run(const std::shared_ptr<Flight>& flight, Lane lane);
  void EndIfDone(const std::shared_ptr<EnsureOperation>& ensure, EnsureList& ended);

  const Limits limits_;
  prometheus::Gauge& queue_depth_;
  prometheus::Gauge& in_flight_;
  mutable std::mutex mutex_;
  std::condition_variable demand_;
  std::condition_variable background_;
  std::condition_variable reaper_;
  std::unordered_map<Key, std::shared_ptr<Flight>, KeyHash> flights_;
  std::deque<std::shared_ptr<Flight>> queue_;                          // of demand; may hold flights that are done
  std::array<std::deque<std::shared_ptr<EnsureOperation>>, 5> lists_;  // by priority; those with chunks to hand out
  std::unordered_set<std::shared_ptr<EnsureOperation>> ensures_;       // every one not ended
  uint64_t bytes_in_flight_ = 0;
  uint64_t demand_running_ = 0;
  uint64_t running_ = 0;
  bool stopping_ = false;
};

}  // namespace mlcache::fetch
