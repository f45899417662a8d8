#include "cached/session/session.h"

#include <glog/logging.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "cached/metrics/metrics.h"
#include "cached/session/path.h"
#include "cached/session/request.h"
#include "common/ring/socket.h"
#include "common/ring/spin.h"

namespace mlcache::session {
namespace {

constexpr int kWaiterPeriodMs = 100;    // how often requests that wait for a slot are looked at
constexpr uint64_t kReportEvery = 256;  // submissions between two looks at the slots
constexpr Nanos kNoticePatience = std::chrono::seconds(2);
constexpr std::chrono::seconds kDrainPatience{10};

enum Source : uint32_t { kSocket, kWake, kDoorbell };

bool Watch(int epoll, int fd, uint32_t events, Source source) {
  epoll_event event{};
  event.events = events;
  event.data.u32 = source;
  return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

// An object lies in one tier.
uint64_t LargestTier(const cache::ObjectCache& cache) {
  uint64_t largest = 0;
  for (const cache::TierReport& tier : cache.Tiers()) largest = std::max(largest, tier.capacity_bytes);
  return largest;
}

}  // namespace

Session::Session(const SessionParts& parts, std::unique_ptr<Tree> tree, std::unique_ptr<ring::DaemonChannel> channel,
                 uint64_t generation, size_t outstanding_limit, std::string job, uint64_t reader,
                 std::shared_ptr<prefetch::Pacer> pacer, std::function<std::string()> describe)
    : parts_(parts),
      tree_(std::move(tree)),
      channel_(std::move(channel)),
      outstanding_limit_(outstanding_limit),
      job_(std::move(job)),
      reader_(reader),
      largest_tier_bytes_(LargestTier(parts.cache)),
      pacer_(std::move(pacer)),
      describe_(std::move(describe)),
      wake_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)),
      files_(generation),
      lender_(parts.cache, parts.metrics) {}

Session::~Session() { pacer_->Close(); }

void Session::Wake() const {
  // Only a full counter could fail, and that one wakes too.
  static_cast<void>(eventfd_write(wake_.get(), 1));
}

void Session::End(std::string_view why) {
  {
    std::lock_guard lock(mutex_);
    if (why_ended_.empty()) why_ended_ = why;
  }
  ending_ = true;
  Wake();
}

std::string Session::Run(int socket) {
  socket_ = socket;
  Result<ring::ChannelDescriptors> descriptors = channel_->Descriptors();
  const UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  // Edges of the eventfds are enough: nobody reads their counters.
  const bool ready = descriptors.has_value() && epoll.valid() && wake_.valid() &&
                     Watch(epoll.get(), socket, EPOLLIN | EPOLLRDHUP, kSocket) &&
                     Watch(epoll.get(), wake_.get(), EPOLLIN | EPOLLET, kWake) &&
                     Watch(epoll.get(), descriptors->submission_doorbell.get(), EPOLLIN | EPOLLET, kDoorbell);
  if (!ready) End("no descriptors left to wait with: raise the daemon's LimitNOFILE");
  ring::AdaptiveSpin spin;
  for (uint64_t turn = 0; !ending_; ++turn) {
    if (PumpOnce()) {
      spin.FoundWork();
      if (turn % kReportEvery == 0) ReportSlots();
    } else if (!spin.ShouldSpin()) {
      ReportSlots();
      Sleep(epoll.get());
    }
  }
  Drain();
  std::lock_guard lock(mutex_);
  return why_ended_;
}

bool Session::PumpOnce() {
  uint32_t pair = 0;
  const Result<std::optional<ring::Submission>> popped = channel_->PopSubmission(&pair);
  if (!popped.has_value()) {
    End(popped.error().message());
    return false;
  }
  const bool served = slot_waiting_ != 0 && ServeSlotWaiters();
  if (!popped->has_value()) return served;
  Handle(**popped, pair);
  return true;
}

void Session::Sleep(int epoll) {
  if (!channel_->PrepareToSleep()) return;
  epoll_event events[4];
  const bool waiting = slot_waiting_ != 0;
  const int count = epoll_wait(epoll, events, 4, waiting ? kWaiterPeriodMs : -1);
  if (count < 0 && errno != EINTR) End(ErrnoError(errno, "waiting for submissions").message());
  for (int i = 0; i < count; ++i) {
    if (events[i].data.u32 == kSocket) Hear();
  }
  if (waiting) ExpireSlotWaiters();
}

// One message of the shim's, or its end.
void Session::Hear() {
  Result<ring::Message> message = ring::Receive(socket_, 0);
  if (!message.has_value()) {
    if (message.error().code() != Code::kDeadlineExceeded) End("the shim is gone");
    return;
  }
  FromShim heard;
  if (!heard.ParseFromString(message->bytes)) {
    End("the shim sent what is no message");
    return;
  }
  if (heard.has_serving_mode()) {
    keeps_pages_ = heard.serving_mode().mode() == "noopen";
    if (heard_mode_) heard_mode_(heard.serving_mode());
  }
  if (heard.has_view_state() && heard_view_) heard_view_(heard.view_state());
  if (heard.has_lending()) {
    if (const Status begun = lender_.Begin(std::move(message->descriptors)); !begun.has_value()) {
      End(begun.error().message());
    }
  }
}

void Session::Revoke(const cache::ObjectId& id) {
  // When the queue is full the shim keeps the file for as long as it likes: the cache counts its space until then.
  if (const std::optional<uint64_t> node = lender_.Leave(id)) {
    channel_->PushNotification({.notice = ring::Notice::kRevoke, .node = *node});
  }
}

void Session::ReportSlots() {
  const uint32_t now = channel_->SlotsInUse();
  if (now != reported_slots_) parts_.metrics.slots_in_use.Increment(static_cast<double>(now) - reported_slots_);
  reported_slots_ = now;
}

void Session::Drain() {
  std::vector<RequestPtr> unanswered;
  std::deque<SlotWaiter> slot_waiters;
  std::deque<std::move_only_function<void()>> lane_waiting;
  {
    std::lock_guard lock(mutex_);
    for (auto& [id, request] : outstanding_) unanswered.push_back(std::move(request));
    outstanding_.clear();
    slot_waiters.swap(slot_waiters_);
    lane_waiting.swap(lane_waiting_);
    slot_waiting_ = 0;
  }
  for (const RequestPtr& request : unanswered) {
    request->answered = true;
    request->stop.request_stop();  // may run callbacks: no lock is held
  }
  unanswered.clear();
  slot_waiters.clear();
  lane_waiting.clear();
  std::unique_lock lock(mutex_);
  while (!idle_.wait_for(lock, kDrainPatience, [this] { return running_ == 0; }))
    LOG(WARNING) << "a session that has ended still waits for " << running_ << " requests to the store";
  lock.unlock();
  files_.Clear();
  pacer_->Close();
  if (plan_ != nullptr) plan_->Stop();
  if (reported_slots_ != 0) parts_.metrics.slots_in_use.Decrement(reported_slots_);
  reported_slots_ = 0;
}

Session::RequestPtr Session::Begin(const ring::Submission& submission, uint32_t pair, Nanos started) {
  std::unique_lock lock(mutex_);
  const bool broken = outstanding_.contains(submission.id) || outstanding_.size() >= outstanding_limit_;
  // Requests that were called off and still run count here: a shim cannot pile them up.
  const bool crowded = running_ >= 2 * outstanding_limit_;
  if (broken || crowded) {
    lock.unlock();
    if (broken) End("the shim submitted a request twice, or more than its queues hold");
    if (!broken) {
      Push(submission, pair, started, {.id = submission.id, .code = static_cast<int32_t>(Code::kResourceExhausted)});
    }
    return nullptr;
  }
  ++running_;
  auto request = std::make_shared<Request>(*this, submission, pair, started);
  outstanding_.emplace(submission.id, request);
  return request;
}

void Session::Finished() {
  // Under the lock to the end: once it is free with nothing running, the session may be gone.
  std::lock_guard lock(mutex_);
  if (--running_ == 0) idle_.notify_all();
}

void Session::Cancel(uint64_t id) {
  RequestPtr request;
  std::deque<SlotWaiter> dropped;
  {
    std::lock_guard lock(mutex_);
    const auto found = outstanding_.find(id);
    if (found == outstanding_.end()) return;  // answered already
    request = found->second;
    const auto waiter =
        std::ranges::find_if(slot_waiters_, [&](const SlotWaiter& other) { return other.request == request; });
    if (waiter != slot_waiters_.end()) {
      dropped.push_back(std::move(*waiter));
      slot_waiters_.erase(waiter);
      slot_waiting_ = slot_waiters_.size();
    }
  }
  request->stop.request_stop();
  Complete(*request, {.id = id, .code = static_cast<int32_t>(Code::kCancelled)});
}

void Session::Push(const ring::Submission& submission, uint32_t pair, Nanos started, ring::Completion completion) {
  parts_.request_metrics.Count(submission.op, completion.code, SystemClock().Now() - started);
  if (channel_->PushCompletion(pair, completion)) return;
  if (completion.slot != ring::kNoSlot) channel_->ReleaseSlot(completion.slot);
  End("the shim does not take its completions");
}

// False when it was called off before: nobody takes what the completion tells of.
bool Session::Complete(Request& request, ring::Completion completion) {
  completion.id = request.submission.id;
  if (request.answered.exchange(true)) {
    if (completion.slot != ring::kNoSlot) GiveBackSlot(completion.slot);
    return false;
  }
  {
    std::lock_guard lock(mutex_);
    // Before the shim sees the answer: it may use the id again at once.
    const auto found = outstanding_.find(completion.id);
    RequestPtr last;
    if (found != outstanding_.end() && found->second.get() == &request) outstanding_.erase(found);
  }
  Push(request.submission, request.pair, request.started, completion);
  return true;
}

void Session::Refuse(Request& request, const Error& error) {
  const bool ours = error.code() == Code::kInternal || error.code() == Code::kDataLoss ||
                    error.code() == Code::kUnavailable || error.code() == Code::kDeadlineExceeded ||
                    error.code() == Code::kUnknown || error.code() == Code::kResourceExhausted ||
                    (error.code() == Code::kFailedPrecondition && request.submission.op == ring::Op::kRead);
  if (ours && !request.answered) {
    LOG_EVERY_T(WARNING, 1) << OpName(request.submission.op) << ": " << error;
  }
  Complete(request, {.code = static_cast<int32_t>(error.code())});
}

void Session::GiveBackSlot(uint32_t index) {
  channel_->ReleaseSlot(index);
  if (slot_waiting_ != 0) Wake();
}

void Session::WithSlot(RequestPtr request, uint32_t bytes, SlotTask task) {
  std::optional<ring::Slot> slot;
  if (slot_waiting_ == 0) slot = channel_->AcquireSlot(bytes);
  if (slot) {
    task(*slot);
    return;
  }
  bool wait = false;
  {
    std::lock_guard lock(mutex_);
    wait = !ending_ && !request->answered;
    if (wait) slot_waiters_.push_back({.request = std::move(request), .bytes = bytes, .task = std::move(task)});
    slot_waiting_ = slot_waiters_.size();
  }
  if (wait) Wake();
}

bool Session::ServeSlotWaiters() {
  bool served = false;
  while (true) {
    SlotWaiter waiter;
    std::optional<ring::Slot> slot;
    {
      std::lock_guard lock(mutex_);
      if (slot_waiters_.empty()) return served;
      slot = channel_->AcquireSlot(slot_waiters_.front().bytes);
      if (!slot) return served;
      waiter = std::move(slot_waiters_.front());
      slot_waiters_.pop_front();
      slot_waiting_ = slot_waiters_.size();
    }
    served = true;
    waiter.task(*slot);
  }
}

void Session::ExpireSlotWaiters() {
  const Nanos oldest = SystemClock().Now() - parts_.request_timeout;
  std::deque<SlotWaiter> expired;
  {
    std::lock_guard lock(mutex_);
    while (!slot_waiters_.empty() && slot_waiters_.front().request->started < oldest) {
      expired.push_back(std::move(slot_waiters_.front()));
      slot_waiters_.pop_front();
    }
    slot_waiting_ = slot_waiters_.size();
  }
  for (const SlotWaiter& waiter : expired)
    Refuse(*waiter.request, Error(Code::kDeadlineExceeded, "the shim gave no buffer back in time"));
}

void Session::Reply(const RequestPtr& request, std::string bytes) {
  if (bytes.empty()) {
    Complete(*request, {});
    return;
  }
  if (bytes.size() > ring::kMaxReadBytes) bytes.resize(ring::kMaxReadBytes);
  const auto length = static_cast<uint32_t>(bytes.size());
  WithSlot(request, length, [this, request, bytes = std::move(bytes), length](const ring::Slot& slot) {
    std::memcpy(slot.bytes.data(), bytes.data(), length);
    Complete(*request, {.slot = slot.index, .arena_offset = slot.arena_offset, .length = length});
  });
}

void Session::InLane(RequestPtr request, std::move_only_function<void()> task) {
  // LaneDone before the request goes: with the last request the session may go.
  auto run = [this, request = std::move(request), task = std::move(task)]() mutable {
    if (!request->answered) task();
    task = nullptr;
    LaneDone();
    const RequestPtr last = std::move(request);
  };
  {
    std::lock_guard lock(mutex_);
    if (ending_) return;
    lane_waiting_.emplace_back(std::move(run));
    if (lane_running_ >= parts_.lane_width) return;
    ++lane_running_;
  }
  LaneDone();
}

// A place in the lane is free, and counted as taken: gives it to the next task.
void Session::LaneDone() {
  std::move_only_function<void()> next;
  {
    std::lock_guard lock(mutex_);
    if (lane_waiting_.empty()) {
      --lane_running_;
      return;
    }
    next = std::move(lane_waiting_.front());
    lane_waiting_.pop_front();
  }
  // The executor's queue holds a full lane of every session, so it refuses only while the daemon stops, and every
  // session with it.
  if (parts_.metadata.Submit(std::move(next))) return;
  {
    std::lock_guard lock(mutex_);
    --lane_running_;
  }
  End("the daemon is stopping");
}

store::CallContext Session::ContextOf(const Request& request) const {
  return {.priority = store::Priority::kDemand,
          .job = job_,
          .deadline = request.started + parts_.request_timeout,
          .stop = request.stop.get_token()};
}

void Session::NotifyInvalidated(const std::string& path) {
  std::vector<ring::Notification> notices;
  const auto entry = [&](uint64_t parent, std::string_view name) {
    ring::Notification& notice = notices.emplace_back();
    notice.notice = ring::Notice::kInvalidateEntry;
    notice.node = parent;
    notice.name_length = static_cast<uint32_t>(name.size());
    std::ranges::copy(name, notice.name.begin());
  };
  const auto inode = [&](uint64_t node) {
    notices.push_back({.notice = ring::Notice::kInvalidateInode, .node = node});
  };
  const std::string& root = tree_->volume().url().path;
  if (IsWithin(root, path)) {  // the whole mount
    for (const std::string& name : tree_->nodes().NamesBelow(tree_->volume().identity(), root))
      entry(ring::kRootNode, name);
    inode(ring::kRootNode);
  } else if (IsWithin(path, root)) {
    // The kernel drops everything below an entry with the entry.
    if (const std::optional<uint64_t> parent = tree_->DirectoryNode(ParentOf(path))) {
      entry(*parent, NameOf(path));
      inode(*parent);
    }
    if (const std::optional<uint64_t> self = tree_->DirectoryNode(path)) inode(*self);
  }
  const Nanos patience = SystemClock().Now() + kNoticePatience;
  for (const ring::Notification& notice : notices) {
    while (!channel_->PushNotification(notice)) {
      if (ending_ || SystemClock().Now() > patience) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
}

}  // namespace mlcache::session
