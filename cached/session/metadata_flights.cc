#include "cached/session/metadata_flights.h"

#include <algorithm>
#include <chrono>
#include <ranges>

#include "cached/session/path.h"

namespace mlcache::session {

Status CheckContext(const store::CallContext& context, std::string_view path) {
  if (context.stop.stop_requested()) return Fail(Code::kCancelled, std::string(path) + ": called off");
  if (context.deadline != Nanos::max() && SystemClock().Now() >= context.deadline)
    return Fail(Code::kDeadlineExceeded, std::string(path) + ": the store did not answer in time");
  return {};
}

bool Question::DependsOn(std::string_view invalidated) const {
  if (IsWithin(path, invalidated)) return true;
  return kind != Kind::kStat && !invalidated.empty() && ParentOf(invalidated) == path;
}

void Invalidations::Add(const std::string& path) {
  ++count_;
  last_.push_back(path);
  if (last_.size() > kRemembered) last_.pop_front();
}

bool Invalidations::Concern(const Question& question, uint64_t count) const {
  const uint64_t later = count_ - count;
  if (later > last_.size()) return true;
  const auto newest = std::views::reverse(last_) | std::views::take(static_cast<ptrdiff_t>(later));
  return std::ranges::any_of(newest, [&](const std::string& path) { return question.DependsOn(path); });
}

bool MetadataFlights::IsLeadersOwn(const Error& error) {
  return error.code() == Code::kCancelled || error.code() == Code::kDeadlineExceeded ||
         error.code() == Code::kOutOfRange;
}

Result<MetadataFlights::FlightPtr> MetadataFlights::Board(std::unique_lock<std::mutex>& lock, const Question& question,
                                                          Nanos now, const store::CallContext& context, bool* led) {
  const auto [found, fresh] = flights_.try_emplace({question.kind, question.path});
  *led = fresh;
  if (fresh) {
    found->second = std::make_shared<Flight>();
    found->second->started = now;
    found->second->invalidations = invalidations_.count();
    return found->second;
  }
  FlightPtr flight = found->second;
  const auto done = [&flight] { return flight->done; };
  if (context.deadline == Nanos::max()) {
    landed_.wait(lock, context.stop, done);
  } else {
    landed_.wait_until(lock, context.stop, std::chrono::steady_clock::time_point(context.deadline), done);
  }
  if (!flight->done) MLCACHE_RETURN_IF_ERROR(CheckContext(context, question.path));
  return flight;
}

void MetadataFlights::Land(const Question& question, const FlightPtr& flight) {
  flight->done = true;
  const auto found = flights_.find({question.kind, question.path});
  if (found != flights_.end() && found->second == flight) flights_.erase(found);
  landed_.notify_all();
}

void MetadataFlights::Invalidate(const std::string& path) {
  invalidations_.Add(path);
  std::erase_if(flights_,
                [&](const auto& flight) { return Question{flight.first.first, flight.first.second}.DependsOn(path); });
}

}  // namespace mlcache::session
