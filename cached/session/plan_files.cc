#include "cached/session/plan_files.h"

#include <algorithm>
#include <mutex>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <utility>

#include "cached/session/handshake.h"
#include "cached/session/path.h"

namespace mlcache::session {
namespace {

constexpr size_t kMostWorkers = 64;

class VolumePlanFiles final : public prefetch::PlanFiles {
 public:
  VolumePlanFiles(std::shared_ptr<StoreVolume> volume, const View& view, std::string job, uint64_t reader)
      : volume_(std::move(volume)), view_(view), job_(std::move(job)), reader_(reader) {}

  Result<fetch::Source> Find(const std::string& path, size_t together, const store::CallContext& context) override {
    if (!IsValidPath(path) || path.empty()) return Fail(Code::kInvalidArgument, "'" + path + "' names no file");
    const std::string directory(ParentOf(path));
    if (!volume_->Peek(path, view_.max_age()) && together >= kListTogether && IsWorthListing(directory)) {
      const Nanos before = SystemClock().Now();
      // What is wrong with the directory the file's own lookup will tell.
      const auto listing = volume_->List(directory, view_.max_age(), context);
      if (!listing.has_value() || SystemClock().Now() - before > view_.max_age() / 2) NeverList(directory);
    }
    MLCACHE_ASSIGN_OR_RETURN(const store::ObjectInfo info, volume_->Stat(path, view_.max_age(), context));
    MLCACHE_ASSIGN_OR_RETURN(fetch::Source source, volume_->Open(path, info));
    source.hints.job = job_;
    source.hints.reader = reader_;
    return source;
  }

  void Distrust(const std::string& path) override { volume_->Invalidate(path); }

 private:
  bool IsWorthListing(const std::string& directory) {
    const std::scoped_lock lock(mutex_);
    return !never_list_.contains(directory);
  }
  void NeverList(const std::string& directory) {
    const std::scoped_lock lock(mutex_);
    never_list_.insert(directory);
  }

  const std::shared_ptr<StoreVolume> volume_;
  const View view_;
  const std::string job_;
  const uint64_t reader_;
  std::mutex mutex_;
  std::unordered_set<std::string> never_list_;  // guarded by mutex_
};

}  // namespace

nlohmann::json ToJson(const std::vector<prefetch::PlanReport>& reports) {
  nlohmann::json rows = nlohmann::json::array();
  for (const prefetch::PlanReport& report : reports) {
    nlohmann::json row = {{"stream", report.stream},           {"files", report.files},
                          {"position", report.position},       {"left", report.left},
                          {"ahead_files", report.ahead_files}, {"ahead_bytes", report.ahead_bytes},
                          {"unknown", report.unknown}};
    for (size_t i = 0; i < prefetch::kPlanOutcomes; ++i) row[prefetch::kPlanOutcomeNames[i]] = report.outcomes[i];
    rows.push_back(std::move(row));
  }
  return rows;
}

size_t PlanWorkersOf(const MountOptions& options) {
  const prefetch::PacerOptions ahead = PacerOptionsOf(options);
  return ahead.optimizes ? std::min(ahead.workers, kMostWorkers) : 0;
}

std::unique_ptr<prefetch::PlanFiles> MakePlanFiles(std::shared_ptr<StoreVolume> volume, const View& view,
                                                   std::string job, uint64_t reader) {
  return std::make_unique<VolumePlanFiles>(std::move(volume), view, std::move(job), reader);
}

}  // namespace mlcache::session
