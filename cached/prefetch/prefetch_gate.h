// How many fetches ahead one mount may have on their way: the rest wait here, first come, first served. A reader never
// waits here: it asks the fetcher itself, which finds what the gate has started and fetches what still waits.
// Thread-safe.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string>

#include "cached/fetch/fetcher.h"

namespace mlcache::prefetch {

class PrefetchGate : public std::enable_shared_from_this<PrefetchGate> {
 public:
  struct Request {
    fetch::Source source;
    cache::ByteRange range;  // at most a chunk, so that the count means something
    store::Priority priority = store::Priority::kSequential;
    std::string job;
    std::stop_token stop = {};  // requested: not wanted any more; what still waits is then never asked for
  };

  // At most `at_once` are on their way and `max_waiting` wait. Borrows the fetcher, which must outlive the threads that
  // call this.
  static std::shared_ptr<PrefetchGate> Make(fetch::Fetcher& fetcher, size_t at_once, size_t max_waiting = 512);

  // Starts it, or lets it wait. False, and nothing will come of it: nothing may be fetched ahead (`at_once` 0, closed),
  // or too many wait.
  bool Fetch(Request request);

  // Forgets what waits and lets nothing more in; what is on its way, or just being started by another thread, ends by
  // itself.
  void Close();

  size_t on_their_way() const;
  size_t waiting() const;

 private:
  PrefetchGate(fetch::Fetcher& fetcher, size_t at_once, size_t max_waiting)
      : fetcher_(fetcher), at_once_(at_once), max_waiting_(max_waiting) {}

  void Pump();
  void Ended();

  fetch::Fetcher& fetcher_;
  const size_t at_once_;
  const size_t max_waiting_;
  mutable std::mutex mutex_;  // a leaf; guards all below
  std::deque<Request> waiting_;
  size_t on_their_way_ = 0;
  bool pumping_ = false;  // somebody is starting what waits, and will look again before it stops
  bool closed_ = false;
};

}  // namespace mlcache::prefetch
