#include "shim/worker.h"

#include <glog/logging.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

#include "common/ring/spin.h"
#include "shim/answers.h"

namespace mlcache::shim {
namespace {

// Half of the queues' default depth, so that completions and slots given back always find room.
constexpr uint32_t kMostOutstanding = 128;
static_assert(kMostOutstanding <= ring::Geometry{}.queue_depth / 2);

constexpr int kRequestsPerTurn = 16;
constexpr size_t kMostOwed = 4096;
// A signal that does not kill should not fail a read that is nearly there; a killed reader must not wait.
constexpr Nanos kInterruptGrace = std::chrono::milliseconds(60);
constexpr Nanos kSweepInterval = std::chrono::milliseconds(250);
constexpr int kAccessDelayMs = 250;    // as kSweepInterval
constexpr int kLongestSleepMs = 1000;  // the heartbeat goes on while there is nothing to do

}  // namespace

Worker::Worker(const WorkerOptions& options, UniqueFd keeper, KernelChannel& kernel, FileSystem& files,
               DirectoryLocks& locks, SharedState& state, const Clock& clock)
    : options_(options),
      kernel_(kernel),
      files_(files),
      locks_(locks),
      state_(state),
      beat_(state.beats.at(options.index)),
      clock_(clock),
      keeper_(std::move(keeper)) {}

Result<std::unique_ptr<Worker>> Worker::Make(const WorkerOptions& options, UniqueFd keeper, KernelChannel& kernel,
                                             FileSystem& files, DirectoryLocks& locks, SharedState& state,
                                             const Clock& clock) {
  std::unique_ptr<Worker> worker(new Worker(options, std::move(keeper), kernel, files, locks, state, clock));
  worker->epoll_.Reset(::epoll_create1(EPOLL_CLOEXEC));
  if (!worker->epoll_.valid()) return FailErrno(errno, "epoll_create1");
  worker->wake_.Reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!worker->wake_.valid()) return FailErrno(errno, "eventfd");
  // Exclusive: one request wakes one worker.
  epoll_event requests{EPOLLIN | EPOLLEXCLUSIVE, {}};
  epoll_event posts{EPOLLIN | EPOLLET, {}};
  epoll_event answers{EPOLLIN, {}};
  if (::epoll_ctl(worker->epoll_.get(), EPOLL_CTL_ADD, kernel.device(), &requests) != 0 ||
      ::epoll_ctl(worker->epoll_.get(), EPOLL_CTL_ADD, worker->keeper_.fd(), &answers) != 0 ||
      ::epoll_ctl(worker->epoll_.get(), EPOLL_CTL_ADD, worker->wake_.get(), &posts) != 0) {
    return FailErrno(errno, "epoll_ctl");
  }
  return worker;
}

void Worker::Run() {
  files_.ServeOnThisThread(this);
  ring::AdaptiveSpin spin;
  for (uint32_t idle_turns = 0; !gone_;) {
    const uint64_t turn = beat_.progress.fetch_add(1, std::memory_order_relaxed);
    bool worked = TakePosts();
    worked |= TakeCompletions();
    worked |= TakeKeeperAnswers();
    // A look at /dev/fuse is a system call, one at the ring is not.
    if (worked || idle_turns % 4 == 0) worked |= TakeRequests();
    SendBacklog();
    if (turn % 64 == 0 || !interrupted_.empty()) Expire();
    if (worked) {
      spin.FoundWork();
      idle_turns = 0;
    } else if (spin.ShouldSpin()) {
      ++idle_turns;
    } else {
      Sleep();
      idle_turns = 0;
    }
  }
}

bool Worker::TakeRequests() {
  for (int taken = 0; taken < kRequestsPerTurn; ++taken) {
    switch (kernel_.Receive(buffer_, beat_)) {
      case KernelChannel::Received::kNothing:
        return taken > 0;
      case KernelChannel::Received::kGone:
        gone_ = true;
        return false;
      case KernelChannel::Received::kRequest:
        break;
    }
  }
  return true;
}

void Worker::Start(const Request& asked) {
  if (options_.fault_hook) {
    options_.fault_hook(asked.submission.op,
                        std::string_view(asked.submission.name.data(), asked.submission.name_length));
  }
  if (asked.submission.op == ring::Op::kOpen && Reopen(asked)) return;
  if (session_ == nullptr && AnswerAlone(asked)) return;
  const uint64_t id = uint64_t{options_.index} << kIndexShift | next_id_++;
  Request& request = pending_.emplace(id, asked).first->second;
  request.submission.id = id;
  request.unique = KernelChannel::CurrentUnique();
  if (request.submission.op == ring::Op::kOpen && files_.serving().WantsLease()) {
    request.submission.flags |= ring::kWantLease;
  }
  if (options_.io_timeout > Nanos{0}) request.deadline = clock_.Now() + options_.io_timeout;
  if (DirectoryLocks::Holds(request.submission.op)) locks_.Enter(request.submission.node);
  backlog_.push_back(id);
  KernelChannel::WatchInterrupt(request.kernel, id);
  SendBacklog();
}

// What umount(8) asks of a mountpoint before it unmounts is answered while the daemon is away, too. All zeros is how a
// file system says that it does not know its size.
bool Worker::AnswerAlone(const Request& asked) const {
  if (asked.submission.op == ring::Op::kStatFs) {
    const struct statvfs unknown{.f_bsize = 4096, .f_frsize = 4096, .f_namemax = ring::kMaxNameBytes};
    fuse_reply_statfs(asked.kernel, &unknown);
    return true;
  }
  if (asked.submission.op != ring::Op::kGetAttr || asked.submission.node != ring::kRootNode) return false;
  const std::optional<ring::NodeAttributes> root = LastRoot(state_);
  if (!root) return false;
  const fuse_entry_param entry = EntryOf(*root);
  fuse_reply_attr(asked.kernel, &entry.attr, 0);
  return true;
}

void Worker::Hint(const ring::Submission& submission) {
  if (session_ == nullptr) return;  // the next session knows no handles
  const bool may_be_lost = submission.op == ring::Op::kForget;
  if (owed_.empty() && session_->channel->Submit(options_.index, submission)) return;
  if (!may_be_lost && owed_.size() < kMostOwed) owed_.push_back(submission);
}

void Worker::Owe(ring::Op op, uint64_t offset) {
  ring::Submission submission;
  submission.op = op;
  submission.offset = offset;
  if (owed_.empty() && session_->channel->Submit(options_.index, submission)) return;
  owed_.push_back(submission);
}

bool Worker::SendOwed() {
  while (!owed_.empty()) {
    if (!session_->channel->Submit(options_.index, owed_.front())) return false;
    owed_.pop_front();
  }
  return true;
}

void Worker::SendBacklog() {
  if (session_ == nullptr || !SendOwed()) return;
  while (!backlog_.empty() && outstanding_ < kMostOutstanding) {
    const auto found = pending_.find(backlog_.front());
    if (found != pending_.end()) {
      if (!session_->channel->Submit(options_.index, found->second.submission)) return;
      found->second.submitted = true;
      ++outstanding_;
    }
    backlog_.pop_front();
  }
}

bool Worker::TakeCompletions() {
  if (session_ == nullptr) return false;
  bool any = false;
  while (const std::optional<ring::Completion> completion = session_->channel->PopCompletion(options_.index)) {
    any = true;
    TakeCompletion(*completion);
  }
  return any;
}

void Worker::TakeCompletion(const ring::Completion& completion) {
  if (outstanding_ > 0) --outstanding_;
  // Not found: it was interrupted or came too late, and only its slot is left to deal with.
  if (const auto found = pending_.find(completion.id); found != pending_.end()) {
    beat_.unique.store(found->second.unique, std::memory_order_release);
    if (completion.code == 0 && completion.attributes.node == ring::kRootNode) {
      RememberRoot(state_, completion.attributes);
    }
    if (completion.code == 0 && found->second.submission.op == ring::Op::kOpen) {
      TakeOpen(found, completion);
    } else {
      Answer(found->second, completion, session_->channel->SlotBytes(completion),
             {files_.control_files(), files_.opens(), files_.serving()});
      Forget(found);
    }
    beat_.unique.store(0, std::memory_order_release);
  } else if ((completion.flags & ring::kLeaseSent) != 0) {
    session_->leases.Take(completion.lease);
    Owe(ring::Op::kTookLeases, 1);
  }
  if (completion.slot != ring::kNoSlot) Owe(ring::Op::kReleaseSlot, completion.slot);
}

void Worker::Forget(Pending::iterator found) {
  const ring::Submission& submission = found->second.submission;
  if (DirectoryLocks::Holds(submission.op)) locks_.Leave(submission.node);
  pending_.erase(found);
}

void Worker::PostSession(std::shared_ptr<DaemonSession> session) {
  {
    const std::lock_guard lock(mutex_);
    posted_session_ = std::move(session);
    has_posts_ = true;
  }
  ::eventfd_write(wake_.get(), 1);
}

void Worker::PostRetries(const std::vector<uint64_t>& requests) {
  {
    const std::lock_guard lock(mutex_);
    posted_retries_.insert(posted_retries_.end(), requests.begin(), requests.end());
    has_posts_ = true;
  }
  ::eventfd_write(wake_.get(), 1);
}

void Worker::PostRevoked(uint64_t base) {
  {
    const std::lock_guard lock(mutex_);
    posted_revoked_.push_back(base);
    has_posts_ = true;
  }
  ::eventfd_write(wake_.get(), 1);
}

void Worker::PostInterrupt(uint64_t id) {
  {
    const std::lock_guard lock(mutex_);
    posted_interrupts_.push_back(id);
    has_posts_ = true;
  }
  ::eventfd_write(wake_.get(), 1);
}

bool Worker::TakePosts() {
  if (!has_posts_) return false;
  std::vector<uint64_t> interrupts;
  std::vector<uint64_t> retries;
  std::vector<uint64_t> revoked;
  std::optional<std::shared_ptr<DaemonSession>> session;
  {
    const std::lock_guard lock(mutex_);
    interrupts.swap(posted_interrupts_);
    retries.swap(posted_retries_);
    revoked.swap(posted_revoked_);
    session.swap(posted_session_);
    has_posts_ = false;
  }
  if (session.has_value()) ChangeSession(std::move(*session));
  for (const uint64_t id : interrupts) Interrupt(id);
  for (const uint64_t id : retries) Retry(id);
  for (const uint64_t base : revoked) CloseBackings(files_.opens().Revoke(base));
  return true;
}

void Worker::ChangeSession(std::shared_ptr<DaemonSession> session) {
  LeaveSession();
  session_ = std::move(session);
  if (session_ == nullptr) return;
  epoll_event completions{EPOLLIN | EPOLLET, {}};
  const int doorbell = session_->descriptors.completion_doorbells[options_.index].get();
  PCHECK(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, doorbell, &completions) == 0);
  SendBacklog();
}

// What the old session answered before it ended is taken; all else goes to the next one, in the order it came.
void Worker::LeaveSession() {
  if (session_ == nullptr) return;
  TakeCompletions();
  const int doorbell = session_->descriptors.completion_doorbells[options_.index].get();
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, doorbell, nullptr);
  session_.reset();
  outstanding_ = 0;
  owed_.clear();
  backlog_.clear();
  for (auto& [id, request] : pending_) {
    if (request.answered) continue;
    request.submitted = false;
    backlog_.push_back(id);
  }
  std::ranges::sort(backlog_);
}

void Worker::Interrupt(uint64_t id) {
  const auto found = pending_.find(id);
  if (found == pending_.end() || found->second.interrupted_at != Nanos::max()) return;
  found->second.interrupted_at = clock_.Now();
  interrupted_.push_back(id);
}

// Ends what was interrupted long enough ago, and, every so often, what has waited too long.
void Worker::Expire() {
  const Nanos now = clock_.Now();
  size_t done = 0;
  for (; done < interrupted_.size(); ++done) {
    const auto found = pending_.find(interrupted_[done]);
    if (found == pending_.end()) continue;
    if (now - found->second.interrupted_at < kInterruptGrace) break;
    GiveUp(found, EINTR);
  }
  interrupted_.erase(interrupted_.begin(), interrupted_.begin() + static_cast<ptrdiff_t>(done));
  if (now < next_sweep_) return;
  next_sweep_ = now + kSweepInterval;
  SendAccesses();
  for (auto next = pending_.begin(); next != pending_.end();) {
    const auto found = next++;
    if (now >= found->second.deadline) GiveUp(found, ETIMEDOUT);
  }
}

void Worker::GiveUp(Pending::iterator found, int error) {
  fuse_reply_err(found->second.kernel, error);
  if (found->second.submitted && !found->second.answered && session_ != nullptr) Owe(ring::Op::kCancel, found->first);
  Forget(found);
}

void Worker::Sleep() {
  Expire();
  // Whatever is owed goes out as soon as the daemon has made room; it does not ring for that.
  const bool blocked = !owed_.empty() || (session_ != nullptr && !backlog_.empty() && outstanding_ < kMostOutstanding);
  int timeout_ms = blocked ? 1 : kLongestSleepMs;
  if (!interrupted_.empty()) timeout_ms = std::min(timeout_ms, 10);
  if (accesses_.name_length > 0) timeout_ms = std::min(timeout_ms, kAccessDelayMs);
  if (!pending_.empty() && options_.io_timeout > Nanos{0}) {
    timeout_ms = std::min(timeout_ms, static_cast<int>(kSweepInterval / std::chrono::milliseconds(1)));
  }
  if (session_ != nullptr && !session_->channel->PrepareToSleep(options_.index)) return;
  std::array<epoll_event, 4> events{};
  ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), timeout_ms);
}

}  // namespace mlcache::shim
