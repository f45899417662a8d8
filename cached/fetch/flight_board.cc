#include "cached/fetch/flight_board.h"

#include <algorithm>

#include "cached/fetch/ranges.h"

namespace mlcache::fetch {
namespace {

// How long a flight may overrun its deadline before its readers stop waiting for the store to notice.
constexpr Nanos kOverrun = std::chrono::seconds(1);

// What the parts ask for: disjoint, ascending, neighbours joined.
std::vector<cache::ByteRange> RangesOf(const std::vector<Part>& parts) {
  std::vector<cache::ByteRange> asked;
  asked.reserve(parts.size());
  for (const Part& part : parts) asked.push_back({part.begin, part.end - part.begin});
  std::ranges::sort(asked, {}, &cache::ByteRange::offset);
  std::vector<cache::ByteRange> merged;
  for (const cache::ByteRange& range : asked) {
    if (!merged.empty() && range.offset <= EndOf(merged.back())) {
      merged.back() = Union(merged.back(), range);
    } else {
      merged.push_back(range);
    }
  }
  return merged;
}

// Moves what `take` says yes to from `from` to the result, keeping the order of both.
template <typename Predicate>
std::vector<Part> Extract(std::vector<Part>& from, Predicate take) {
  std::vector<Part> taken;
  auto keep = from.begin();
  for (Part& part : from) {
    if (take(part)) {
      taken.push_back(std::move(part));
    } else {
      if (&*keep != &part) *keep = std::move(part);
      ++keep;
    }
  }
  from.erase(keep, from.end());
  return taken;
}

}  // namespace

FlightBoard::Joined FlightBoard::Join(Part& part, cache::ByteRange want, std::shared_ptr<Flight>* flight) {
  const std::scoped_lock lock(mutex_);
  if (stopping_) return Joined::kStopping;
  const Source& source = part.operation->source();
  const uint64_t chunk = part.begin / cache::kChunkBytes;
  const auto found = flights_.find(Key{source.object.get(), chunk});
  if (found == flights_.end()) {
    std::shared_ptr<Flight> made = Launch(source, chunk, want);
    made->job = part.operation->job();
    made->waiting.push_back(std::move(part));
    queue_.push_back(std::move(made));
    demand_.notify_one();
    return Joined::kWaiting;
  }
  Flight& running = *found->second;
  if (running.cancelled) {
    running.afterwards.push_back(std::move(part));
    return Joined::kWaiting;
  }
  // Nothing was asked of the store yet, so it can still bring more.
  if (running.state == Flight::State::kQueued) running.want = Union(running.want, want);
  const bool covered =
      running.started
          ? std::ranges::any_of(running.serves, [&](const auto& range) { return Covers(range, part.begin, part.end); })
          : Covers(running.want, part.begin, part.end);
  if (!covered) {
    // Waiting for its turn is no failed attempt.
    if (part.attempts > 1) --part.attempts;
    running.afterwards.push_back(std::move(part));
    return Joined::kWaiting;
  }
  if (!running.started) {
    running.waiting.push_back(std::move(part));
    return Joined::kWaiting;
  }
  part.ready_at = ReadyAt(running.ranges, part.begin, part.end);
  running.served = true;
  if (part.ready_at <= running.arrived_until) {
    *flight = found->second;
    return Joined::kReady;
  }
  running.waiting.push_back(std::move(part));
  return Joined::kWaiting;
}

bool FlightBoard::Add(std::shared_ptr<EnsureOperation> ensure) {
  const std::scoped_lock lock(mutex_);
  if (stopping_ || ensures_.size() >= limits_.max_ensures) return false;
  List(ensure);
  ensures_.insert(std::move(ensure));
  Publish();
  return true;
}

FlightBoard::Work FlightBoard::Take(Lane lane) {
  std::condition_variable& wake = lane == Lane::kDemand ? demand_ : background_;
  std::unique_lock lock(mutex_);
  Work work;
  while (!stopping_) {
    work.flight = Pick(lane, work.ended);
    if (work.flight != nullptr || !work.ended.empty()) {
      // One announcement may stand for many chunks: the next worker looks whether there is one for it too.
      if (MayHoldWork(lane)) wake.notify_one();
      return work;
    }
    wake.wait(lock);
  }
  work.stopping = true;
  return work;
}

std::shared_ptr<Flight> FlightBoard::Pick(Lane lane, EnsureList& ended) {
  if (lane == Lane::kDemand) {
    while (!queue_.empty() && queue_.front()->state != Flight::State::kQueued) queue_.pop_front();
    if (!queue_.empty()) {
      std::shared_ptr<Flight> flight = queue_.front();
      if (!Admits(lane, flight->end - flight->begin)) return nullptr;
      queue_.pop_front();
      Run(flight, lane);
      return flight;
    }
  }
  const size_t first = lane == Lane::kDemand ? 0 : 1;
  const size_t last = lane == Lane::kDemand ? 1 : lists_.size();
  for (size_t priority = first; priority < last; ++priority) {
    auto& list = lists_[priority];
    while (!list.empty()) {
      if (!Admits(lane, cache::kChunkBytes)) return nullptr;
      const std::shared_ptr<EnsureOperation> ensure = std::move(list.front());
      list.pop_front();
      ensure->listed = false;
      if (ensure->ended) continue;
      std::shared_ptr<Flight> flight = NextOf(ensure, ended);
      if (ensure->next < ensure->end && !ensure->error.has_value()) List(ensure);  // to the back: equals take turns
      if (flight == nullptr) continue;
      Run(flight, lane);
      return flight;
    }
  }
  return nullptr;
}

std::shared_ptr<Flight> FlightBoard::NextOf(const std::shared_ptr<EnsureOperation>& ensure, EnsureList& ended) {
  while (ensure->next < ensure->end && !ensure->error.has_value()) {
    const uint64_t size = ensure->source.object->key().size;
    const uint64_t chunk = ensure->next / cache::kChunkBytes;
    const uint64_t stop = std::min(ensure->end, (chunk + 1) * cache::kChunkBytes);
    const uint64_t begin = ensure->next / cache::kBlockBytes * cache::kBlockBytes;
    const uint64_t end = std::min(size, (stop + cache::kBlockBytes - 1) / cache::kBlockBytes * cache::kBlockBytes);
    const cache::ByteRange want{begin, end - begin};
    ensure->next = stop;
    ++ensure->in_flight;
    const auto found = flights_.find(Key{ensure->source.object.get(), chunk});
    if (found == flights_.end()) {
      std::shared_ptr<Flight> flight = Launch(ensure->source, chunk, want);
      flight->job = ensure->job;
      flight->priority = ensure->priority;
      flight->background = ensure->priority != store::Priority::kDemand;
      flight->purpose = ensure->stop;
      flight->ensures.push_back({.operation = ensure});
      return flight;
    }
    Flight& other = *found->second;
    if (other.state == Flight::State::kQueued) other.want = Union(other.want, want);
    if (!other.cancelled && ensure->priority != store::Priority::kDemand) other.background = true;
    other.ensures.push_back(
        {.operation = ensure, .again = other.cancelled || !Covers(other.want, want.offset, EndOf(want))});
  }
  EndIfDone(ensure, ended);
  return nullptr;
}

std::pair<std::vector<Part>, bool> FlightBoard::Start(Flight& flight, std::vector<cache::ByteRange> ranges, bool keeps,
                                                      Buffer buffer, Nanos deadline) {
  const std::scoped_lock lock(mutex_);
  if (keeps) {
    flight.serves.push_back(flight.want);
    flight.ranges = std::move(ranges);
  } else {
    flight.serves = RangesOf(flight.waiting);
    flight.ranges = Intersection(ranges, flight.serves);
  }
  flight.buffer = std::move(buffer);
  flight.deadline = deadline;
  flight.started = true;
  for (Part& part : flight.waiting) part.ready_at = ReadyAt(flight.ranges, part.begin, part.end);
  std::vector<Part> ready = Extract(flight.waiting, [](const Part& part) { return part.ready_at == 0; });
  flight.served = flight.served || !ready.empty();
  return {std::move(ready), !flight.cancelled};
}

std::vector<Part> FlightBoard::Arrive(Flight& flight, uint64_t until) {
  const std::scoped_lock lock(mutex_);
  flight.arrived_until = until;
  std::vector<Part> ready = Extract(flight.waiting, [&](const Part& part) { return part.ready_at <= until; });
  flight.served = flight.served || !ready.empty();
  return ready;
}

bool FlightBoard::Postpone(Flight& flight, Part& part) {
  const std::scoped_lock lock(mutex_);
  if (flight.state == Flight::State::kDone) return false;
  flight.afterwards.push_back(std::move(part));
  return true;
}

bool FlightBoard::HasReaders(Flight& flight) {
  const std::scoped_lock lock(mutex_);
  return !flight.waiting.empty() || flight.served;
}

FlightBoard::Leftovers FlightBoard::Finish(const std::shared_ptr<Flight>& flight, const Status& kept) {
  const std::scoped_lock lock(mutex_);
  Leftovers left;
  flights_.erase(Key{flight->source.object.get(), flight->chunk});
  flight->state = Flight::State::kDone;
  --running_;
  if (flight->lane_is_demand) --demand_running_;
  bytes_in_flight_ -= flight->end - flight->begin;
  left.parts = std::move(flight->waiting);
  left.afterwards = std::move(flight->afterwards);
  for (const Flight::EnsureWait& wait : std::exchange(flight->ensures, {})) {
    EnsureOperation& ensure = *wait.operation;
    --ensure.in_flight;
    if (ensure.ended) continue;
    if (wait.again || (flight->cancelled && !flight->overrun && !kept.has_value())) {
      ensure.next = std::min(ensure.next, flight->begin);
      if (ensure.next < ensure.begin) ensure.next = ensure.begin;
      if (!ensure.listed) List(wait.operation);
      continue;
    }
    if (!kept.has_value() && !ensure.error.has_value()) ensure.error = kept.error();
    EndIfDone(wait.operation, left.ended);
  }
  Publish();
  // Room in the budget may be what either lane waited for.
  demand_.notify_one();
  background_.notify_one();
  return left;
}

FlightBoard::Expired FlightBoard::Expire(Nanos now, bool stopping) {
  const std::scoped_lock lock(mutex_);
  Expired expired;
  for (auto next = ensures_.begin(); next != ensures_.end();) {
    const std::shared_ptr<EnsureOperation> ensure = *next;
    ++next;
    const bool stopped = stopping || ensure->stop.stop_requested();
    if (!stopped && now < ensure->deadline) continue;
    ensure->error = Error(stopped ? Code::kCancelled : Code::kDeadlineExceeded,
                          ensure->source.ref.path + ": bringing it into the cache was " +
                              (stopped ? "called off" : "not done by its deadline"));
    ensure->ended = true;
    ensures_.erase(ensure);
    expired.ended.push_back(ensure);
  }
  std::vector<std::shared_ptr<Flight>> abandoned;
  for (const auto& [key, flight] : flights_) {
    const bool overrun = flight->deadline != Nanos::max() && now > flight->deadline + kOverrun;
    auto late = [&](const Part& part) { return overrun || now >= part.operation->deadline(); };
    auto gone = [&](const Part& part) { return stopping || part.operation->stop().stop_requested() || late(part); };
    bool lost = false;
    for (std::vector<Part>* parts : {&flight->waiting, &flight->afterwards}) {
      for (Part& part : Extract(*parts, gone)) {
        const bool called_off = stopping || part.operation->stop().stop_requested();
        expired.parts.emplace_back(std::move(part), called_off ? Code::kCancelled : Code::kDeadlineExceeded);
        lost = true;
      }
    }
    const bool wanted = flight->background || flight->served || !flight->waiting.empty() ||
                        !flight->afterwards.empty() ||
                        std::ranges::any_of(flight->ensures, [](const auto& wait) { return !wait.operation->ended; });
    flight->overrun = overrun;
    if (stopping || overrun || (!wanted && (lost || !flight->ensures.empty()))) abandoned.push_back(flight);
  }
  for (const std::shared_ptr<Flight>& flight : abandoned) Abandon(flight, expired);
  Publish();
  return expired;
}

void FlightBoard::Abandon(const std::shared_ptr<Flight>& flight, Expired& expired) {
  if (flight->state == Flight::State::kQueued) {
    // Its entry in the queue is skipped when its turn comes.
    flights_.erase(Key{flight->source.object.get(), flight->chunk});
    flight->state = Flight::State::kDone;
    for (const Flight::EnsureWait& wait : std::exchange(flight->ensures, {})) {
      --wait.operation->in_flight;
      EndIfDone(wait.operation, expired.ended);
    }
    return;
  }
  if (flight->cancelled) return;
  flight->cancelled = true;
  expired.stopped.push_back(flight);
}

bool FlightBoard::WaitForReaper(std::chrono::milliseconds period) {
  std::unique_lock lock(mutex_);
  reaper_.wait(lock, [this] { return stopping_ || !flights_.empty() || !ensures_.empty(); });
  reaper_.wait_for(lock, period, [this] { return stopping_; });
  return !stopping_;
}

void FlightBoard::Stop() {
  const std::scoped_lock lock(mutex_);
  stopping_ = true;
  demand_.notify_all();
  background_.notify_all();
  reaper_.notify_all();
}

std::shared_ptr<Flight> FlightBoard::Launch(const Source& source, uint64_t chunk, cache::ByteRange want) {
  auto flight = std::make_shared<Flight>();
  flight->source = source;
  flight->chunk = chunk;
  flight->begin = chunk * cache::kChunkBytes;
  flight->end = std::min(source.object->key().size, flight->begin + cache::kChunkBytes);
  flight->want = want;
  if (flights_.empty()) reaper_.notify_one();
  flights_.emplace(Key{source.object.get(), chunk}, flight);
  Publish();
  return flight;
}

bool FlightBoard::MayHoldWork(Lane lane) const {
  if (lane == Lane::kDemand) return !queue_.empty() || !lists_[0].empty();
  return std::any_of(lists_.begin() + 1, lists_.end(), [](const auto& list) { return !list.empty(); });
}

void FlightBoard::Publish() {
  queue_depth_.Set(static_cast<double>(flights_.size() - running_ + ensures_.size()));
  in_flight_.Set(static_cast<double>(running_));
}

bool FlightBoard::Admits(Lane lane, uint64_t bytes) const {
  if (lane == Lane::kDemand) {
    return bytes_in_flight_ + bytes <= limits_.in_flight_bytes || demand_running_ == 0;
  }
  // One chunk is always left to demand.
  return bytes_in_flight_ + bytes + cache::kChunkBytes <= limits_.in_flight_bytes || bytes_in_flight_ == 0;
}

void FlightBoard::Run(const std::shared_ptr<Flight>& flight, Lane lane) {
  flight->state = Flight::State::kRunning;
  flight->lane_is_demand = lane == Lane::kDemand;
  ++running_;
  if (flight->lane_is_demand) ++demand_running_;
  bytes_in_flight_ += flight->end - flight->begin;
  Publish();
}

void FlightBoard::List(const std::shared_ptr<EnsureOperation>& ensure) {
  ensure->listed = true;
  const auto priority = static_cast<size_t>(ensure->priority);
  lists_[priority].push_back(ensure);
  (priority == 0 ? demand_ : background_).notify_one();
  reaper_.notify_one();
}

void FlightBoard::EndIfDone(const std::shared_ptr<EnsureOperation>& ensure, EnsureList& ended) {
  if (ensure->ended || ensure->in_flight > 0) return;
  if (ensure->next < ensure->end && !ensure->error.has_value()) return;
  ensure->ended = true;
  ensures_.erase(ensure);
  ended.push_back(ensure);
  Publish();
}

}  // namespace mlcache::fetch
