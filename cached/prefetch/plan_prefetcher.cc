#include "cached/prefetch/plan_prefetcher.h"

#include <glog/logging.h>
#include <pthread.h>

#include <algorithm>

#include "cached/metrics/metrics.h"

namespace mlcache::prefetch {
namespace {

// The part of the share that is used, while what is fetched gets evicted before it is read.
constexpr double kShallowest = 1.0 / 64;
constexpr double kDeeper = 1.0 / 512;
constexpr size_t kAppendStep = 4096;  // paths between which readers get their turn

PlanOutcome OutcomeOf(PlanOrder::State state, bool read) {
  switch (state) {
    case PlanOrder::State::kPresent:
      return PlanOutcome::kPresent;
    case PlanOrder::State::kFailed:
      return PlanOutcome::kFailed;
    case PlanOrder::State::kFetched:
      return read ? PlanOutcome::kPrefetched : PlanOutcome::kUnread;
    default:
      return read ? PlanOutcome::kLate : PlanOutcome::kUnread;
  }
}

}  // namespace

PlanPrefetcher::PlanPrefetcher(const PlanOptions& options, std::unique_ptr<PlanFiles> files, fetch::Fetcher& fetcher,
                               PlanBudget& budget, Metrics& metrics)
    : options_(options), files_(std::move(files)), fetcher_(fetcher), budget_(budget) {
  for (size_t i = 0; i < kPlanOutcomes; ++i) counters_[i] = &metrics.plan_files.Add({{"state", kPlanOutcomeNames[i]}});
}

PlanPrefetcher::~PlanPrefetcher() { Stop(); }

void PlanPrefetcher::Stop() {
  std::vector<std::jthread> threads;
  {
    const std::scoped_lock lock(mutex_);
    stopped_ = true;
    threads.swap(threads_);
  }
  for (std::jthread& thread : threads) thread.request_stop();
  ClearAll();
}

// The stream, made if need be, with the workers running. Requires mutex_.
Result<PlanPrefetcher::Stream*> PlanPrefetcher::Open(const std::string& name) {
  if (stopped_) return Fail(Code::kCancelled, options_.mountpoint + ": the mount has ended");
  if (options_.workers == 0) {
    return Fail(Code::kFailedPrecondition, options_.mountpoint +
                                               " fetches nothing ahead: mount it without "
                                               "ml.optimization=false and ml.prefetchWorkers=0");
  }
  auto found = streams_.find(name);
  if (found == streams_.end()) {
    if (streams_.size() >= kMaxStreams) {
      return Fail(Code::kResourceExhausted, options_.mountpoint + " has plans of " + std::to_string(kMaxStreams) +
                                                " streams already: clear some");
    }
    found = streams_.try_emplace(name).first;
    found->second.generation = ++generations_;
    found->second.order = PlanOrder(options_.order);
    found->second.report.stream = name;
  }
  Membership();
  while (threads_.size() < options_.workers) {
    threads_.emplace_back([this](const std::stop_token& stop) { Work(stop); });
    pthread_setname_np(threads_.back().native_handle(), "plan");
  }
  return &found->second;
}

// Requires mutex_.
void PlanPrefetcher::Membership() {
  const bool any = !streams_.empty();
  active_.store(any, std::memory_order_relaxed);
  if (any == joined_) return;
  joined_ = any;
  if (any) {
    budget_.Join();
  } else {
    budget_.Leave();
  }
}

Status PlanPrefetcher::Replace(const std::string& stream, PlanOrder order) {
  if (order.size() == 0) {
    Clear(stream);
    return {};
  }
  std::vector<Held> dropped;
  std::map<PlanOrder::Place, Found> unfetched;
  PlanOrder old;
  {
    const std::scoped_lock lock(mutex_);
    MLCACHE_ASSIGN_OR_RETURN(Stream * opened, Open(stream));
    old = std::exchange(opened->order, std::move(order));
    opened->generation = ++generations_;
    opened->report = PlanReport{.stream = stream, .named = {}};
    opened->held_bytes = 0;
    opened->fetching_bytes = 0;
    unfetched.swap(opened->found);
    opened->looking.clear();
    found_ -= unfetched.size();
    for (auto& [place, held] : std::exchange(opened->held, {})) {
      if (const auto adopted = opened->order.Adopt(old.Path(place))) {
        Hold(*opened, *adopted, std::move(held));
        continue;
      }
      counters_[static_cast<size_t>(PlanOutcome::kUnread)]->Increment();
      held_bytes_ -= held.bytes;
      budget_.Give(held.bytes);
      dropped.push_back(std::move(held));
    }
  }
  work_.notify_all();
  return {};
}

Status PlanPrefetcher::Append(const std::string& stream, const std::vector<std::string>& paths) {
  for (size_t at = 0; at < paths.size();) {
    const size_t end = std::min(paths.size(), at + kAppendStep);
    const std::scoped_lock lock(mutex_);
    MLCACHE_ASSIGN_OR_RETURN(Stream * opened, Open(stream));
    for (; at < end; ++at) {
      if (opened->order.Append(paths[at])) continue;
      return Fail(Code::kResourceExhausted, "the plan holds as many files as a plan can");
    }
    work_.notify_all();
  }
  return {};
}

void PlanPrefetcher::Clear(const std::string& stream) {
  std::vector<Held> dropped;
  Streams::node_type gone;
  {
    const std::scoped_lock lock(mutex_);
    gone = streams_.extract(stream);
    if (gone.empty()) return;
    Drop(gone.mapped(), dropped);
    found_ -= gone.mapped().found.size();
    Membership();
  }
  gone.mapped().stop.request_stop();  // may run callbacks: no lock is held
}

void PlanPrefetcher::ClearAll() {
  std::vector<std::string> names;
  {
    const std::scoped_lock lock(mutex_);
    for (const auto& [name, stream] : streams_) names.push_back(name);
  }
  for (const std::string& name : names) Clear(name);
}

// The stream that a read of `path` most likely belongs to. Requires mutex_.
PlanPrefetcher::Stream* PlanPrefetcher::Reader(const std::string& path) {
  if (streams_.size() == 1) return &streams_.begin()->second;
  Stream* nearest = nullptr;
  size_t least = SIZE_MAX;
  for (auto& [name, stream] : streams_) {
    const std::optional<size_t> distance = stream.order.Distance(path);
    if (!distance || *distance >= least) continue;
    least = *distance;
    nearest = &stream;
  }
  return nearest;
}

void PlanPrefetcher::Use(const std::string& path) {
  std::vector<Held> dropped;
  std::optional<Held> read;
  std::string name;
  uint64_t generation = 0;
  {
    const std::scoped_lock lock(mutex_);
    Stream* const stream = Reader(path);
    if (stream == nullptr) return;
    std::vector<PlanOrder::Left> skipped;
    const std::optional<PlanOrder::Left> left = stream->order.Use(path, skipped);
    if (stream->held_bytes > ShareOfStream() / 4 * 3) stream->order.GiveUpSkipped(skipped);
    Skip(*stream, skipped, dropped);
    if (!left) return;
    if (left->state == PlanOrder::State::kFetched) {
      read = Release(*stream, left->place);
      name = stream->report.stream;
      generation = stream->generation;
    } else {
      Count(*stream, OutcomeOf(left->state, true));
    }
  }
  if (read) {
    // It may have been evicted since.
    const bool there = read->object->Missing(0, read->bytes).empty();
    const std::scoped_lock lock(mutex_);
    const auto found = streams_.find(name);
    const PlanOutcome outcome = there ? PlanOutcome::kPrefetched : PlanOutcome::kLate;
    if (found != streams_.end()) Adapt(found->second, there);
    if (found != streams_.end() && found->second.generation == generation) {
      Count(found->second, outcome);
    } else {
      counters_[static_cast<size_t>(outcome)]->Increment();
    }
  }
  work_.notify_one();
}

// A plan that nobody reads leaves the others theirs. Requires mutex_.
uint64_t PlanPrefetcher::ShareOfStream() const {
  const uint64_t share = budget_.ShareBytes() / std::max<uint64_t>(1, streams_.size());
  return static_cast<uint64_t>(static_cast<double>(share) * depth_);
}

// Bytes that were evicted before their reader came were fetched too far ahead for what the cache keeps of them. One
// look says it for all that were fetched alike. Requires mutex_.
void PlanPrefetcher::Adapt(const Stream& stream, bool kept) {
  if (kept) {
    depth_ = std::min(1.0, depth_ + kDeeper);
    ++reads_since_cut_;
  } else if (reads_since_cut_ >= stream.held.size()) {
    depth_ = std::max(kShallowest, depth_ / 2);
    reads_since_cut_ = 0;
  }
}

// Requires mutex_.
void PlanPrefetcher::Count(Stream& stream, PlanOutcome outcome) {
  ++stream.report.outcomes[static_cast<size_t>(outcome)];
  counters_[static_cast<size_t>(outcome)]->Increment();
}

// Requires mutex_.
void PlanPrefetcher::Hold(Stream& stream, PlanOrder::Place place, Held held) {
  stream.held_bytes += held.bytes;
  stream.held[place] = std::move(held);
}

// Gives its room back; what is returned is to be dropped without the lock. Requires mutex_.
PlanPrefetcher::Held PlanPrefetcher::Release(Stream& stream, PlanOrder::Place place) {
  auto node = stream.held.extract(place);
  CHECK(!node.empty()) << "a place that was fetched is held";
  stream.held_bytes -= node.mapped().bytes;
  held_bytes_ -= node.mapped().bytes;
  budget_.Give(node.mapped().bytes);
  return std::move(node.mapped());
}

// Requires mutex_.
void PlanPrefetcher::Skip(Stream& stream, const std::vector<PlanOrder::Left>& skipped, std::vector<Held>& dropped) {
  for (const PlanOrder::Left& left : skipped) {
    if (left.state == PlanOrder::State::kFetched) dropped.push_back(Release(stream, left.place));
    Count(stream, OutcomeOf(left.state, false));
  }
}

// Requires mutex_.
void PlanPrefetcher::Drop(Stream& stream, std::vector<Held>& dropped) {
  while (!stream.held.empty()) {
    dropped.push_back(Release(stream, stream.held.begin()->first));
    Count(stream, PlanOutcome::kUnread);
  }
}

std::vector<PlanReport> PlanPrefetcher::Reports() const {
  const std::scoped_lock lock(mutex_);
  std::vector<PlanReport> reports;
  for (const auto& [name, stream] : streams_) {
    PlanReport& report = reports.emplace_back(stream.report);
    report.files = stream.order.size();
    report.position = stream.order.position();
    report.left = stream.order.left();
    report.ahead_files = stream.held.size();
    report.ahead_bytes = stream.held_bytes;
  }
  return reports;
}

}  // namespace mlcache::prefetch
