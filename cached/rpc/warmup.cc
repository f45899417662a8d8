#include "cached/rpc/warmup.h"

#include <algorithm>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>

#include "cached/session/walk.h"

namespace mlcache::rpc {
namespace {

// Large enough for the fetcher to make long requests of it, small enough for the progress to move.
constexpr uint64_t kPieceBytes = 4 * cache::kChunkBytes;
constexpr Nanos kPollInterval = std::chrono::milliseconds(50);

// A file whose pieces are on their way. Guarded by Warmup::mutex_ but for `source`, which is constant.
struct FileInFlight {
  const ResolvedTarget* target = nullptr;
  std::string path;
  fetch::Source source;
  uint64_t bytes_done = 0;
  size_t holders = 1;  // pieces not answered yet, and the thread that issues them
  std::optional<Error> error;
};

struct Revisit {
  const ResolvedTarget* target = nullptr;
  std::string path;
  uint64_t counted_bytes = 0;  // in bytes_total
};

class Warmup final : public session::TreeVisitor {
 public:
  Warmup(const ResolvedTargets& targets, const WarmupOptions& options, fetch::Fetcher& fetcher, const Clock& clock,
         WarmupObserver& observer)
      : targets_(targets), options_(options), fetcher_(fetcher), clock_(clock), observer_(observer) {
    for (const control::Failure& failure : targets.failures) *progress_.add_failures() = failure;
  }

  Status Run() {
    std::jthread reporter([this](const std::stop_token& finished) { ReportUntil(finished); });
    const bool complete = WalkAll() && RevisitAll();
    WaitForOutstanding(0, 0);
    reporter.request_stop();
    reporter.join();
    if (!complete || stop_.stop_requested()) return Fail(Code::kCancelled, "the warm-up was called off");
    control::WarmupProgress last = TakeProgress();
    last.set_done(true);
    observer_.Report(last);
    return {};
  }

  bool VisitFile(const std::string& path, const store::ObjectInfo& info) override {
    {
      const std::lock_guard lock(mutex_);
      progress_.set_files_total(progress_.files_total() + 1);
      if (options_.metadata_only) progress_.set_files_done(progress_.files_done() + 1);
      if (options_.metadata_only) return true;
      progress_.set_bytes_total(progress_.bytes_total() + info.size);
      if (!info.settled) revisits_.push_back({walking_, path, info.size});
      if (!info.settled) return true;
    }
    return Fill(*walking_, path, info);
  }

  void VisitDirectory(const std::string& /*path*/) override {
    const std::lock_guard lock(mutex_);
    progress_.set_directories(progress_.directories() + 1);
  }

  void VisitFailure(const std::string& path, const Error& error) override {
    const std::lock_guard lock(mutex_);
    *progress_.add_failures() = MakeFailure(walking_->Display(path), error);
  }

 private:
  bool WalkAll() {
    for (const ResolvedTarget& target : targets_.targets) {
      walking_ = &target;
      const session::WalkOptions walk{.request_timeout = options_.request_timeout, .stop = stop_.get_token()};
      if (!session::Walk(*target.volume, target.path, walk, clock_, *this)) return false;
    }
    const std::lock_guard lock(mutex_);
    progress_.set_listing_done(true);
    return true;
  }

  // Looks again at what could not be kept at first sight. What changes for ever ends as a failure.
  bool RevisitAll() {
    for (int attempt = 1; attempt <= options_.settle_attempts; ++attempt) {
      if (!WaitForOutstanding(0, 0)) return false;
      std::unique_lock lock(mutex_);
      if (revisits_.empty()) return true;
      last_attempt_ = attempt == options_.settle_attempts;
      wake_.wait_for(lock, stop_.get_token(), options_.settle_wait, [] { return false; });
      if (stop_.stop_requested()) return false;
      const std::vector<Revisit> again = std::exchange(revisits_, {});
      lock.unlock();
      for (const Revisit& one : again) {
        if (!LookAgain(one)) return false;
      }
    }
    return WaitForOutstanding(0, 0);
  }

  bool LookAgain(const Revisit& one) {
    const store::CallContext context{.priority = store::Priority::kWarmup,
                                     .job = "control",
                                     .deadline = clock_.Now() + options_.request_timeout,
                                     .stop = stop_.get_token()};
    const auto info = one.target->volume->Stat(one.path, Nanos::zero(), context);
    if (stop_.stop_requested()) return false;
    {
      const std::lock_guard lock(mutex_);
      progress_.set_bytes_total(progress_.bytes_total() - one.counted_bytes);
      if (!info || info->type != store::FileType::kRegular) {
        CountFailure(*one.target, one.path, info ? Error(Code::kNotFound, "is no longer a file") : info.error());
        return true;
      }
      progress_.set_bytes_total(progress_.bytes_total() + info->size);
      if (!info->settled) {
        RevisitOrFail(*one.target, one.path, info->size,
                      Error(Code::kFailedPrecondition, "is still being written: its version cannot be trusted yet"));
        return true;
      }
    }
    return Fill(*one.target, one.path, *info);
  }

  // Hands what is missing of a file to the fetcher. False when the warm-up was stopped.
  bool Fill(const ResolvedTarget& target, const std::string& path, const store::ObjectInfo& info) {
    auto source = target.volume->Open(path, info);
    if (!source) {
      const std::lock_guard lock(mutex_);
      CountFailure(target, path, source.error());
      return true;
    }
    auto file = std::make_shared<FileInFlight>(&target, path, *std::move(source));
    const std::vector<cache::ByteRange> missing = file->source.object->Missing(0, info.size);
    uint64_t missing_bytes = 0;
    for (const cache::ByteRange& range : missing) missing_bytes += range.length;
    {
      const std::lock_guard lock(mutex_);
      file->bytes_done = info.size - missing_bytes;
      progress_.set_bytes_done(progress_.bytes_done() + file->bytes_done);
    }
    bool running = true;
    for (const cache::ByteRange& range : missing) {
      running = running && FillRange(file, range);
    }
    const std::lock_guard lock(mutex_);
    Release(*file);
    return running;
  }

  bool FillRange(const std::shared_ptr<FileInFlight>& file, const cache::ByteRange& range) {
    for (uint64_t offset = range.offset; offset < range.offset + range.length;) {
      const uint64_t border = (offset / kPieceBytes + 1) * kPieceBytes;
      const uint64_t end = std::min(border, range.offset + range.length);
      if (!WaitForOutstanding(options_.outstanding_fetches - 1, options_.outstanding_bytes)) return false;
      {
        const std::lock_guard lock(mutex_);
        if (file->error.has_value()) return true;
        ++file->holders;
        ++outstanding_fetches_;
        outstanding_bytes_ += end - offset;
      }
      const store::CallContext context{
          .priority = store::Priority::kWarmup, .job = "control", .stop = stop_.get_token()};
      fetcher_.Ensure(file->source, {.offset = offset, .length = end - offset}, context,
                      [this, file, bytes = end - offset](const Status& status) { PieceDone(*file, bytes, status); });
      offset = end;
    }
    return true;
  }

  void PieceDone(FileInFlight& file, uint64_t bytes, const Status& status) {
    const std::lock_guard lock(mutex_);
    if (status) {
      file.bytes_done += bytes;
      progress_.set_bytes_done(progress_.bytes_done() + bytes);
      progress_.set_bytes_fetched(progress_.bytes_fetched() + bytes);
    } else if (!file.error.has_value()) {
      file.error = status.error();
    }
    Release(file);
    --outstanding_fetches_;
    outstanding_bytes_ -= bytes;
    // Under the lock: once it is free, and nothing is outstanding, this object may be gone.
    wake_.notify_all();
  }

  // Requires mutex_.
  void Release(FileInFlight& file) {
    if (--file.holders > 0 || stop_.stop_requested()) return;
    if (!file.error.has_value()) {
      progress_.set_files_done(progress_.files_done() + 1);
      return;
    }
    if (file.error->code() != Code::kFailedPrecondition) {
      CountFailure(*file.target, file.path, *file.error);
      return;
    }
    // Another version now: nothing of the old one counts.
    progress_.set_bytes_done(progress_.bytes_done() - file.bytes_done);
    RevisitOrFail(*file.target, file.path, file.source.ref.size, *file.error);
  }

  // Requires mutex_.
  void RevisitOrFail(const ResolvedTarget& target, const std::string& path, uint64_t size, const Error& error) {
    if (last_attempt_) {
      CountFailure(target, path, error);
    } else {
      revisits_.push_back({&target, path, size});
    }
  }

  // Requires mutex_.
  void CountFailure(const ResolvedTarget& target, const std::string& path, const Error& error) {
    progress_.set_files_failed(progress_.files_failed() + 1);
    *progress_.add_failures() = MakeFailure(target.Display(path), error);
  }

  // Waits until no more than so much is on its way; at the limit of bytes one piece may still be over. False when
  // stopped, except for (0, 0), which always waits to the end: the answers refer to this object.
  bool WaitForOutstanding(size_t fetches, uint64_t bytes) {
    std::unique_lock lock(mutex_);
    const auto ready = [&] { return outstanding_fetches_ <= fetches && outstanding_bytes_ <= bytes; };
    if (fetches == 0) {
      wake_.wait(lock, ready);
    } else {
      wake_.wait(lock, stop_.get_token(), ready);
    }
    return !stop_.stop_requested();
  }

  void ReportUntil(const std::stop_token& finished) {
    Nanos next_report{};
    while (!finished.stop_requested()) {
      if (observer_.Cancelled()) stop_.request_stop();
      const Nanos now = SystemClock().Now();
      if (now >= next_report) {
        if (!observer_.Report(TakeProgress())) stop_.request_stop();
        next_report = now + options_.report_interval;
      }
      std::unique_lock lock(mutex_);
      pause_.wait_for(lock, finished, kPollInterval, [] { return false; });
    }
  }

  control::WarmupProgress TakeProgress() {
    const std::lock_guard lock(mutex_);
    control::WarmupProgress taken = progress_;
    progress_.clear_failures();
    return taken;
  }

  const ResolvedTargets& targets_;
  const WarmupOptions options_;
  fetch::Fetcher& fetcher_;
  const Clock& clock_;
  WarmupObserver& observer_;
  std::stop_source stop_;
  const ResolvedTarget* walking_ = nullptr;  // of the walking thread alone

  std::mutex mutex_;  // guards all below
  std::condition_variable_any wake_;
  std::condition_variable_any pause_;
  control::WarmupProgress progress_;
  std::vector<Revisit> revisits_;
  size_t outstanding_fetches_ = 0;
  uint64_t outstanding_bytes_ = 0;
  bool last_attempt_ = false;
};

}  // namespace

Status RunWarmup(const ResolvedTargets& targets, const WarmupOptions& options, fetch::Fetcher& fetcher,
                 const Clock& clock, WarmupObserver& observer) {
  return Warmup(targets, options, fetcher, clock, observer).Run();
}

}  // namespace mlcache::rpc
