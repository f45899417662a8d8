// A synchronous shim for tests of the daemon's sessions: greets over a real socket, submits over a real channel, waits
// for the answer. Each call waits at most 20 s. Owned by one thread.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/ring/channel.h"
#include "common/ring/socket.h"
#include "common/ring/wire.h"
#include "common/version.h"
#include "proto/session.pb.h"

namespace mlcache::testing {

struct Reply {
  ring::Completion completion;
  std::string bytes;  // copied out of the slot, which has been given back

  bool ok() const { return completion.code == 0; }
  Code code() const { return static_cast<Code>(completion.code); }
  const ring::NodeAttributes& attributes() const { return completion.attributes; }
};

struct NamedEntry {
  std::string name;
  ring::DirEntry entry;
};

class SessionClient {
 public:
  static session::Hello HelloFor(const std::string& url, const std::string& mountpoint = "/mnt/test") {
    session::Hello hello;
    hello.set_protocol_version(ring::kProtocolVersion);
    hello.set_program_version(kVersion);
    hello.set_store_url(url);
    hello.set_mountpoint(mountpoint);
    hello.mutable_options()->set_read_only(true);
    hello.mutable_options()->set_attr_ttl_ns(10'000'000'000);
    hello.set_workers(2);
    return hello;
  }

  // The refusal, or any failure on the way, as an error.
  static Result<std::unique_ptr<SessionClient>> Connect(const std::string& socket_dir, const session::Hello& hello) {
    return ConnectRaw(socket_dir, hello.SerializeAsString());
  }

  static Result<std::unique_ptr<SessionClient>> ConnectRaw(const std::string& socket_dir, const std::string& hello) {
    std::unique_ptr<SessionClient> client(new SessionClient);
    MLCACHE_ASSIGN_OR_RETURN(client->socket_, ring::Connect(socket_dir + "/session.sock"));
    MLCACHE_RETURN_IF_ERROR(ring::Send(client->socket_.get(), hello, {}));
    MLCACHE_ASSIGN_OR_RETURN(ring::Message message, ring::Receive(client->socket_.get(), kPatienceMs));
    if (!client->welcome_.ParseFromString(message.bytes)) return Fail(Code::kInternal, "no Welcome");
    if (client->welcome_.code() != 0)
      return Fail(static_cast<Code>(client->welcome_.code()), client->welcome_.message());
    auto& fds = message.descriptors;
    if (fds.size() != 4 + client->welcome_.queue_pairs()) return Fail(Code::kInternal, "descriptors do not fit");
    ring::ChannelDescriptors& descriptors = client->descriptors_;
    descriptors.control = std::move(fds[0]);
    descriptors.arena = std::move(fds[1]);
    descriptors.submission_doorbell = std::move(fds[2]);
    descriptors.notification_doorbell = std::move(fds[3]);
    for (size_t i = 4; i < fds.size(); ++i) descriptors.completion_doorbells.push_back(std::move(fds[i]));
    MLCACHE_ASSIGN_OR_RETURN(client->channel_, ring::AttachChannel(descriptors, client->welcome_.generation()));
    return client;
  }

  ring::ShimChannel& channel() { return *channel_; }
  int socket() const { return socket_.get(); }
  const session::Welcome& welcome() const { return welcome_; }

  // Submits and gives the id; 0 when the queue stayed full.
  uint64_t Submit(ring::Submission submission, uint32_t pair = 0) {
    if (submission.id == 0) submission.id = ++last_id_;
    const Nanos end = SystemClock().Now() + std::chrono::milliseconds(kPatienceMs);
    while (!channel_->Submit(pair, submission)) {
      if (SystemClock().Now() > end) return 0;
      Take(pair);
    }
    return submission.id;
  }

  // The answer to `id`; nothing when it did not come in time, or the daemon ended the session.
  std::optional<Reply> Wait(uint64_t id, uint32_t pair = 0, int patience_ms = kPatienceMs) {
    const Nanos end = SystemClock().Now() + std::chrono::milliseconds(patience_ms);
    while (true) {
      Take(pair);
      if (const auto found = replies_.find(id); found != replies_.end()) {
        Reply reply = std::move(found->second);
        replies_.erase(found);
        return reply;
      }
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - SystemClock().Now()).count();
      if (left <= 0 || gone_) return std::nullopt;
      if (!channel_->PrepareToSleep(pair)) continue;
      Sleep(descriptors_.completion_doorbells[pair].get(), static_cast<int>(left));
    }
  }

  Reply Call(const ring::Submission& submission, uint32_t pair = 0) {
    const uint64_t id = Submit(submission, pair);
    std::optional<Reply> reply = id == 0 ? std::nullopt : Wait(id, pair);
    EXPECT_TRUE(reply.has_value()) << "operation " << static_cast<uint32_t>(submission.op) << " was not answered";
    if (!reply) return {.completion = {.code = static_cast<int32_t>(Code::kUnavailable)}, .bytes = {}};
    return *std::move(reply);
  }

  static ring::Submission Make(ring::Op op, uint64_t node, std::string_view name = {}) {
    ring::Submission submission;
    submission.op = op;
    submission.node = node;
    submission.name_length = static_cast<uint16_t>(name.size());
    std::ranges::copy(name.substr(0, submission.name.size()), submission.name.begin());
    return submission;
  }

  Reply Lookup(uint64_t parent, std::string_view name) { return Call(Make(ring::Op::kLookup, parent, name)); }
  Reply GetAttr(uint64_t node) { return Call(Make(ring::Op::kGetAttr, node)); }
  Reply Open(uint64_t node) { return Call(Make(ring::Op::kOpen, node)); }
  Reply GetXattr(uint64_t node, std::string_view name, uint32_t room = 0) {
    ring::Submission submission = Make(ring::Op::kGetXattr, node, name);
    submission.length = room;
    return Call(submission);
  }
  static ring::Submission ReadOf(uint64_t node, uint64_t handle, uint64_t offset, uint32_t length) {
    ring::Submission submission = Make(ring::Op::kRead, node);
    submission.handle = handle;
    submission.offset = offset;
    submission.length = length;
    return submission;
  }
  Reply Read(uint64_t node, uint64_t handle, uint64_t offset, uint32_t length) {
    return Call(ReadOf(node, handle, offset, length));
  }

  // The node of a path below the root, looked up name by name; 0 when there is none.
  uint64_t Walk(std::string_view path) {
    uint64_t node = ring::kRootNode;
    while (!path.empty()) {
      const size_t slash = path.find('/');
      const Reply reply = Lookup(node, path.substr(0, slash));
      if (!reply.ok()) return 0;
      node = reply.attributes().node;
      path = slash == std::string_view::npos ? std::string_view() : path.substr(slash + 1);
    }
    return node;
  }

  // The whole file through one handle in reads of `step` bytes; empty optional when a call failed.
  std::optional<std::string> ReadAll(uint64_t node, uint32_t step = 1 << 20) {
    const Reply opened = Open(node);
    if (!opened.ok()) return std::nullopt;
    std::string bytes;
    while (true) {
      const Reply part = Read(node, opened.completion.handle, bytes.size(), step);
      if (!part.ok()) return std::nullopt;
      if (part.bytes.empty()) break;
      bytes += part.bytes;
    }
    ring::Submission release = Make(ring::Op::kRelease, node);
    release.handle = opened.completion.handle;
    Submit(release);
    return bytes;
  }

  static std::vector<NamedEntry> Entries(const std::string& bytes) {
    std::vector<NamedEntry> entries;
    for (size_t at = 0; at + sizeof(ring::DirEntry) <= bytes.size();) {
      NamedEntry& named = entries.emplace_back();
      std::memcpy(&named.entry, bytes.data() + at, sizeof(named.entry));
      named.name = bytes.substr(at + sizeof(ring::DirEntry), named.entry.name_length);
      at += (sizeof(ring::DirEntry) + named.entry.name_length + 7) / 8 * 8;
    }
    return entries;
  }

  // All entries of a directory, page by page of at most `room` bytes, from a handle unless `handle` is given.
  std::optional<std::vector<NamedEntry>> ReadDirectory(uint64_t node, uint32_t room = 1 << 20,
                                                       std::optional<uint64_t> handle = std::nullopt) {
    if (!handle) {
      const Reply opened = Call(Make(ring::Op::kOpenDir, node));
      if (!opened.ok()) return std::nullopt;
      handle = opened.completion.handle;
    }
    std::vector<NamedEntry> all;
    ring::Submission submission = Make(ring::Op::kReadDir, node);
    submission.handle = *handle;
    submission.length = room;
    while (true) {
      const Reply page = Call(submission);
      if (!page.ok()) return std::nullopt;
      std::vector<NamedEntry> entries = Entries(page.bytes);
      if (entries.empty()) return all;
      submission.offset = entries.back().entry.next_cookie;
      std::ranges::move(entries, std::back_inserter(all));
    }
  }

  std::optional<ring::Notification> WaitForNotification(int patience_ms = kPatienceMs) {
    const Nanos end = SystemClock().Now() + std::chrono::milliseconds(patience_ms);
    while (true) {
      if (auto notification = channel_->PopNotification()) return notification;
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - SystemClock().Now()).count();
      if (left <= 0 || gone_) return std::nullopt;
      if (channel_->PrepareToSleepForNotification())
        Sleep(descriptors_.notification_doorbell.get(), static_cast<int>(left));
    }
  }

  // Keeps slots of taken completions instead of giving them back.
  void set_keep_slots(bool keep) { keep_slots_ = keep; }
  void ReleaseSlot(uint32_t slot, uint32_t pair = 0) {
    ring::Submission submission;
    submission.op = ring::Op::kReleaseSlot;
    submission.offset = slot;
    while (!channel_->Submit(pair, submission)) Take(pair);
  }

  // Whether the daemon closed the session within the patience.
  bool WaitForEnd(int patience_ms = kPatienceMs) {
    pollfd wait{.fd = socket_.get(), .events = POLLIN | POLLRDHUP, .revents = 0};
    return poll(&wait, 1, patience_ms) == 1 && (wait.revents & (POLLRDHUP | POLLHUP)) != 0;
  }

 private:
  static constexpr int kPatienceMs = 20'000;

  SessionClient() = default;

  void Take(uint32_t pair) {
    while (const std::optional<ring::Completion> completion = channel_->PopCompletion(pair)) {
      Reply& reply = replies_[completion->id];
      reply.completion = *completion;
      const auto bytes = channel_->SlotBytes(*completion);
      reply.bytes.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      if (completion->slot == ring::kNoSlot || keep_slots_) continue;
      ring::Submission release;
      release.op = ring::Op::kReleaseSlot;
      release.offset = completion->slot;
      owed_.push_back(release);
    }
    while (!owed_.empty() && channel_->Submit(pair, owed_.back())) owed_.pop_back();
  }

  void Sleep(int doorbell, int patience_ms) {
    pollfd waits[2] = {{.fd = doorbell, .events = POLLIN, .revents = 0},
                       {.fd = socket_.get(), .events = POLLIN | POLLRDHUP, .revents = 0}};
    poll(waits, 2, std::min(patience_ms, 100));
    eventfd_t ignored = 0;
    if ((waits[0].revents & POLLIN) != 0) eventfd_read(doorbell, &ignored);
    gone_ = waits[1].revents != 0;
  }

  UniqueFd socket_;
  session::Welcome welcome_;
  ring::ChannelDescriptors descriptors_;
  std::unique_ptr<ring::ShimChannel> channel_;
  std::map<uint64_t, Reply> replies_;
  std::vector<ring::Submission> owed_;
  uint64_t last_id_ = 0;
  bool keep_slots_ = false;
  bool gone_ = false;
};

}  // namespace mlcache::testing
