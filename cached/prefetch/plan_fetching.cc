// The workers of the plan prefetcher: what is looked up and fetched next, and what becomes of it.
#include <glog/logging.h>

#include <algorithm>
#include <future>

#include "cached/prefetch/plan_prefetcher.h"

namespace mlcache::prefetch {
namespace {

// Of a file larger than this part of the share its beginning is fetched; what follows is its readers' readahead's.
constexpr uint64_t kSharesPerFile = 4;
// Room may be given back by another mount, which does not know who waits for it.
constexpr Nanos kRoomPoll = std::chrono::milliseconds(200);
constexpr uint64_t kMaxLogged = 20;  // files that failed, a plan

uint64_t BytesAhead(uint64_t size, uint64_t share) {
  const uint64_t most = share / kSharesPerFile;
  const uint64_t unit = most >= cache::kChunkBytes ? cache::kChunkBytes : cache::kBlockBytes;
  return std::min(size, std::max(unit, most / unit * unit));
}

}  // namespace

void PlanPrefetcher::Work(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    std::optional<Task> task;
    {
      std::unique_lock lock(mutex_);
      const auto next = [&] {
        task = Next();
        return task.has_value();
      };
      if (!next() && found_ > 0 && !polling_) {
        polling_ = true;
        work_.wait_for(lock, stop, kRoomPoll, next);
        polling_ = false;
      } else if (!task) {
        work_.wait(lock, stop, next);
      }
    }
    if (!task) continue;
    if (task->found) {
      Fetch(*task);
    } else {
      LookUp(*task, false);
    }
  }
}

// The streams take turns; in each the nearest comes first. Requires mutex_.
std::optional<PlanPrefetcher::Task> PlanPrefetcher::Next() {
  auto next = streams_.upper_bound(turn_);
  for (size_t i = 0; i < streams_.size(); ++i, ++next) {
    if (next == streams_.end()) next = streams_.begin();
    Stream& stream = next->second;
    std::optional<Task> task = NextFound(stream);
    if (!task && stream.found.size() < options_.workers) {
      if (auto claimed = stream.order.Claim()) {
        stream.looking.insert(claimed->place);
        task = TaskOf(stream, *std::move(claimed));
      }
    }
    if (!task) continue;
    turn_ = next->first;
    return task;
  }
  return std::nullopt;
}

PlanPrefetcher::Task PlanPrefetcher::TaskOf(const Stream& stream, PlanOrder::Claimed claimed) const {
  return {.stream = stream.report.stream,
          .generation = stream.generation,
          .claimed = std::move(claimed),
          .stop = stream.stop.get_token(),
          .found = std::nullopt};
}

// The nearest file that was looked up, if there is room for it now, or if its reader came first. Requires mutex_.
std::optional<PlanPrefetcher::Task> PlanPrefetcher::NextFound(Stream& stream) {
  if (stream.found.empty()) return std::nullopt;
  const auto& [place, found] = *stream.found.begin();
  const uint64_t share = ShareOfStream();
  uint64_t bytes = 0;
  if (stream.order.IsFetching(place)) {
    bytes = BytesAhead(found.source.ref.size, share);
    const uint64_t then = stream.held_bytes + stream.fetching_bytes + bytes;
    // Room that is scarce is kept for nearer files that are still looked up.
    const bool nearer = !stream.looking.empty() && *stream.looking.begin() < place;
    if (then > share || (nearer && then > share / 2) || !budget_.Take(held_bytes_, bytes)) return std::nullopt;
    held_bytes_ += bytes;
    stream.fetching_bytes += bytes;
  }
  Task task = TaskOf(stream, {.place = place, .path = found.source.ref.path});
  task.found = std::move(stream.found.begin()->second);
  task.bytes = bytes;
  stream.found.erase(stream.found.begin());
  --found_;
  return task;
}

// Null once the plan was replaced or cleared. Requires mutex_.
PlanPrefetcher::Stream* PlanPrefetcher::Of(const Task& task) {
  const auto found = streams_.find(task.stream);
  return found != streams_.end() && found->second.generation == task.generation ? &found->second : nullptr;
}

// What is to be fetched; kAlreadyExists: nothing.
Result<PlanPrefetcher::Found> PlanPrefetcher::Find(const Task& task, bool again) {
  const std::string& path = task.claimed.path;
  const store::CallContext context{.priority = store::Priority::kPlan,
                                   .job = options_.job,
                                   .deadline = SystemClock().Now() + options_.request_timeout,
                                   .stop = task.stop};
  MLCACHE_ASSIGN_OR_RETURN(fetch::Source source, files_->Find(path, task.claimed.together, context));
  if (source.object->Missing(0, source.ref.size).empty()) return Fail(Code::kAlreadyExists, path);
  if (!source.hints.keep) return Fail(Code::kFailedPrecondition, path + ": changed too recently to be kept");
  source.hints.plan_position = task.claimed.place;
  return Found{.source = std::move(source), .again = again};
}

void PlanPrefetcher::LookUp(const Task& task, bool again) {
  Result<Found> found = Find(task, again);
  const std::optional<Error> error = found.has_value() ? std::nullopt : std::optional(found.error());
  {
    const std::scoped_lock lock(mutex_);
    Stream* const stream = Of(task);
    if (stream == nullptr) return;
    stream->looking.erase(task.claimed.place);
    if (found.has_value() && stream->order.IsFetching(task.claimed.place)) {
      stream->found.emplace(task.claimed.place, *std::move(found));
      ++found_;
    }
  }
  work_.notify_one();
  if (!error) return;
  if (error->code() == Code::kAlreadyExists) return Present(task);
  Failed(task, *error);
}

void PlanPrefetcher::Fetch(const Task& task) {
  if (task.bytes == 0) return;  // its reader came first
  std::promise<Status> ended;
  std::future<Status> result = ended.get_future();
  const store::CallContext context{.priority = store::Priority::kPlan, .job = options_.job, .stop = task.stop};
  fetcher_.Ensure(task.found->source, {.offset = 0, .length = task.bytes}, context,
                  [ended = std::move(ended)](Status status) mutable { ended.set_value(std::move(status)); });
  const Status fetched = result.get();
  if (fetched.has_value()) return Keep(task);
  GiveRoom(task);
  if (fetched.error().code() != Code::kFailedPrecondition) return Failed(task, fetched.error());
  files_->Distrust(task.claimed.path);
  if (task.found->again) return Failed(task, fetched.error());
  LookUp(task, true);
}

void PlanPrefetcher::GiveRoom(const Task& task) {
  {
    const std::scoped_lock lock(mutex_);
    if (Stream* const stream = Of(task)) stream->fetching_bytes -= task.bytes;
    held_bytes_ -= task.bytes;
    budget_.Give(task.bytes);
  }
  work_.notify_one();
}

void PlanPrefetcher::Present(const Task& task) {
  const std::scoped_lock lock(mutex_);
  if (Stream* const stream = Of(task)) stream->order.Settle(task.claimed.place, PlanOrder::State::kPresent);
}

void PlanPrefetcher::Failed(const Task& task, const Error& error) {
  uint64_t number = 0;
  {
    const std::scoped_lock lock(mutex_);
    Stream* const stream = Of(task);
    if (stream == nullptr) return;
    stream->order.Settle(task.claimed.place, PlanOrder::State::kFailed);
    number = ++stream->report.unknown;
    if (number <= kMaxNamed) stream->report.named.emplace_back(task.claimed.path, error);
  }
  if (number > kMaxLogged) return;
  LOG(WARNING) << options_.mountpoint << ": plan: " << task.claimed.path << " is not fetched ahead: " << error
               << (number == kMaxLogged ? "; more such files of this plan are only counted" : "");
}

void PlanPrefetcher::Keep(const Task& task) {
  Held held{.object = task.found->source.object, .bytes = task.bytes};
  {
    const std::scoped_lock lock(mutex_);
    Stream* const stream = Of(task);
    if (stream != nullptr && stream->order.Settle(task.claimed.place, PlanOrder::State::kFetched)) {
      stream->fetching_bytes -= held.bytes;
      return Hold(*stream, task.claimed.place, std::move(held));
    }
    // The plan that replaced this one may want it too.
    const auto later = streams_.find(task.stream);
    if (stream == nullptr && later != streams_.end()) {
      if (const auto adopted = later->second.order.Adopt(task.claimed.path)) {
        return Hold(later->second, *adopted, std::move(held));
      }
    }
  }
  GiveRoom(task);
}

}  // namespace mlcache::prefetch
