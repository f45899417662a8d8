#include "cached/fetch/fetcher.h"

#include <pthread.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cached/fetch/flight.h"
#include "cached/fetch/flight_board.h"
#include "cached/fetch/flight_runner.h"
#include "cached/fetch/prefetch_ledger.h"
#include "cached/fetch/read_metrics.h"
#include "cached/metrics/metrics.h"
#include "common/executor.h"

namespace mlcache::fetch {
namespace {

constexpr std::chrono::milliseconds kReaperPeriod{20};  // well below the 100 ms in which a stopped read must end
constexpr int kTicksPerSweep = 50;
constexpr size_t kChunksPerSweep = 256;
constexpr size_t kMaxDiskReads = 65536;
// A part that was evicted, or found damaged, so often while it was read gives up.
constexpr uint32_t kMaxAttempts = 8;
// A random reader is brought pieces of this size instead of whole chunks.
constexpr uint64_t kRandomFetchBytes = 256 * kKiB;
// Up to here Ensure looks for itself whether anything is missing; a longer range is walked by a worker.
constexpr uint64_t kQuickLookBytes = 64 * kMiB;

// What a read is rounded to, so that those that follow find their bytes.
uint64_t GrainOf(const Source& source) {
  if (source.outsized && (source.pattern == "random" || source.pattern == "unknown")) return cache::kBlockBytes;
  return source.pattern == "random" ? kRandomFetchBytes : cache::kChunkBytes;
}

class FetcherImpl final : public Fetcher, private PartSink {
 public:
  FetcherImpl(const FetchOptions& options, const Clock& clock, Metrics& metrics)
      : clock_(clock),
        metrics_(metrics),
        ledger_(metrics.prefetch_used_bytes, metrics.prefetch_wasted_bytes),
        board_({.in_flight_bytes = options.in_flight_bytes}, metrics.fetch_queue_depth, metrics.fetches_in_flight),
        runner_(board_, ledger_, *this, clock, metrics, options.request_timeout),
        disk_(MakeThreadPool("fetch-disk", std::max<size_t>(1, options.disk_workers), kMaxDiskReads)) {
    StartWorkers("fetch-demand", std::max<size_t>(1, options.demand_workers), FlightBoard::Lane::kDemand);
    StartWorkers("fetch-ahead", std::max<size_t>(1, options.background_workers), FlightBoard::Lane::kBackground);
    threads_.emplace_back([this] { Reap(); });
    pthread_setname_np(threads_.back().native_handle(), "fetch-reaper");
  }

  ~FetcherImpl() override {
    board_.Stop();
    EndExpired(true);
    threads_.clear();
    disk_.reset();  // its last tasks find the board stopped and end their reads
  }

  void Read(const Source& source, uint64_t offset, std::span<std::byte> out, const store::CallContext& context,
            ReadDone done) override;
  void Ensure(const Source& source, cache::ByteRange range, const store::CallContext& context, ReadDone done) override;
  void Used(const Source& source, cache::ByteRange range) override {
    ledger_.Use(*source.object, range.offset, range.offset + range.length);
  }

 private:
  void Deliver(const std::shared_ptr<Flight>& flight, std::vector<Part> parts) override;
  void Again(Part part) override;
  void End(Part part, const Status& status) override;
  void End(const EnsureList& ensures) override;

  void StartWorkers(const std::string& name, size_t count, FlightBoard::Lane lane);
  void Work(FlightBoard::Lane lane);
  void Reap();
  void EndExpired(bool stopping);

  void Dispatch(Part part);
  void Join(Part part);
  void Submit(Part part, std::move_only_function<void(Part)> task);
  void ReadCached(Part part);
  void CopyMixed(const std::shared_ptr<Flight>& flight, Part part);
  bool EndIfLate(Part& part);

  const Clock& clock_;
  ReadMetrics metrics_;
  PrefetchLedger ledger_;
  FlightBoard board_;
  FlightRunner runner_;
  std::unique_ptr<Executor> disk_;
  std::vector<std::jthread> threads_;
};

void FetcherImpl::StartWorkers(const std::string& name, size_t count, FlightBoard::Lane lane) {
  for (size_t i = 0; i < count; ++i) {
    threads_.emplace_back([this, lane] { Work(lane); });
    pthread_setname_np(threads_.back().native_handle(), name.c_str());
  }
}

void FetcherImpl::Work(FlightBoard::Lane lane) {
  while (true) {
    FlightBoard::Work work = board_.Take(lane);
    End(work.ended);
    if (work.flight != nullptr) runner_.Run(work.flight);
    if (work.stopping) return;
  }
}

void FetcherImpl::Reap() {
  for (int tick = 0; board_.WaitForReaper(kReaperPeriod); ++tick) {
    EndExpired(false);
    if (tick % kTicksPerSweep == 0) ledger_.Sweep(kChunksPerSweep);
  }
}

void FetcherImpl::EndExpired(bool stopping) {
  FlightBoard::Expired expired = board_.Expire(clock_.Now(), stopping);
  for (const std::shared_ptr<Flight>& flight : expired.stopped) flight->stop.request_stop();
  for (auto& [part, code] : expired.parts) {
    const std::string& path = part.operation->source().ref.path;
    End(std::move(part), Fail(code, path + (code == Code::kCancelled ? ": the read was called off"
                                                                     : ": the store did not answer in time")));
  }
  End(expired.ended);
}

void FetcherImpl::Read(const Source& source, uint64_t offset, std::span<std::byte> out,
                       const store::CallContext& context, ReadDone done) {
  const uint64_t size = source.object->key().size;
  if (offset > size || out.size() > size - offset) {
    done(Fail(Code::kOutOfRange, source.ref.path + ": read of " + std::to_string(out.size()) + " bytes at " +
                                     std::to_string(offset) + " of " + std::to_string(size)));
    return;
  }
  if (out.empty()) {
    done({});
    return;
  }
  const uint64_t end = offset + out.size();
  source.object->Touch({offset, out.size()}, source.hints);
  if (source.object->Read(offset, out, cache::Wait::kNever).has_value()) {
    metrics_.CountHitBytes(source.object->TierKind(), source.pattern, out.size());
    metrics_.CountRead(source.pattern, false);
    ledger_.Use(*source.object, offset, end);
    done({});
    return;
  }
  auto operation = std::make_shared<ReadOperation>(source, offset, out, context, clock_.Now(), std::move(done));
  std::vector<Part> parts;
  for (uint64_t begin = offset; begin < end;) {
    const uint64_t until = std::min(end, (begin / cache::kChunkBytes + 1) * cache::kChunkBytes);
    parts.push_back({.operation = operation, .begin = begin, .end = until});
    begin = until;
  }
  operation->ExpectParts(static_cast<uint32_t>(parts.size()));
  for (Part& part : parts) Dispatch(std::move(part));
}

void FetcherImpl::Ensure(const Source& source, cache::ByteRange range, const store::CallContext& context,
                         ReadDone done) {
  const uint64_t size = source.object->key().size;
  const uint64_t end = range.offset >= size ? range.offset : range.offset + std::min(range.length, size - range.offset);
  const bool there = end == range.offset || (end - range.offset <= kQuickLookBytes &&
                                             source.object->Missing(range.offset, end - range.offset).empty());
  if (there) {
    if (done) done({});
    return;
  }
  auto ensure = std::make_shared<EnsureOperation>();
  ensure->source = source;
  ensure->job = context.job;
  ensure->priority = context.priority;
  ensure->stop = context.stop;
  ensure->deadline = context.deadline;
  ensure->begin = range.offset;
  ensure->next = range.offset;
  ensure->end = end;
  ensure->done = std::move(done);
  if (!board_.Add(ensure)) {
    if (ensure->done) ensure->done(Fail(Code::kResourceExhausted, source.ref.path + ": too many fetches are queued"));
  }
}

void FetcherImpl::Dispatch(Part part) {
  if (part.operation->source().object->Missing(part.begin, part.end - part.begin).empty()) {
    Submit(std::move(part), [this](Part submitted) { ReadCached(std::move(submitted)); });
  } else {
    Join(std::move(part));
  }
}

void FetcherImpl::Join(Part part) {
  const Source& source = part.operation->source();
  const uint64_t grain = GrainOf(source);
  const uint64_t begin = part.begin / grain * grain;
  const uint64_t end = std::min(source.object->key().size, (part.end + grain - 1) / grain * grain);
  if (part.attempts == 0) metrics_.CountMissBytes(source.pattern, part.end - part.begin);
  ++part.attempts;
  part.operation->MarkMissed();
  std::shared_ptr<Flight> flight;
  switch (board_.Join(part, {begin, end - begin}, &flight)) {
    case FlightBoard::Joined::kWaiting:
      return;
    case FlightBoard::Joined::kReady: {
      std::vector<Part> parts;
      parts.push_back(std::move(part));
      Deliver(flight, std::move(parts));
      return;
    }
    case FlightBoard::Joined::kStopping:
      End(std::move(part), Fail(Code::kCancelled, source.ref.path + ": the fetcher is shutting down"));
      return;
  }
}

void FetcherImpl::Again(Part part) {
  if (EndIfLate(part)) return;
  if (part.attempts >= kMaxAttempts) {
    const std::string& path = part.operation->source().ref.path;
    End(std::move(part), Fail(Code::kUnavailable, path + ": evicted or damaged as fast as it is fetched; is the cache "
                                                         "too small for what reads at once?"));
    return;
  }
  Dispatch(std::move(part));
}

// A queue that is full is an answer too: the read ends with it.
void FetcherImpl::Submit(Part part, std::move_only_function<void(Part)> task) {
  auto held = std::make_shared<Part>(std::move(part));
  if (disk_->Submit([held, task = std::move(task)]() mutable { task(std::move(*held)); })) return;
  const std::string& path = held->operation->source().ref.path;
  End(std::move(*held), Fail(Code::kUnavailable, path + ": too many reads wait for the disk"));
}

void FetcherImpl::ReadCached(Part part) {
  if (EndIfLate(part)) return;
  ReadOperation& operation = *part.operation;
  const Source& source = operation.source();
  const Status status = source.object->Read(part.begin, operation.Out(part.begin, part.end), cache::Wait::kMayBlock);
  if (status.has_value()) {
    if (part.attempts == 0) metrics_.CountHitBytes(source.object->TierKind(), source.pattern, part.end - part.begin);
    End(std::move(part), {});
    return;
  }
  // Evicted meanwhile, damaged, or its tier is gone: in each case it is missing now.
  if (part.attempts >= kMaxAttempts) {
    End(std::move(part), status);
    return;
  }
  Join(std::move(part));
}

void FetcherImpl::Deliver(const std::shared_ptr<Flight>& flight, std::vector<Part> parts) {
  for (Part& part : parts) {
    const bool all_fetched = std::ranges::any_of(flight->ranges, [&](const cache::ByteRange& range) {
      return part.begin >= range.offset && part.end <= range.offset + range.length;
    });
    if (!all_fetched) {
      // Some of it was in the cache before; the disk's threads put the two together.
      Submit(std::move(part), [this, flight](Part submitted) { CopyMixed(flight, std::move(submitted)); });
      continue;
    }
    const std::span<std::byte> out = part.operation->Out(part.begin, part.end);
    std::memcpy(out.data(), flight->Bytes(part.begin, part.end).data(), out.size());
    End(std::move(part), {});
  }
}

void FetcherImpl::CopyMixed(const std::shared_ptr<Flight>& flight, Part part) {
  if (EndIfLate(part)) return;
  ReadOperation& operation = *part.operation;
  const auto from_cache = [&](uint64_t begin, uint64_t end) -> Status {
    if (begin >= end) return {};
    return operation.source().object->Read(begin, operation.Out(begin, end), cache::Wait::kMayBlock);
  };
  uint64_t at = part.begin;
  Status status;
  for (const cache::ByteRange& range : flight->ranges) {
    const uint64_t begin = std::max(at, range.offset);
    const uint64_t end = std::min(part.end, range.offset + range.length);
    if (begin >= end) continue;
    status = from_cache(at, begin);
    if (!status.has_value()) break;
    const std::span<std::byte> out = operation.Out(begin, end);
    std::memcpy(out.data(), flight->Bytes(begin, end).data(), out.size());
    at = end;
  }
  if (status.has_value()) status = from_cache(at, part.end);
  if (status.has_value()) {
    End(std::move(part), {});
  } else if (!board_.Postpone(*flight, part)) {
    Again(std::move(part));
  }
}

bool FetcherImpl::EndIfLate(Part& part) {
  const std::string& path = part.operation->source().ref.path;
  if (part.operation->stop().stop_requested()) {
    End(std::move(part), Fail(Code::kCancelled, path + ": the read was called off"));
    return true;
  }
  if (clock_.Now() >= part.operation->deadline()) {
    End(std::move(part), Fail(Code::kDeadlineExceeded, path + ": the read was not served by its deadline"));
    return true;
  }
  return false;
}

void FetcherImpl::End(Part part, const Status& status) {
  const std::shared_ptr<ReadOperation> operation = std::move(part.operation);
  if (status.has_value()) ledger_.Use(*operation->source().object, part.begin, part.end);
  if (!operation->EndPart(status)) return;
  const Source& source = operation->source();
  metrics_.CountRead(source.pattern, operation->missed());
  if (operation->missed()) {
    const Nanos waited = clock_.Now() - operation->began();
    metrics_.CountStall(source.pattern, waited);
    if (source.observer != nullptr) source.observer->Stalled(waited);
  }
  operation->Finish();
}

void FetcherImpl::End(const EnsureList& ensures) {
  for (const std::shared_ptr<EnsureOperation>& ensure : ensures) {
    if (!ensure->done) continue;
    ReadDone done = std::move(ensure->done);
    done(ensure->error.has_value() ? Status(std::unexpected(*ensure->error)) : Status());
  }
}

}  // namespace

std::unique_ptr<Fetcher> MakeFetcher(const FetchOptions& options, const Clock& clock, Metrics& metrics) {
  return std::make_unique<FetcherImpl>(options, clock, metrics);
}

}  // namespace mlcache::fetch
