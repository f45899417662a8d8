#include "tests/shim/fake_daemon.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <tuple>
#include <utility>

namespace mlcache::shim::testing {

struct FakeDaemon::Session {
  UniqueFd socket;
  std::unique_ptr<ring::DaemonChannel> channel;
  ring::ChannelDescriptors descriptors;
  std::mutex mutex;
  std::vector<std::pair<uint32_t, ring::Submission>> held;      // guarded by mutex
  std::vector<std::pair<uint32_t, ring::Submission>> released;  // guarded by mutex
  std::vector<std::pair<uint32_t, ring::Submission>> waiting;   // for a slot; the thread's
  UniqueFd wake;
  std::atomic<bool> stop = false;
  std::atomic<bool> ended = false;
  std::jthread thread;
};

FakeDaemon::FakeDaemon(std::string socket_dir, FakeDaemonOptions options)
    : socket_dir_(std::move(socket_dir)), options_(std::move(options)) {
  nodes_[ring::kRootNode] = FakeNode{.is_directory = true, .mode = S_IFDIR | 0755};
}

FakeDaemon::~FakeDaemon() { Stop(); }

uint64_t FakeDaemon::Add(uint64_t parent, const std::string& name, FakeNode node) {
  const uint64_t id = next_node_;  // even, as a daemon's are
  next_node_ += 2;
  node.parent = parent;
  nodes_[parent].children.emplace_back(name, id);
  by_name_[{parent, name}] = id;
  nodes_[id] = std::move(node);
  return id;
}

uint64_t FakeDaemon::AddFile(uint64_t parent, const std::string& name, uint64_t size) {
  return Add(parent, name, FakeNode{.size = size, .mode = S_IFREG | 0644});
}

uint64_t FakeDaemon::AddDirectory(uint64_t parent, const std::string& name) {
  return Add(parent, name, FakeNode{.is_directory = true, .mode = S_IFDIR | 0755});
}

uint64_t FakeDaemon::AddLink(uint64_t parent, const std::string& name, const std::string& target) {
  return Add(parent, name,
             FakeNode{.is_link = true, .size = target.size(), .mode = S_IFLNK | 0777, .link_target = target});
}

void FakeDaemon::Start() {
  Result<UniqueFd> listener = ring::Listen(socket_dir_ + "/session.sock", 0666);
  if (!listener) throw std::runtime_error(listener.error().message());
  listener_ = std::move(*listener);
  stop_.Reset(::eventfd(0, EFD_CLOEXEC));
  acceptor_ = std::jthread([this] { Accept(); });
}

void FakeDaemon::Stop() {
  if (!acceptor_.joinable()) return;
  ::eventfd_write(stop_.get(), 1);
  acceptor_.join();
  listener_.Reset();
  std::vector<std::unique_ptr<Session>> ending;
  {
    const std::lock_guard lock(mutex_);
    ending.swap(sessions_);
  }
  for (const auto& session : ending) {
    session->stop = true;
    ::eventfd_write(session->wake.get(), 1);
  }
  ending.clear();  // joins
}

void FakeDaemon::Accept() {
  while (true) {
    std::array<pollfd, 2> waiting{{{listener_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}}};
    ::poll(waiting.data(), waiting.size(), -1);
    if (waiting[1].revents != 0) return;
    UniqueFd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!socket.valid()) continue;
    Result<ring::Message> message = ring::Receive(socket.get(), 5000);
    if (!message) continue;
    session::Hello hello;
    hello.ParseFromString(message->bytes);
    session::Welcome welcome;
    welcome.set_code(options_.refuse_code);
    welcome.set_message(options_.refuse_message);
    if (options_.refuse_code != 0) {
      // A peer that is gone already needs no refusal.
      std::ignore = ring::Send(socket.get(), welcome.SerializeAsString(), {});
      continue;
    }
    auto session = std::make_unique<Session>();
    welcome.set_generation(++generation_);
    welcome.set_queue_pairs(hello.workers());
    auto channel = ring::CreateChannel(ring::Geometry{.queue_pairs = hello.workers()}, generation_);
    if (!channel) throw std::runtime_error(channel.error().message());
    session->channel = std::move(*channel);
    session->descriptors = *session->channel->Descriptors();
    std::vector<int> fds = {session->descriptors.control.get(), session->descriptors.arena.get(),
                            session->descriptors.submission_doorbell.get(),
                            session->descriptors.notification_doorbell.get()};
    for (const UniqueFd& doorbell : session->descriptors.completion_doorbells) fds.push_back(doorbell.get());
    if (!ring::Send(socket.get(), welcome.SerializeAsString(), fds)) continue;
    session->socket = std::move(socket);
    session->wake.Reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    session->thread = std::jthread([this, raw = session.get()] { Serve(*raw); });
    const std::lock_guard lock(mutex_);
    hellos_.push_back(std::move(hello));
    sessions_.push_back(std::move(session));
  }
}

void FakeDaemon::Serve(Session& session) {
  while (!session.stop) {
    std::vector<std::pair<uint32_t, ring::Submission>> again = std::exchange(session.waiting, {});
    {
      const std::lock_guard lock(session.mutex);
      again.insert(again.end(), session.released.begin(), session.released.end());
      session.released.clear();
    }
    for (const auto& [pair, submission] : again) {
      if (!Answer(session, pair, submission)) session.waiting.emplace_back(pair, submission);
    }
    uint32_t pair = 0;
    Result<std::optional<ring::Submission>> submission = session.channel->PopSubmission(&pair);
    if (!submission) break;
    if (submission->has_value()) {
      Handle(session, pair, **submission);
      continue;
    }
    if (!session.channel->PrepareToSleep()) continue;
    std::array<pollfd, 3> waiting{{{session.descriptors.submission_doorbell.get(), POLLIN, 0},
                                   {session.socket.get(), POLLRDHUP, 0},
                                   {session.wake.get(), POLLIN, 0}}};
    ::poll(waiting.data(), waiting.size(), session.waiting.empty() ? -1 : 1);
    eventfd_t ignored = 0;
    if (waiting[0].revents != 0) ::eventfd_read(waiting[0].fd, &ignored);
    if (waiting[2].revents != 0) ::eventfd_read(waiting[2].fd, &ignored);
    if (waiting[1].revents != 0) break;
  }
  session.ended = true;
}

void FakeDaemon::Handle(Session& session, uint32_t pair, const ring::Submission& submission) {
  ++counts_.at(static_cast<size_t>(submission.op));
  bool hold = false;
  {
    const std::lock_guard lock(mutex_);
    hold = hold_ && hold_(submission);
  }
  if (hold) {
    const std::lock_guard lock(session.mutex);
    session.held.emplace_back(pair, submission);
    return;
  }
  if (submission.op == ring::Op::kCancel) {
    const std::lock_guard lock(session.mutex);
    const auto found =
        std::ranges::find_if(session.held, [&](const auto& one) { return one.second.id == submission.offset; });
    if (found == session.held.end()) return;
    ring::Completion completion;
    completion.id = submission.offset;
    completion.code = static_cast<int32_t>(Code::kCancelled);
    session.channel->PushCompletion(found->first, completion);
    session.held.erase(found);
    return;
  }
  if (!Answer(session, pair, submission)) session.waiting.emplace_back(pair, submission);
}

ring::NodeAttributes FakeDaemon::Attributes(uint64_t id) const {
  const FakeNode& node = nodes_.at(id);
  ring::NodeAttributes attributes;
  attributes.node = id;
  attributes.inode = id + 1'000'000;
  attributes.size = node.size;
  attributes.mode = node.mode;
  attributes.nlink = node.is_directory ? 2 : 1;
  attributes.mtime_ns = attributes.ctime_ns = attributes.atime_ns = 1'600'000'000'123'456'789;
  attributes.entry_timeout_ns = options_.entry_timeout_ns;
  attributes.attr_timeout_ns = options_.attr_timeout_ns;
  return attributes;
}

// False: no slot now.
bool FakeDaemon::SendBytes(Session& session, uint32_t pair, ring::Completion completion, uint32_t room,
                           const std::function<size_t(std::span<std::byte>)>& fill) {
  const std::optional<ring::Slot> slot = session.channel->AcquireSlot(std::max<uint32_t>(room, 1));
  if (!slot) return false;
  completion.slot = slot->index;
  completion.arena_offset = slot->arena_offset;
  completion.length = static_cast<uint32_t>(fill(slot->bytes.first(room)));
  ++completions_;
  session.channel->PushCompletion(pair, completion);
  return true;
}

size_t FakeDaemon::FillDirectory(const ring::Submission& submission, std::span<std::byte> out) const {
  const auto& children = nodes_.at(submission.node).children;
  size_t used = 0;
  for (size_t i = submission.offset == 0 ? 0 : submission.offset - 100; i < children.size(); ++i) {
    ring::DirEntry entry;
    entry.attributes = Attributes(children[i].second);
    entry.next_cookie = i + 101;
    entry.name_length = static_cast<uint16_t>(children[i].first.size());
    entry.last = i + 1 == children.size() ? 1 : 0;
    const size_t padded = (children[i].first.size() + 7) / 8 * 8;
    if (used + sizeof(entry) + padded > out.size()) break;
    std::memcpy(out.data() + used, &entry, sizeof(entry));
    std::memcpy(out.data() + used + sizeof(entry), children[i].first.data(), children[i].first.size());
    used += sizeof(entry) + padded;
  }
  return used;
}

bool FakeDaemon::Answer(Session& session, uint32_t pair, const ring::Submission& submission) {
  ring::Completion completion;
  completion.id = submission.id;
  const auto text = [&](const std::string& bytes) {
    return SendBytes(session, pair, completion, static_cast<uint32_t>(bytes.size()), [&](std::span<std::byte> out) {
      std::memcpy(out.data(), bytes.data(), bytes.size());
      return bytes.size();
    });
  };
  const std::string name(submission.name.data(), submission.name_length);
  switch (submission.op) {
    case ring::Op::kLookup: {
      const auto found = by_name_.find({submission.node, name});
      if (found == by_name_.end()) {
        completion.code = static_cast<int32_t>(Code::kNotFound);
        completion.attributes.entry_timeout_ns = options_.entry_timeout_ns;
      } else {
        completion.attributes = Attributes(found->second);
      }
      break;
    }
    case ring::Op::kGetAttr:
      completion.attributes = Attributes(submission.node);
      break;
    case ring::Op::kOpen:
    case ring::Op::kOpenDir:
      completion.handle = submission.node + 5;
      break;
    case ring::Op::kRead: {
      const uint64_t size = nodes_.at(submission.node).size;
      const uint64_t left = submission.offset >= size ? 0 : size - submission.offset;
      const auto length = static_cast<uint32_t>(std::min<uint64_t>(left, submission.length));
      return SendBytes(session, pair, completion, length, [&](std::span<std::byte> out) {
        for (uint64_t i = 0; i < out.size(); ++i) {
          out[i] = static_cast<std::byte>(PatternByte(submission.node, submission.offset + i));
        }
        return out.size();
      });
    }
    case ring::Op::kReadDir:
      return SendBytes(session, pair, completion, submission.length,
                       [&](std::span<std::byte> out) { return FillDirectory(submission, out); });
    case ring::Op::kReadLink:
      return text(nodes_.at(submission.node).link_target);
    case ring::Op::kStatFs: {
      ring::StatFsReply reply{.blocks = 1000, .blocks_free = 400, .files = 50, .files_free = 20};
      return text(std::string(reinterpret_cast<const char*>(&reply), sizeof(reply)));
    }
    case ring::Op::kGetXattr:
      if (name == "user.mlcache.version") return text("etag-7");
      completion.code = static_cast<int32_t>(Code::kNotFound);
      break;
    case ring::Op::kListXattr:
      return text(std::string("user.mlcache.version\0", 21));
    case ring::Op::kStats:
      return text("reads " + std::to_string(Count(ring::Op::kRead)) + "\n");
    default:
      return true;
  }
  ++completions_;
  session.channel->PushCompletion(pair, completion);
  return true;
}

void FakeDaemon::Hold(std::function<bool(const ring::Submission&)> predicate) {
  const std::lock_guard lock(mutex_);
  hold_ = std::move(predicate);
}

void FakeDaemon::Release() {
  const std::lock_guard lock(mutex_);
  hold_ = nullptr;
  for (const auto& session : sessions_) {
    const std::lock_guard session_lock(session->mutex);
    session->released.insert(session->released.end(), session->held.begin(), session->held.end());
    session->held.clear();
    ::eventfd_write(session->wake.get(), 1);
  }
}

size_t FakeDaemon::held() const {
  const std::lock_guard lock(mutex_);
  size_t total = 0;
  for (const auto& session : sessions_) {
    const std::lock_guard session_lock(session->mutex);
    if (!session->ended) total += session->held.size();
  }
  return total;
}

void FakeDaemon::Notify(const ring::Notification& notification) {
  const std::lock_guard lock(mutex_);
  for (const auto& session : sessions_) session->channel->PushNotification(notification);
}

size_t FakeDaemon::sessions() const {
  const std::lock_guard lock(mutex_);
  return static_cast<size_t>(std::ranges::count_if(sessions_, [](const auto& one) { return !one->ended; }));
}

uint32_t FakeDaemon::SlotsInUse() const {
  const std::lock_guard lock(mutex_);
  uint32_t total = 0;
  for (const auto& session : sessions_) {
    if (!session->ended) total += session->channel->SlotsInUse();
  }
  return total;
}

std::vector<session::Hello> FakeDaemon::hellos() const {
  const std::lock_guard lock(mutex_);
  return hellos_;
}

}  // namespace mlcache::shim::testing
