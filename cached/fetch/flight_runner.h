// Carries one flight through: finds what is missing, sets room aside, streams it from the store into the flight's
// buffer, hands each waiting part over as its bytes arrive, and keeps what came. Thread-safe.
#pragma once

#include <memory>
#include <vector>

#include "cached/fetch/buffer_pool.h"
#include "cached/fetch/flight.h"
#include "cached/fetch/flight_board.h"
#include "cached/fetch/prefetch_ledger.h"
#include "cached/metrics/metrics.h"
#include "common/clock.h"

namespace mlcache::fetch {

// What becomes of parts that leave a flight. Called with no lock held.
class PartSink {
 public:
  virtual ~PartSink() = default;

  // What the flight brings of them is in its buffer.
  virtual void Deliver(const std::shared_ptr<Flight>& flight, std::vector<Part> parts) = 0;
  // The flight did not serve it: to be looked at anew.
  virtual void Again(Part part) = 0;
  virtual void End(Part part, const Status& status) = 0;
  virtual void End(const EnsureList& ensures) = 0;
};

class FlightRunner {
 public:
  // All borrowed.
  FlightRunner(FlightBoard& board, PrefetchLedger& ledger, PartSink& sink, const Clock& clock, Metrics& metrics,
               Nanos request_timeout);

  // `flight` comes from FlightBoard::Take; it has ended on return.
  void Run(const std::shared_ptr<Flight>& flight);

 private:
  using Reservations = std::vector<std::unique_ptr<cache::Reservation>>;
  // Of one call of the store.
  struct Progress {
    uint64_t taken = 0;
    Nanos first_byte{};  // when it came
  };

  Result<Reservations> Reserve(const Flight& flight, const std::vector<cache::ByteRange>& ranges) const;
  void Land(const std::shared_ptr<Flight>& flight, const Status& fetched, const Status& kept);
  Status Fetch(const std::shared_ptr<Flight>& flight, const cache::ByteRange& range, const store::CallContext& context);
  Status FetchStep(const std::shared_ptr<Flight>& flight, uint64_t offset, uint64_t length, bool stream,
                   const store::CallContext& context, Progress* progress);
  Status Keep(const Flight& flight, const cache::ByteRange& range, cache::Reservation& room);

  FlightBoard& board_;
  PrefetchLedger& ledger_;
  PartSink& sink_;
  const Clock& clock_;
  Metrics& metrics_;
  prometheus::Counter& bypass_bytes_;
  const Nanos request_timeout_;
  BufferPool buffers_;
};

}  // namespace mlcache::fetch
