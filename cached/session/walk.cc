#include "cached/session/walk.h"

#include <algorithm>
#include <functional>
#include <future>
#include <memory>
#include <ranges>
#include <stop_token>
#include <utility>
#include <vector>

#include "common/executor.h"

namespace mlcache::session {
namespace {

std::string Join(const std::string& directory, const std::string& name) {
  return directory.empty() ? name : directory + "/" + name;
}

using ListResult = Result<std::shared_ptr<const Listing>>;

// The directories still to be visited: the last one next. The next few are on their way already.
class Pending {
 public:
  Pending(Volume& volume, const WalkOptions& options, const Clock& clock)
      : volume_(volume), options_(options), clock_(clock), link_(options.stop, [this] { stop_.request_stop(); }) {}

  ~Pending() { stop_.request_stop(); }  // what was listed ahead is not wanted any more

  store::CallContext Context() {
    return {.priority = options_.priority,
            .job = "control",
            .deadline = clock_.Now() + options_.request_timeout,
            .stop = stop_.get_token()};
  }

  void Push(std::string path) { directories_.push_back({.path = std::move(path), .listing = {}}); }
  bool empty() const { return directories_.empty(); }

  std::pair<std::string, ListResult> Pop() {
    Directory next = std::move(directories_.back());
    directories_.pop_back();
    ListAhead();
    ListResult listing = next.listing.valid() ? next.listing.get() : List(next.path);
    return {std::move(next.path), std::move(listing)};
  }

 private:
  struct Directory {
    std::string path;
    std::future<ListResult> listing;  // valid once it was begun
  };

  ListResult List(const std::string& path) { return volume_.List(path, options_.max_age, Context()); }

  void ListAhead() {
    const size_t ahead = std::min(directories_.size(), options_.listings_at_once);
    if (ahead == 0) return;
    if (!threads_) threads_ = MakeThreadPool("walk", options_.listings_at_once, options_.listings_at_once);
    for (size_t i = 0; i < ahead; ++i) {
      Directory& directory = directories_[directories_.size() - 1 - i];
      if (directory.listing.valid()) continue;
      std::packaged_task<ListResult()> task([this, path = directory.path] { return List(path); });
      std::future<ListResult> listing = task.get_future();
      if (!threads_->Submit(std::move(task))) return;  // listed when its turn comes
      directory.listing = std::move(listing);
    }
  }

  Volume& volume_;
  const WalkOptions& options_;
  const Clock& clock_;
  std::stop_source stop_;
  std::stop_callback<std::function<void()>> link_;
  std::vector<Directory> directories_;
  std::unique_ptr<Executor> threads_;  // last: its tasks use the others
};

}  // namespace

bool Walk(Volume& volume, const std::string& start, const WalkOptions& options, const Clock& clock,
          TreeVisitor& visitor) {
  Pending pending(volume, options, clock);
  const auto info = volume.Stat(start, options.max_age, pending.Context());
  if (options.stop.stop_requested()) return false;
  if (!info) {
    visitor.VisitFailure(start, info.error());
    return true;
  }
  if (info->type == store::FileType::kRegular) return visitor.VisitFile(start, *info);
  if (info->type == store::FileType::kSymlink) {
    visitor.VisitFailure(start, Error(Code::kInvalidArgument, "is a symbolic link; name what it points to"));
    return true;
  }
  pending.Push(start);
  while (!pending.empty()) {
    const auto [directory, listing] = pending.Pop();
    if (options.stop.stop_requested()) return false;
    if (!listing) {
      visitor.VisitFailure(directory, listing.error());
      continue;
    }
    visitor.VisitDirectory(directory);
    for (const store::ListEntry& entry : (*listing)->entries) {
      if (options.stop.stop_requested()) return false;
      if (entry.info.type != store::FileType::kRegular) continue;
      if (!visitor.VisitFile(Join(directory, entry.name), entry.info)) return false;
    }
    for (const store::ListEntry& entry : std::views::reverse((*listing)->entries)) {
      if (entry.info.type == store::FileType::kDirectory) pending.Push(Join(directory, entry.name));
    }
  }
  return true;
}

}  // namespace mlcache::session
