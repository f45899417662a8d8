#include "cached/seal/sealer.h"

#include <glog/logging.h>
#include <pthread.h>

#include <algorithm>
#include <iterator>
#include <random>
#include <utility>

#include "cached/session/path.h"
#include "cached/session/store_volume.h"
#include "common/units.h"
#include "proto/session.pb.h"

namespace mlcache::seal {
namespace {

constexpr Nanos kIdleStep = std::chrono::seconds(1);
constexpr Nanos kBusyStep = std::chrono::milliseconds(50);
constexpr Nanos kShortestPause = std::chrono::seconds(2);  // between two looks at a mount
constexpr Nanos kLongestPause = std::chrono::minutes(1);
constexpr int kLookCostFactor = 20;  // a look may take this part of one core
constexpr Nanos kRefusedPause = std::chrono::minutes(10);
constexpr Nanos kOrderPause = std::chrono::minutes(1);
constexpr Nanos kOffMemory = std::chrono::hours(1);  // of an order about a mount whose server is away
constexpr Nanos kShowTimeout = std::chrono::minutes(2);
constexpr Nanos kWithdrawTimeout = std::chrono::seconds(10);
constexpr char kByOrder[] = "no: unsealed by order; `mlcachectl seal` seals it again";
constexpr char kStopping[] = "the daemon is stopping; try again once it runs";
constexpr std::chrono::seconds kReleasePatience{5};
constexpr std::chrono::minutes kSealPatience{10};

uint64_t RandomId() {
  std::random_device random;
  return (uint64_t{random()} << 32) | random() | 1;
}

std::string Count(uint64_t number, const char* what) { return std::to_string(number) + " " + what; }

std::string TextOf(const SealPlan& plan) {
  const std::string size = Count(plan.sealed_files, "files") + ", " + FormatSize(plan.sealed_bytes);
  return plan.whole() ? "yes: " + size : "in part: " + size + " of " + Count(plan.files, "files known");
}

}  // namespace

Sealer::Sealer(SealerOptions options, session::SessionServer& sessions, cache::ObjectCache& cache,
               cache::ObjectLinks& links, const Clock& clock)
    : options_(std::move(options)), sessions_(sessions), cache_(cache), links_(links), clock_(clock) {
  links_.OnContention([contended = contended_] { *contended = true; });
  thread_ = std::jthread([this](const std::stop_token& stop) { Run(stop); });
  pthread_setname_np(thread_.native_handle(), "sealer");
}

Sealer::~Sealer() = default;

void Sealer::Stop() {
  thread_.request_stop();
  const std::scoped_lock lock(mutex_);
  stopping_ = true;
  changed_.notify_all();
}

void Sealer::Run(const std::stop_token& stop) {
  leaving_ = ViewFiles::Load(links_, options_.tiers);
  while (!stop.stop_requested()) {
    const Nanos pause = Step(stop);
    std::unique_lock lock(mutex_);
    changed_.notify_all();
    changed_.wait_for(lock, stop, pause, [this] { return poked_; });
    poked_ = false;
  }
}

Nanos Sealer::Step(const std::stop_token& stop) {
  if (contended_->exchange(false)) RelieveContention();
  const std::vector<Subject> subjects = sessions_.SealSubjects();
  {
    const std::scoped_lock lock(mutex_);
    for (auto& [id, mount] : mounts_) mount.present = false;
    for (const Subject& subject : subjects) {
      Mount& mount = mounts_[subject.report.mount_id];
      mount.present = true;
      mount.identity = subject.volume->identity();
      mount.root = subject.volume->url().path;
      mount.met_at = clock_.Now();
    }
  }
  bool busy = false;
  for (const Subject& subject : subjects) {
    if (stop.stop_requested()) return kIdleStep;
    Mount& mount = mounts_.at(subject.report.mount_id);
    Advance(subject, mount, stop);
    busy = busy || mount.phase == Phase::kOffered || mount.phase == Phase::kWithdrawing;
  }
  for (auto it = mounts_.begin(); it != mounts_.end();) {
    if (it->second.present) {
      ++it;
      continue;
    }
    // The mount is gone, or its server dead for a moment: its successor will say which view is shown.
    End(it->second, "", Nanos::zero());
    const std::scoped_lock lock(mutex_);
    const bool remembered = it->second.off && clock_.Now() < it->second.met_at + kOffMemory;
    it = remembered ? std::next(it) : mounts_.erase(it);
  }
  Sweep();
  return busy ? kBusyStep : kIdleStep;
}

// Views that nobody shows go as soon as nobody has them mounted, in whatever namespace.
void Sealer::Sweep() {
  const Nanos now = clock_.Now();
  if (leaving_.empty() || now < swept_at_ + kIdleStep / 2) return;
  swept_at_ = now;
  std::erase_if(leaving_, [](const std::unique_ptr<ViewFiles>& view) {
    if (view->InUse()) return false;
    view->Remove();
    return true;
  });
}

// The view that has been shown longest is taken back; should that not be enough, the next complaint takes another.
void Sealer::RelieveContention() {
  const std::scoped_lock lock(mutex_);
  Mount* oldest = nullptr;
  for (auto& [id, mount] : mounts_) {
    if (mount.phase == Phase::kWithdrawing || mount.withdraw) return;  // one is going already
    if (mount.phase == Phase::kShown && (oldest == nullptr || mount.shown_at < oldest->shown_at)) oldest = &mount;
  }
  if (oldest == nullptr) return;
  oldest->withdraw = true;
  oldest->asked = false;
  oldest->not_before = clock_.Now() + options_.contention_pause;
  oldest->text = "no: unsealed, for the cache needed the space";
}

void Sealer::Advance(const Subject& subject, Mount& mount, const std::stop_token& stop) {
  if (!subject.view_state.has_value()) return;
  const session::ViewState& state = *subject.view_state;
  if (mount.files == nullptr && state.shown() != 0) {
    Adopt(subject, mount);
    if (mount.files == nullptr) return;  // a view of nobody's is to go first
  }
  const uint64_t id = mount.files == nullptr ? 0 : mount.files->id();
  const bool failed = id != 0 && state.failed() == id;
  switch (mount.phase) {
    case Phase::kNone:
      if (MayTry(subject, mount)) Try(subject, mount, stop);
      return;
    case Phase::kOffered:
      if (state.shown() == id) {
        Shown(mount);
      } else if (failed || clock_.Now() > mount.deadline) {
        const std::string why = failed ? state.reason() : "the keeper did not show the view in time";
        LOG(INFO) << subject.report.mountpoint << " cannot be sealed: " << why;
        End(mount, "no: " + why, kRefusedPause);
      }
      return;
    case Phase::kShown:
      if (state.shown() != id) {
        End(mount, "no: the view is no longer shown", kShortestPause);
      } else if (IsToGo(mount) || IsOutgrown(subject, mount, stop)) {
        Withdraw(subject, mount);
      }
      return;
    case Phase::kWithdrawing:
      if (state.shown() != id) {
        LOG(INFO) << subject.report.mountpoint << " is unsealed";
        End(mount, "", Nanos::zero());
      } else if (clock_.Now() > mount.deadline) {
        LOG(WARNING) << subject.report.mountpoint << " cannot be unsealed: " << state.reason();
        const std::scoped_lock lock(mutex_);
        mount.phase = Phase::kShown;  // tried again
      }
      return;
  }
}

// A view of ours that the mount shows although we did not know: shown since before our start.
void Sealer::Adopt(const Subject& subject, Mount& mount) {
  const uint64_t id = subject.view_state->shown();
  const auto found = std::ranges::find_if(leaving_, [&](const auto& view) { return view->id() == id; });
  if (found == leaving_.end()) {
    // Nothing pins what it shows.
    if (clock_.Now() < mount.deadline) return;
    mount.deadline = clock_.Now() + kWithdrawTimeout;
    session::FromDaemon message;
    message.mutable_withdraw_view();
    static_cast<void>(sessions_.Send(subject.report.mount_id, message, {}));
    return;
  }
  mount.files = std::move(*found);
  leaving_.erase(found);
  mount.shown_at = clock_.Now();
  mount.sealed_files = mount.files->links();
  const std::scoped_lock lock(mutex_);
  mount.whole = true;  // not known: one in part is made anew by order or with the next mount
  mount.adopted = true;
  mount.phase = Phase::kShown;
  mount.text = "yes: since before the daemon's start, " + Count(mount.sealed_files, "files with bytes");
}

void Sealer::Shown(Mount& mount) {
  mount.shown_at = clock_.Now();
  const std::scoped_lock lock(mutex_);
  mount.phase = Phase::kShown;
  // A Seal that came while it was offered has it now, unless it was called off in between: then it is made anew.
  if (!mount.withdraw) mount.asked = false;
  mount.adopted = false;
}

void Sealer::Withdraw(const Subject& subject, Mount& mount) {
  session::FromDaemon message;
  message.mutable_withdraw_view();
  const Status sent = sessions_.Send(subject.report.mount_id, message, {});
  LOG_IF(WARNING, !sent) << sent.error();
  mount.deadline = clock_.Now() + kWithdrawTimeout;
  const std::scoped_lock lock(mutex_);
  mount.phase = Phase::kWithdrawing;
}

// What a text says stays where it was said by whoever wanted the end.
void Sealer::End(Mount& mount, const std::string& text, Nanos pause) {
  if (mount.files != nullptr) leaving_.push_back(std::move(mount.files));
  mount.looked = false;
  const std::scoped_lock lock(mutex_);
  mount.phase = Phase::kNone;
  mount.withdraw = false;
  if (pause > Nanos::zero()) {
    mount.not_before = std::max(mount.not_before, clock_.Now() + pause);
    mount.asked = false;
  }
  if (!text.empty()) mount.text = text;
}

bool Sealer::MayTry(const Subject& subject, Mount& mount) {
  const std::scoped_lock lock(mutex_);
  const auto refuse = [&](const char* text) {
    mount.text = text;
    mount.asked = false;
    return false;
  };
  if (!subject.report.immutable) return refuse("no: the dataset may change; mount with -o immutable where it does not");
  if (!subject.report.read_only) return refuse("no: the mount is writable; mount with -o ro");
  if (!subject.allow_other) return refuse("no: a view is open to every user; mount with -o allow_other");
  if (mount.asked) return true;
  if (mount.off) return refuse(kByOrder);
  if (subject.seal == "off") return refuse("no: mounted with -o seal=off");
  return clock_.Now() >= mount.not_before;
}

uint64_t Sealer::Signature() const {
  uint64_t signature = 0;
  for (const cache::TierReport& tier : cache_.Tiers()) signature = signature * 31 + tier.used_bytes + 7 * tier.objects;
  return signature;
}

store::CallContext Sealer::Context(const std::stop_token& stop) const {
  return {
      .priority = store::Priority::kWarmup, .deadline = SystemClock().Now() + options_.request_timeout, .stop = stop};
}

SealPlan Sealer::Look(const Subject& subject, bool ask_store, const std::stop_token& stop) {
  session::StoreVolume& volume = *subject.volume;
  const auto root = volume.Stat("", Nanos::max(), Context(stop));
  if (!root.has_value()) return {};
  const auto list = [&](const std::string& path) -> std::shared_ptr<const session::Listing> {
    if (!ask_store) return volume.PeekListing(path, Nanos::max(), session::ListDetail::kAttributes);
    auto listing = volume.List(path, Nanos::max(), Context(stop));
    return listing.has_value() ? *std::move(listing) : nullptr;
  };
  const auto is_cached = [&](const std::string& path, const store::ObjectInfo& info) {
    const auto object = volume.FindCached(path, info);
    return object != nullptr && object->CachedBytes() == info.size;
  };
  return MakePlan(*root, list, is_cached, stop);
}

void Sealer::Try(const Subject& subject, Mount& mount, const std::stop_token& stop) {
  bool asked = false;
  uint64_t calls_off = 0;
  {
    const std::scoped_lock lock(mutex_);
    asked = mount.asked;
    calls_off = mount.calls_off;
  }
  const uint64_t signature = Signature();
  const bool settled = mount.looked && mount.signature == signature;
  if (settled && !asked && mount.sealed_files == 0) return;  // nothing new since the last look
  const Nanos began = clock_.Now();
  const SealPlan plan = Look(subject, asked || subject.seal == "on", stop);
  if (stop.stop_requested()) return;
  mount.looked = true;
  mount.signature = signature;
  mount.sealed_files = plan.sealed_files;
  const Nanos pause = std::clamp((clock_.Now() - began) * kLookCostFactor, kShortestPause, kLongestPause);
  // In part only once the cache is no longer being filled, or by order: each renewal is two changes of mounts.
  if (plan.empty() || (!plan.whole() && !settled && !asked)) {
    End(mount,
        "no: " + std::to_string(plan.cached_files) + " of " + Count(plan.files, "files known are cached") +
            "; `mlcachectl warmup` fetches the rest",
        pause);
    mount.looked = true;
    return;
  }
  const Status offered = Offer(subject, mount, plan, calls_off, stop);
  if (offered.has_value()) return;
  if (mount.files != nullptr) mount.files->Remove();
  mount.files.reset();
  if (offered.error().code() == Code::kAborted) {
    End(mount, "no: " + offered.error().message(), Nanos::zero());  // a Seal after that is not forgotten
    return;
  }
  LOG(WARNING) << subject.report.mountpoint << ": no view can be made: " << offered.error();
  End(mount, "no: " + offered.error().message(), kLongestPause);
}

Status Sealer::Offer(const Subject& subject, Mount& mount, const SealPlan& plan, uint64_t calls_off,
                     const std::stop_token& stop) {
  const session::StoreVolume& volume = *subject.volume;
  MLCACHE_ASSIGN_OR_RETURN(mount.files, ViewFiles::Create(links_, options_.tiers, RandomId()));
  ViewFiles& files = *mount.files;
  const auto place = [&](const std::string& path, const store::ObjectInfo& info) {
    return files.Add(session::KeyOf(volume.url(), path, info));
  };
  MLCACHE_ASSIGN_OR_RETURN(ErofsImage image, BuildImage(plan, subject.view, place, stop));
  MLCACHE_RETURN_IF_ERROR(files.Finish(image));
  MLCACHE_ASSIGN_OR_RETURN(const UniqueFd opened, files.OpenImage());
  MLCACHE_ASSIGN_OR_RETURN(const std::vector<DataLayer> layers, files.Layers());
  session::FromDaemon message;
  session::ShowView& show = *message.mutable_show_view();
  show.set_view(files.id());
  show.set_over_mount(!plan.whole());
  std::vector<int> descriptors = {opened.get()};
  for (const DataLayer& layer : layers) {
    show.add_layers(layer.path);
    descriptors.push_back(layer.directory.get());
  }
  mount.deadline = clock_.Now() + kShowTimeout;
  {
    // Before it is sent: whoever calls it off from here on finds a view to wait for.
    const std::scoped_lock lock(mutex_);
    if (mount.calls_off != calls_off)
      return Fail(Code::kAborted, "called off: of what it was to show something was evicted, invalidated or unsealed");
    mount.whole = plan.whole();
    mount.phase = Phase::kOffered;
    mount.text = TextOf(plan);
    mount.asked = false;
  }
  return sessions_.Send(subject.report.mount_id, message, descriptors);
}

bool Sealer::IsToGo(const Mount& mount) const {
  const std::scoped_lock lock(mutex_);
  return mount.withdraw || mount.off;
}

// More is complete by now than a view in part shows. Looked at seldom, and only while nothing is being filled.
bool Sealer::IsOutgrown(const Subject& subject, Mount& mount, const std::stop_token& stop) {
  if (mount.whole || clock_.Now() < mount.shown_at + options_.renewal_interval) return false;
  const uint64_t signature = Signature();
  const bool settled = std::exchange(mount.signature, signature) == signature;
  mount.shown_at = clock_.Now();
  if (!settled) {
    mount.looked = true;
    return false;
  }
  if (!std::exchange(mount.looked, false)) return false;
  return Look(subject, subject.seal == "on", stop).sealed_files > mount.sealed_files;
}

std::string Sealer::Describe(uint64_t mount_id) const {
  const std::scoped_lock lock(mutex_);
  const auto found = mounts_.find(mount_id);
  if (found == mounts_.end()) return "";
  if (found->second.phase == Phase::kOffered) return "no: being sealed";
  return found->second.text;
}

Result<std::string> Sealer::Seal(uint64_t mount_id) {
  std::unique_lock lock(mutex_);
  poked_ = true;
  changed_.notify_all();
  // One that has only just begun is met at the thread's next step.
  changed_.wait_for(lock, kReleasePatience, [&] { return stopping_ || mounts_.contains(mount_id); });
  if (stopping_) return Fail(Code::kUnavailable, kStopping);
  const auto found = mounts_.find(mount_id);
  if (found == mounts_.end()) return Fail(Code::kUnavailable, "the mount ends, or the sealer is busy: try again");
  Mount& mount = found->second;
  mount.off = false;
  if (mount.phase == Phase::kShown && !mount.withdraw && mount.whole && !mount.adopted) return mount.text;
  mount.asked = true;
  mount.not_before = {};
  // One in part, or that may be, is made anew with all that is complete by now.
  if (mount.phase == Phase::kShown) mount.withdraw = true;
  poked_ = true;
  changed_.notify_all();
  const bool ended = changed_.wait_for(lock, kSealPatience, [&] {
    const auto it = mounts_.find(mount_id);
    if (stopping_ || it == mounts_.end()) return true;
    const Mount& now = it->second;
    return !now.asked && !now.withdraw && (now.phase == Phase::kShown || now.phase == Phase::kNone);
  });
  const auto it = mounts_.find(mount_id);
  if (it == mounts_.end()) return Fail(Code::kUnavailable, "the mount ended meanwhile");
  if (stopping_) return Fail(Code::kUnavailable, kStopping);
  if (!ended) return Fail(Code::kDeadlineExceeded, "not sealed within 10 minutes; it goes on in the background");
  if (it->second.phase == Phase::kShown) return it->second.text;
  return Fail(Code::kFailedPrecondition,
              it->second.text.starts_with("no: ") ? it->second.text.substr(4) : it->second.text);
}

Status Sealer::Unseal(uint64_t mount_id) {
  std::unique_lock lock(mutex_);
  const auto found = mounts_.find(mount_id);
  if (found == mounts_.end()) return Fail(Code::kUnavailable, "the mount has only just begun, or ends: try again");
  found->second.off = true;
  found->second.asked = false;
  ++found->second.calls_off;
  found->second.withdraw = found->second.phase != Phase::kNone;
  if (!found->second.withdraw) found->second.text = kByOrder;
  poked_ = true;
  changed_.notify_all();
  const bool done = changed_.wait_for(lock, kReleasePatience, [&] {
    const auto it = mounts_.find(mount_id);
    return stopping_ || it == mounts_.end() || it->second.phase == Phase::kNone;
  });
  if (stopping_) return Fail(Code::kUnavailable, kStopping);
  if (done) return {};
  return Fail(Code::kDeadlineExceeded, "the mount's keeper has not unsealed it yet (is something mounted over it?)");
}

void Sealer::Release(const session::Volume& volume, const std::string& path) {
  const std::string absolute = session::JoinPath(volume.url().path, path);
  const std::string identity = volume.url().Identity();
  std::unique_lock lock(mutex_);
  std::vector<uint64_t> released;
  for (auto& [id, mount] : mounts_) {
    const bool concerned = mount.identity == identity &&
                           (session::IsWithin(absolute, mount.root) || session::IsWithin(mount.root, absolute));
    if (!concerned) continue;
    mount.not_before = std::max(mount.not_before, clock_.Now() + kOrderPause);
    mount.asked = false;
    ++mount.calls_off;
    if (mount.phase == Phase::kNone) continue;
    mount.withdraw = true;
    mount.text = "no: unsealed, for what it showed was evicted or invalidated";
    released.push_back(id);
  }
  if (released.empty()) return;
  poked_ = true;
  changed_.notify_all();
  const bool done = changed_.wait_for(lock, kReleasePatience, [&] {
    return stopping_ || std::ranges::all_of(released, [&](uint64_t id) {
             const auto it = mounts_.find(id);
             return it == mounts_.end() || it->second.phase == Phase::kNone;
           });
  });
  LOG_IF(WARNING, !done || stopping_) << "a view of " << absolute << " is still shown";
}

}  // namespace mlcache::seal
