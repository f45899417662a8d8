// One mount's connection: the pump that takes submissions off the rings, the requests under way, and their end. The
// pump answers from memory at once; what may block runs on the metadata executor, reads on the fetcher, and both
// complete from their own threads. Nothing that a shim submits can do more than end its session.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <unordered_map>

#include "cached/prefetch/pacer.h"
#include "cached/prefetch/plan_prefetcher.h"
#include "cached/session/lender.h"
#include "cached/session/open_files.h"
#include "cached/session/request_metrics.h"
#include "cached/session/tree.h"
#include "common/executor.h"
#include "common/ring/channel.h"
#include "common/unique_fd.h"
#include "common/units.h"
#include "proto/session.pb.h"

namespace mlcache::session {

// What all sessions of a server share; borrowed, outlives them.
struct SessionParts {
  cache::ObjectCache& cache;
  fetch::Fetcher& fetcher;
  Executor& metadata;
  Metrics& metrics;
  RequestMetrics& request_metrics;
  const Clock& clock;
  Nanos request_timeout;
  uint64_t whole_open_bytes = kMiB;               // a file up to here is fetched whole when it is opened to be lent
  const std::atomic<size_t>* sessions = nullptr;  // of the whole server; null: nobody counts
  size_t lane_width = 8;                          // tasks that one session may have on the executor at once
};

class Session {
 public:
  // `reader` is who reads, to the eviction policy; `pacer` paces what is fetched ahead, and is closed at the end.
  // `describe` gives what .mlcache/stats shows. `outstanding_limit`: how many requests the shim may have unanswered.
  Session(const SessionParts& parts, std::unique_ptr<Tree> tree, std::unique_ptr<ring::DaemonChannel> channel,
          uint64_t generation, size_t outstanding_limit, std::string job, uint64_t reader,
          std::shared_ptr<prefetch::Pacer> pacer, std::function<std::string()> describe);
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  ~Session();

  // Who is told how the shim serves its files. Before Run.
  void set_on_mode(std::function<void(const ServingMode&)> on_mode) { heard_mode_ = std::move(on_mode); }
  // Who is told which sealed view is shown. Before Run.
  void set_on_view(std::function<void(const ViewState&)> on_view) { heard_view_ = std::move(on_view); }

  // Who is told of the files that are opened, or read first where opens are not seen. Before Run.
  void set_plan(std::shared_ptr<prefetch::PlanPrefetcher> plan) { plan_ = std::move(plan); }

  // Serves until the peer of `socket` goes, breaks the protocol, or End is called; then calls off what runs and waits
  // for it. Called once. Why it ended.
  std::string Run(int socket);

  // Makes Run return. Any thread.
  void End(std::string_view why);

  // Tells the shim to let go of a lent file that has left the cache. Any thread; does not block.
  void Revoke(const cache::ObjectId& id);

  // Tells the kernel to forget what it knows of `path` (below the identity) and below it. Waits a little where the
  // shim is slow to take notice. Any thread but the pump.
  void NotifyInvalidated(const std::string& path);

  uint64_t requests() const { return requests_.load(std::memory_order_relaxed); }
  const Tree& tree() const { return *tree_; }
  const prefetch::Pacer& pacer() const { return *pacer_; }

 private:
  struct Request;
  using RequestPtr = std::shared_ptr<Request>;
  using SlotTask = std::move_only_function<void(const ring::Slot&)>;
  struct SlotWaiter {
    RequestPtr request;
    uint32_t bytes = 0;
    SlotTask task;
  };

  // The pump (session.cc).
  bool PumpOnce();
  void Sleep(int epoll);
  void Hear();
  void Wake() const;
  bool ServeSlotWaiters();
  void ExpireSlotWaiters();
  void ReportSlots();
  void Drain();

  // Requests under way, any thread (session.cc).
  RequestPtr Begin(const ring::Submission& submission, uint32_t pair, Nanos started);
  void Finished();
  void Cancel(uint64_t id);
  void Push(const ring::Submission& submission, uint32_t pair, Nanos started, ring::Completion completion);
  bool Complete(Request& request, ring::Completion completion);
  void Refuse(Request& request, const Error& error);
  void WithSlot(RequestPtr request, uint32_t bytes, SlotTask task);
  void Reply(const RequestPtr& request, std::string bytes);
  void InLane(RequestPtr request, std::move_only_function<void()> task);
  void LaneDone();
  void GiveBackSlot(uint32_t index);
  store::CallContext ContextOf(const Request& request) const;

  // The operations (session_requests.cc).
  void Handle(const ring::Submission& submission, uint32_t pair);
  bool HandleUnanswered(const ring::Submission& submission);
  std::optional<ring::Completion> AnswerFromMemory(const ring::Submission& submission);
  void Dispatch(const RequestPtr& request);
  void Serve(const RequestPtr& request);
  void LookUp(const RequestPtr& request);
  void GetAttributes(const RequestPtr& request);
  bool IsLendable(const ring::Submission& submission, const fetch::Source& source) const;
  std::optional<ring::Completion> LendFromMemory(const ring::Submission& submission, const Tree::Opened& opened);
  bool MayBecomeLendable(const fetch::Source& source) const;
  bool Lend(const RequestPtr& request, const Tree::Opened& opened);
  void FetchAndLend(const RequestPtr& request, Tree::Opened opened);
  void OpenByHandle(const RequestPtr& request, Tree::Opened opened);
  void Open(const RequestPtr& request);
  void OpenDir(const RequestPtr& request);
  void ReadDir(const RequestPtr& request);
  bool ReadDirFromMemory(const RequestPtr& request);
  void GetXattr(const RequestPtr& request);
  void ReplyOrRefuse(const RequestPtr& request, Result<std::string> bytes);
  void Read(const RequestPtr& request);
  void ReadBySource(const RequestPtr& request, Result<fetch::Source> source);
  void Claim(fetch::Source& source) const;
  void TellPlan(uint64_t node);
  uint64_t AddFile(uint64_t node, fetch::Source source);
  void StartRead(const RequestPtr& request, const std::shared_ptr<OpenFile>& file);
  void ReadInto(const RequestPtr& request, const std::shared_ptr<OpenFile>& file, const ring::Slot& slot,
                uint32_t length);

  const SessionParts parts_;
  const std::unique_ptr<Tree> tree_;
  const std::unique_ptr<ring::DaemonChannel> channel_;
  const size_t outstanding_limit_;
  const std::string job_;
  const uint64_t reader_;
  const uint64_t largest_tier_bytes_;
  const std::shared_ptr<prefetch::Pacer> pacer_;
  const std::function<std::string()> describe_;
  std::function<void(const ServingMode&)> heard_mode_;
  std::function<void(const ViewState&)> heard_view_;
  int socket_ = -1;                        // the pump's
  const UniqueFd wake_;                    // eventfd, written to wake the pump
  std::atomic<bool> keeps_pages_ = false;  // the mount's kernel keeps what it is sent (no-open)
  OpenFiles files_;
  std::shared_ptr<prefetch::PlanPrefetcher> plan_;  // may be null
  Lender lender_;
  std::atomic<uint64_t> requests_ = 0;
  std::atomic<bool> ending_ = false;
  std::atomic<size_t> slot_waiting_ = 0;  // size of slot_waiters_
  uint32_t reported_slots_ = 0;           // the pump's: what the gauge was last told

  std::mutex mutex_;
  std::condition_variable idle_;
  // All guarded by mutex_.
  std::string why_ended_;
  std::unordered_map<uint64_t, RequestPtr> outstanding_;  // not yet answered
  size_t running_ = 0;                                    // Requests alive, answered or not
  std::deque<SlotWaiter> slot_waiters_;
  size_t lane_running_ = 0;
  std::deque<std::move_only_function<void()>> lane_waiting_;
};

}  // namespace mlcache::session
