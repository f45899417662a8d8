#include "cached/fetch/flight_runner.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace mlcache::fetch {
namespace {

// Where a store cannot vouch for bytes before its reply is whole, replies are this long: readers wait for no more.
constexpr uint64_t kVerifiedStep = kMiB;
// Bytes given to the cache at a time.
constexpr uint64_t kFillStep = kMiB;
constexpr size_t kIdleBuffers = 8;

bool IsSpeculative(const Flight& flight) {
  return flight.priority != store::Priority::kDemand && flight.priority != store::Priority::kWarmup;
}

uint64_t BytesOf(const std::vector<cache::ByteRange>& ranges) {
  uint64_t bytes = 0;
  for (const cache::ByteRange& range : ranges) bytes += range.length;
  return bytes;
}

}  // namespace

FlightRunner::FlightRunner(FlightBoard& board, PrefetchLedger& ledger, PartSink& sink, const Clock& clock,
                           Metrics& metrics, Nanos request_timeout)
    : board_(board),
      ledger_(ledger),
      sink_(sink),
      clock_(clock),
      metrics_(metrics),
      bypass_bytes_(metrics.bypass_bytes.Add({})),
      request_timeout_(request_timeout),
      buffers_(kIdleBuffers) {}

void FlightRunner::Run(const std::shared_ptr<Flight>& flight) {
  // From here on nobody else fetches or fills this chunk, so what is missing now stays so until this flight brings it.
  std::vector<cache::ByteRange> missing = flight->source.object->Missing(flight->want.offset, flight->want.length);
  Result<Reservations> rooms = Reserve(*flight, missing);
  Status kept;
  if (!rooms.has_value()) kept = std::unexpected(rooms.error());
  if (!kept.has_value() && !board_.HasReaders(*flight)) {
    Land(flight, {}, kept);  // nothing is asked of the store for what could not be kept
    return;
  }
  const Nanos deadline = clock_.Now() + request_timeout_;
  Buffer buffer = missing.empty() ? Buffer() : buffers_.Take(flight->end - flight->begin);
  auto [ready, wanted] = board_.Start(*flight, std::move(missing), kept.has_value(), std::move(buffer), deadline);
  sink_.Deliver(flight, std::move(ready));
  const std::vector<cache::ByteRange>& ranges = flight->ranges;

  const bool speculative = IsSpeculative(*flight) && !ranges.empty();
  if (speculative) {
    ledger_.Issue(flight->source.object, flight->chunk, ranges, flight->source.observer, flight->purpose);
  }
  const store::CallContext context{
      .priority = flight->priority, .job = flight->job, .deadline = deadline, .stop = flight->stop.get_token()};
  Status fetched;
  if (!wanted) fetched = Fail(Code::kCancelled, flight->source.ref.path + ": nobody waits for it any more");
  for (size_t i = 0; i < ranges.size() && fetched.has_value(); ++i) {
    fetched = Fetch(flight, ranges[i], context);
    if (!fetched.has_value()) break;
    if (kept.has_value()) {
      kept = Keep(*flight, ranges[i], *(*rooms)[i]);
    } else {
      bypass_bytes_.Increment(static_cast<double>(ranges[i].length));
    }
  }
  if (speculative && fetched.has_value()) {
    metrics_.prefetch_issued_bytes.Increment(static_cast<double>(BytesOf(ranges)));
    ledger_.Land(*flight->source.object, flight->chunk);
  } else if (speculative) {
    ledger_.Withdraw(*flight->source.object, flight->chunk);
  }
  rooms = Reservations();  // what was not filled is free before anybody is told
  Land(flight, fetched, fetched.has_value() ? kept : fetched);
}

Result<FlightRunner::Reservations> FlightRunner::Reserve(const Flight& flight,
                                                         const std::vector<cache::ByteRange>& ranges) const {
  Reservations rooms;
  for (const cache::ByteRange& range : ranges) {
    if (!flight.source.hints.keep) {
      return Fail(Code::kResourceExhausted,
                  flight.source.ref.path + ": changed too recently for its version to be trusted, so it is not kept");
    }
    MLCACHE_ASSIGN_OR_RETURN(auto room, flight.source.object->Reserve(range, flight.source.hints));
    rooms.push_back(std::move(room));
  }
  return rooms;
}

void FlightRunner::Land(const std::shared_ptr<Flight>& flight, const Status& fetched, const Status& kept) {
  FlightBoard::Leftovers left = board_.Finish(flight, kept);
  for (Part& part : left.parts) {
    // A flight that was called off, or was never meant to serve readers, says nothing about those that came late.
    if (fetched.has_value() || flight->cancelled) {
      sink_.Again(std::move(part));
    } else {
      sink_.End(std::move(part), fetched);
    }
  }
  for (Part& part : left.afterwards) sink_.Again(std::move(part));
  sink_.End(left.ended);
}

Status FlightRunner::Fetch(const std::shared_ptr<Flight>& flight, const cache::ByteRange& range,
                           const store::CallContext& context) {
  const bool stream = flight->source.store->PinsVersion();
  const uint64_t end = range.offset + range.length;
  const prometheus::Labels labels{{"store", flight->source.object->key().store}};
  for (uint64_t at = range.offset; at < end;) {
    const uint64_t length = stream ? range.length : std::min(kVerifiedStep, end - at);
    Progress progress;
    const Nanos asked = clock_.Now();
    const Status status = FetchStep(flight, at, length, stream, context, &progress);
    if (!status.has_value()) {
      // Nothing of a range that failed is kept, so the steps that had succeeded were for nothing too; what the failed
      // call itself brought is counted by the store.
      metrics_.store_wasted_bytes.Add(labels).Increment(static_cast<double>(at - range.offset));
      return status;
    }
    at += length;
    if (FetchObserver* const observer = flight->source.observer.get(); observer != nullptr) {
      observer->Fetched(length, progress.first_byte - asked, clock_.Now() - asked);
    }
    // Counted before the last reader is told, so that whoever has read everything finds everything counted.
    if (at == end) metrics_.store_read_bytes.Add(labels).Increment(static_cast<double>(range.length));
    sink_.Deliver(flight, board_.Arrive(*flight, at));
  }
  return {};
}

Status FlightRunner::FetchStep(const std::shared_ptr<Flight>& flight, uint64_t offset, uint64_t length, bool stream,
                               const store::CallContext& context, Progress* progress) {
  const std::string& path = flight->source.ref.path;
  uint64_t* const taken = &progress->taken;
  const store::ByteSink sink = [&](std::span<const std::byte> bytes) -> Status {
    if (bytes.size() > length - *taken) return Fail(Code::kDataLoss, path + ": the store sent more than was asked for");
    if (bytes.empty()) return {};
    if (*taken == 0) progress->first_byte = clock_.Now();
    std::memcpy(flight->Bytes(offset + *taken, offset + *taken + bytes.size()).data(), bytes.data(), bytes.size());
    *taken += bytes.size();
    if (stream && *taken < length) sink_.Deliver(flight, board_.Arrive(*flight, offset + *taken));
    return {};
  };
  const Status status = flight->source.store->ReadRange(flight->source.ref, offset, length, sink, context);
  if (!status.has_value()) {
    if (status.error().message().find(path) != std::string::npos) return status;
    return std::unexpected(status.error().WithContext(path));
  }
  if (*taken < length) {
    return Fail(Code::kDataLoss, path + ": the store sent " + std::to_string(*taken) + " of " + std::to_string(length) +
                                     " bytes at offset " + std::to_string(offset));
  }
  return {};
}

Status FlightRunner::Keep(const Flight& flight, const cache::ByteRange& range, cache::Reservation& room) {
  const uint64_t end = range.offset + range.length;
  for (uint64_t at = range.offset; at < end; at += kFillStep) {
    const uint64_t until = std::min(end, at + kFillStep);
    const Status filled = flight.source.object->Fill(room, at, flight.Bytes(at, until));
    if (!filled.has_value()) {
      bypass_bytes_.Increment(static_cast<double>(end - at));
      return filled;
    }
  }
  return {};
}

}  // namespace mlcache::fetch
