#include "cached/session/metadata_flights.h"

#include <chrono>

namespace mlcache::session {

Status CheckContext(const store::CallContext& context, std::string_view path) {
  if (context.stop.stop_requested()) return Fail(Code::kCancelled, std::string(path) + ": called off");
  if (context.deadline != Nanos::max() && SystemClock().Now() >= context.deadline)
    return Fail(Code::kDeadlineExceeded, std::string(path) + ": the store did not answer in time");
  return {};
}

bool MetadataFlights::IsLeadersOwn(const Error& error) {
  return error.code() == Code::kCancelled || error.code() == Code::kDeadlineExceeded ||
         error.code() == Code::kOutOfRange;
}

Result<MetadataFlights::FlightPtr> MetadataFlights::Board(std::unique_lock<std::mutex>& lock, const std::string& key,
                                                          Nanos now, uint64_t epoch, const store::CallContext& context,
                                                          bool* led) {
  const auto [found, fresh] = flights_.try_emplace(key);
  *led = fresh;
  if (fresh) {
    found->second = std::make_shared<Flight>();
    found->second->started = now;
    found->second->epoch = epoch;
    return found->second;
  }
  FlightPtr flight = found->second;
  const auto done = [&flight] { return flight->done; };
  if (context.deadline == Nanos::max()) {
    landed_.wait(lock, context.stop, done);
  } else {
    landed_.wait_until(lock, context.stop, std::chrono::steady_clock::time_point(context.deadline), done);
  }
  if (!flight->done) MLCACHE_RETURN_IF_ERROR(CheckContext(context, std::string_view(key).substr(1)));
  return flight;
}

void MetadataFlights::Land(const std::string& key, const FlightPtr& flight) {
  flight->done = true;
  if (const auto found = flights_.find(key); found != flights_.end() && found->second == flight) flights_.erase(found);
  landed_.notify_all();
}

}  // namespace mlcache::session
