// A daemon for the shim's tests, in this process: a small tree in memory behind a real session socket and real rings.
// Sessions can be cut off, requests can be held back. Thread-safe.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "common/ring/channel.h"
#include "common/ring/socket.h"
#include "proto/session.pb.h"

namespace mlcache::shim::testing {

// The byte of a generated file at `offset`.
inline unsigned char PatternByte(uint64_t node, uint64_t offset) {
  uint64_t x = (offset >> 3) * 0x9e3779b97f4a7c15U + node * 0xbf58476d1ce4e5b9U;
  x ^= x >> 29;
  return static_cast<unsigned char>(x >> ((offset & 7) * 8));
}

struct FakeNode {
  bool is_directory = false;
  bool is_link = false;
  uint64_t parent = 0;
  uint64_t size = 0;
  uint32_t mode = 0;
  std::string link_target;
  std::vector<std::pair<std::string, uint64_t>> children;  // in listing order
};

struct FakeDaemonOptions {
  uint64_t entry_timeout_ns = 1'000'000'000;
  uint64_t attr_timeout_ns = 1'000'000'000;
  int32_t refuse_code = 0;  // in Welcome
  std::string refuse_message;
};

class FakeDaemon {
 public:
  explicit FakeDaemon(std::string socket_dir, FakeDaemonOptions options = {});
  ~FakeDaemon();

  // Before Start().
  uint64_t AddFile(uint64_t parent, const std::string& name, uint64_t size);
  uint64_t AddDirectory(uint64_t parent, const std::string& name);
  uint64_t AddLink(uint64_t parent, const std::string& name, const std::string& target);

  void Start();
  void Stop();  // as if killed: sockets and channels go; what was not answered stays so

  // Requests for which this is true are kept unanswered until Release(); called on a session's thread.
  void Hold(std::function<bool(const ring::Submission&)> predicate);
  void Release();
  size_t held() const;

  void Notify(const ring::Notification& notification);

  uint64_t Count(ring::Op op) const { return counts_[static_cast<size_t>(op)]; }
  uint64_t completions() const { return completions_; }
  size_t sessions() const;
  uint32_t SlotsInUse() const;
  std::vector<session::Hello> hellos() const;

 private:
  struct Session;
  void Accept();
  void Serve(Session& session);
  void Handle(Session& session, uint32_t pair, const ring::Submission& submission);
  bool Answer(Session& session, uint32_t pair, const ring::Submission& submission);
  ring::NodeAttributes Attributes(uint64_t node) const;
  uint64_t Add(uint64_t parent, const std::string& name, FakeNode node);
  bool SendBytes(Session& session, uint32_t pair, ring::Completion completion, uint32_t room,
                 const std::function<size_t(std::span<std::byte>)>& fill);
  size_t FillDirectory(const ring::Submission& submission, std::span<std::byte> out) const;

  const std::string socket_dir_;
  const FakeDaemonOptions options_;
  std::map<uint64_t, FakeNode> nodes_;                            // constant after Start
  std::map<std::pair<uint64_t, std::string>, uint64_t> by_name_;  // constant after Start
  uint64_t next_node_ = 1000;
  std::array<std::atomic<uint64_t>, 32> counts_{};
  std::atomic<uint64_t> completions_ = 0;
  uint64_t generation_ = 1;

  mutable std::mutex mutex_;
  std::function<bool(const ring::Submission&)> hold_;  // guarded by mutex_
  std::vector<session::Hello> hellos_;                 // guarded by mutex_
  std::vector<std::unique_ptr<Session>> sessions_;     // guarded by mutex_
  UniqueFd listener_;
  UniqueFd stop_;
  std::jthread acceptor_;
};

}  // namespace mlcache::shim::testing
