#include "cached/store/hedge_store.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

namespace mlcache::store {
namespace {

constexpr double kMostTokens = 5;

}  // namespace

// One read and its second request, if it gets one.
struct HedgeStore::Race {
  Race(const ObjectRef& ref, uint64_t offset, uint64_t length, const CallContext& context)
      : ref(ref),
        offset(offset),
        length(length),
        job(context.job),
        priority(context.priority),
        deadline(context.deadline) {}

  const ObjectRef ref;
  const uint64_t offset;
  const uint64_t length;
  const std::string job;
  const Priority priority;
  const Nanos deadline;
  Nanos due{};
  std::stop_source stop_first;
  std::stop_source stop_second;

  std::mutex mutex;               // guards all below; a leaf
  uint64_t delivered = 0;         // of the first request
  bool over = false;              // the first request has ended
  bool second_won = false;        // then `second` is complete
  uint64_t second_offset = 0;     // from `offset`
  std::vector<std::byte> second;  // written by the second request alone until it has won
};

bool HedgeStore::Later::operator()(const std::shared_ptr<Race>& a, const std::shared_ptr<Race>& b) const {
  return std::pair(a->due, a.get()) < std::pair(b->due, b.get());
}

HedgeStore::HedgeStore(std::shared_ptr<ObjectStore> inner, const HedgeOptions& options, const std::string& label,
                       Metrics& metrics, const Clock& clock, std::shared_ptr<Executor> executor)
    : ForwardingStore(std::move(inner)),
      options_(options),
      clock_(clock),
      hedged_requests_(metrics.store_hedges.Add({{"store", label}})),
      hedged_bytes_(metrics.store_hedged_bytes.Add({{"store", label}})),
      executor_(std::move(executor)) {}

HedgeStore::~HedgeStore() = default;

Status HedgeStore::ReadRange(const ObjectRef& ref, uint64_t offset, uint64_t length, const ByteSink& sink,
                             const CallContext& context) {
  Nanos in_sink{};
  const ByteSink timed = [&](std::span<const std::byte> bytes) {
    const Nanos begin = clock_.Now();
    Status status = sink(bytes);
    in_sink += clock_.Now() - begin;
    return status;
  };
  const Nanos begin = clock_.Now();
  const std::optional<Nanos> p99 = latency_.P99(length);
  const bool may_hedge = p99 && length > 0 && length <= options_.most_bytes && options_.most_share > 0;
  Status status;
  if (may_hedge) {
    const auto race = std::make_shared<Race>(ref, offset, length, context);
    race->due = begin + std::max(*p99, options_.least_delay);
    {
      const std::lock_guard lock(mutex_);
      tokens_ = std::min(kMostTokens, tokens_ + options_.most_share);
      races_.insert(race);
      if (options_.own_timer && !timer_.joinable()) {
        timer_ = std::jthread([this](const std::stop_token& stop) { RunTimer(stop); });
      }
      if (*races_.begin() == race) changed_.notify_one();
    }
    status = Run(race, timed, context);
    const std::lock_guard lock(mutex_);
    races_.erase(race);
  } else {
    status = inner_->ReadRange(ref, offset, length, timed, context);
  }
  if (status) latency_.Add(length, clock_.Now() - begin - in_sink);
  return status;
}

Status HedgeStore::Run(const std::shared_ptr<Race>& race, const ByteSink& sink, const CallContext& context) {
  bool sink_failed = false;
  const ByteSink counting = [&](std::span<const std::byte> bytes) -> Status {
    {
      const std::lock_guard lock(race->mutex);
      if (race->second_won) return Fail(Code::kCancelled, race->ref.path + ": the second request was faster");
      race->delivered += bytes.size();
    }
    Status status = sink(bytes);
    sink_failed = !status;
    return status;
  };
  const std::stop_callback forward(context.stop, [&] {
    race->stop_first.request_stop();
    race->stop_second.request_stop();
  });
  CallContext first = context;
  first.stop = race->stop_first.get_token();
  Status status = inner_->ReadRange(race->ref, race->offset, race->length, counting, first);
  bool second_won = false;
  {
    const std::lock_guard lock(race->mutex);
    race->over = true;
    second_won = race->second_won;
  }
  if (!second_won) {
    race->stop_second.request_stop();
    return status;
  }
  const uint64_t twice = race->delivered - race->second_offset;
  hedged_bytes_.Increment(static_cast<double>(twice));
  const std::span<const std::byte> rest = std::span(race->second).subspan(twice);
  if (status || sink_failed || context.stop.stop_requested()) return status;
  return rest.empty() ? Status() : sink(rest);
}

Nanos HedgeStore::HedgeOverdue() {
  std::vector<std::shared_ptr<Race>> overdue;
  Nanos next = Nanos::max();
  {
    const std::lock_guard lock(mutex_);
    const Nanos now = clock_.Now();
    while (!races_.empty() && (*races_.begin())->due <= now) {
      if (tokens_ >= 1) {
        tokens_ -= 1;
        overdue.push_back(*races_.begin());
      }
      races_.erase(races_.begin());
    }
    if (!races_.empty()) next = (*races_.begin())->due;
  }
  for (const std::shared_ptr<Race>& race : overdue) Hedge(race);
  return next;
}

void HedgeStore::Hedge(const std::shared_ptr<Race>& race) {
  {
    const std::lock_guard lock(race->mutex);
    if (race->over || race->delivered == race->length) return;
    if (race->delivered > 0 && !inner_->PinsVersion()) return;
    race->second_offset = race->delivered;
  }
  // The task may outlive this store, but neither the store below nor the metrics. Where the executor has no room the
  // first request has to do.
  auto task = [inner = inner_, race, &requests = hedged_requests_, &bytes = hedged_bytes_] {
    requests.Increment();
    AskAgain(*inner, *race, bytes);
  };
  static_cast<void>(executor_->Submit(std::move(task)));
}

void HedgeStore::AskAgain(ObjectStore& inner, Race& race, prometheus::Counter& twice) {
  const uint64_t wanted = race.length - race.second_offset;
  race.second.reserve(wanted);
  const ByteSink collect = [&](std::span<const std::byte> bytes) -> Status {
    race.second.insert(race.second.end(), bytes.begin(), bytes.end());
    return {};
  };
  const CallContext context{
      .priority = race.priority, .job = race.job, .deadline = race.deadline, .stop = race.stop_second.get_token()};
  const Status status = inner.ReadRange(race.ref, race.offset + race.second_offset, wanted, collect, context);
  bool won = false;
  {
    const std::lock_guard lock(race.mutex);
    const bool mixes = race.delivered > 0 && !inner.PinsVersion();
    won = race.second_won = status && !race.over && !mixes;
  }
  if (won) {
    race.stop_first.request_stop();
  } else {
    twice.Increment(static_cast<double>(race.second.size()));
  }
}

void HedgeStore::RunTimer(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    const Nanos next = HedgeOverdue();
    std::unique_lock lock(mutex_);
    const auto sooner = [&] { return !races_.empty() && (*races_.begin())->due < next; };
    if (next == Nanos::max()) {
      changed_.wait(lock, stop, sooner);
    } else {
      changed_.wait_until(lock, stop, std::chrono::steady_clock::time_point{next}, sooner);
    }
  }
}

}  // namespace mlcache::store
