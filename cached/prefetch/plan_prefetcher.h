// Fetches a mount's files in the order in which its job has declared that it will read them, just ahead of the reader.
//
// A mount may have several plans, one a *stream* (a rank, a validation set): each has its position, all share the
// workers and the budget and take turns. What was fetched counts against the budget until it is read, or skipped.
// Nothing that goes wrong with a file stops a plan: it is counted, named, and left to the reader. Thread-safe.
#pragma once

#include <prometheus/counter.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <stop_token>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "cached/fetch/fetcher.h"
#include "cached/prefetch/plan.h"
#include "cached/prefetch/plan_budget.h"
#include "cached/prefetch/plan_order.h"

namespace mlcache {
class Metrics;
}

namespace mlcache::prefetch {

class PlanPrefetcher {
 public:
  static constexpr size_t kMaxStreams = 256;
  static constexpr size_t kMaxNamed = 100;  // files that could not be fetched, a stream

  // Borrows the fetcher, the budget and the metrics.
  PlanPrefetcher(const PlanOptions& options, std::unique_ptr<PlanFiles> files, fetch::Fetcher& fetcher,
                 PlanBudget& budget, Metrics& metrics);
  PlanPrefetcher(const PlanPrefetcher&) = delete;
  PlanPrefetcher& operator=(const PlanPrefetcher&) = delete;
  ~PlanPrefetcher();

  // Puts an order (made with order_options) in the place of the stream's plan. What was fetched for the old one and is
  // wanted by the new one soon stays. kResourceExhausted: too many streams; kFailedPrecondition: no workers;
  // kCancelled: the mount has ended.
  Status Replace(const std::string& stream, PlanOrder order);
  // Puts paths behind the stream's plan, which is made if there is none. kResourceExhausted: too many.
  Status Append(const std::string& stream, const std::vector<std::string>& paths);
  // Forgets the plan of a stream, or all of them; what they are fetching is called off.
  void Clear(const std::string& stream);
  void ClearAll();

  // A reader of the mount opened `path`, or began to read it. Cheap; does not block.
  void Use(const std::string& path);
  // False: no plan, Use has nothing to do.
  bool active() const { return active_.load(std::memory_order_relaxed); }

  std::vector<PlanReport> Reports() const;
  const PlanOrderOptions& order_options() const { return options_.order; }

  // To look at files before their turn, as when a plan is declared.
  PlanFiles& files() { return *files_; }

  // The mount ends: clears all, takes no more plans, waits for the workers.
  void Stop();

 private:
  struct Held {
    std::shared_ptr<cache::CachedObject> object;  // while somebody has it, its unread bytes are no waste yet
    uint64_t bytes = 0;
  };
  struct Found {
    fetch::Source source;
    bool again = false;  // the version found first was gone
  };
  struct Stream {
    uint64_t generation = 0;
    PlanOrder order;
    std::stop_source stop;
    std::set<PlanOrder::Place> looking;       // being looked up
    std::map<PlanOrder::Place, Found> found;  // looked up; they wait for room
    std::unordered_map<PlanOrder::Place, Held> held;
    uint64_t held_bytes = 0;
    uint64_t fetching_bytes = 0;
    PlanReport report;
  };
  struct Task {
    std::string stream;
    uint64_t generation = 0;
    PlanOrder::Claimed claimed;
    std::stop_token stop;
    std::optional<Found> found;  // nothing: to be looked up
    uint64_t bytes = 0;          // room taken for it
  };
  using Streams = std::map<std::string, Stream>;

  void Work(const std::stop_token& stop);
  void LookUp(const Task& task, bool again);
  Result<Found> Find(const Task& task, bool again);
  void Fetch(const Task& task);
  void GiveRoom(const Task& task);
  void Present(const Task& task);
  void Failed(const Task& task, const Error& error);
  void Keep(const Task& task);

  // All below: mutex_ held.
  std::optional<Task> Next();
  std::optional<Task> NextFound(Stream& stream);
  Task TaskOf(const Stream& stream, PlanOrder::Claimed claimed) const;
  Stream* Of(const Task& task);
  Result<Stream*> Open(const std::string& name);
  Stream* Reader(const std::string& path);
  void Count(Stream& stream, PlanOutcome outcome);
  Held Release(Stream& stream, PlanOrder::Place place);
  void Hold(Stream& stream, PlanOrder::Place place, Held held);
  void Skip(Stream& stream, const std::vector<PlanOrder::Left>& skipped, std::vector<Held>& dropped);
  void Drop(Stream& stream, std::vector<Held>& dropped);
  void Membership();
  uint64_t ShareOfStream() const;
  void Adapt(const Stream& stream, bool kept);

  const PlanOptions options_;
  const std::unique_ptr<PlanFiles> files_;
  fetch::Fetcher& fetcher_;
  PlanBudget& budget_;
  std::array<prometheus::Counter*, kPlanOutcomes> counters_{};
  std::atomic<bool> active_ = false;

  mutable std::mutex mutex_;          // before the budget's; never held over a call of the fetcher, cache or files
  std::condition_variable_any work_;  // something to claim
  Streams streams_;                   // guarded by mutex_, as all below
  double depth_ = 1;                  // the part of the share that is used
  uint64_t reads_since_cut_ = 0;
  size_t found_ = 0;      // of all streams
  bool polling_ = false;  // a worker looks for room from time to time
  std::string turn_;      // the stream that was served last
  uint64_t generations_ = 0;
  uint64_t held_bytes_ = 0;  // of all streams and of what is being fetched
  bool joined_ = false;
  bool stopped_ = false;
  std::vector<std::jthread> threads_;
};

}  // namespace mlcache::prefetch
