// A store in memory, with the knobs that tests need: it counts what it was asked for, holds reads until told to let
// them go, fails the next calls, and cuts replies into pieces. Thread-safe.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cached/store/object_store.h"

namespace mlcache::testing {

class FakeObjectStore : public store::ObjectStore {
 public:
  enum class Op : uint8_t { kStat, kList, kRead };
  struct Read {
    std::string path;
    uint64_t offset;
    uint64_t length;
    store::Priority priority;
    std::string job;
  };

  // Creates or replaces a regular file, with its parents; every call makes a new version. Returns the version.
  std::string Put(const std::string& path, std::string bytes) {
    std::lock_guard lock(mutex_);
    Parents(path);
    Node& node = nodes_[path];
    node.content = std::make_shared<const std::string>(std::move(bytes));
    node.info.type = store::FileType::kRegular;
    node.info.size = node.content->size();
    node.info.version = "v" + std::to_string(++versions_);
    node.info.mtime_ns = node.info.ctime_ns = static_cast<int64_t>(versions_) * 1'000'000'000;
    return node.info.version;
  }

  void PutDirectory(const std::string& path) {
    std::lock_guard lock(mutex_);
    Parents(path + "/");
  }

  void PutSymlink(const std::string& path, const std::string& target) {
    std::lock_guard lock(mutex_);
    Parents(path);
    Node& node = nodes_[path];
    node.content = nullptr;
    node.info = store::ObjectInfo{.type = store::FileType::kSymlink, .size = target.size(), .mode = 0777};
    node.info.symlink_target = target;
  }

  // Removes a file, or a directory with all below it.
  void Remove(const std::string& path) {
    std::lock_guard lock(mutex_);
    std::erase_if(nodes_, [&](const auto& item) { return item.first == path || item.first.starts_with(path + "/"); });
  }

  // Changes attributes in place (mode, settled, times, inline_content); the bytes stay.
  void Edit(const std::string& path, const std::function<void(store::ObjectInfo&)>& change) {
    std::lock_guard lock(mutex_);
    change(nodes_.at(path).info);
  }

  // A reference to the present version of the file at `path`, which must exist.
  store::ObjectRef Ref(const std::string& path) const {
    std::lock_guard lock(mutex_);
    const store::ObjectInfo& info = nodes_.at(path).info;
    return {.path = path, .version = info.version, .size = info.size, .layout = info.layout};
  }

  // What was asked so far. Failed calls count; bytes are those handed to sinks.
  uint64_t stats() const { return Count(Op::kStat); }
  uint64_t lists() const { return Count(Op::kList); }
  uint64_t reads() const { return Count(Op::kRead); }
  uint64_t read_bytes() const { return read_bytes_.load(); }
  std::vector<Read> read_log() const {
    std::lock_guard lock(mutex_);
    return read_log_;
  }

  // The next call of that kind fails with `error` (a read: after `after_bytes` of it). Calls queue up.
  void FailNext(Op op, Error error, uint64_t after_bytes = 0) {
    std::lock_guard lock(mutex_);
    failures_[static_cast<size_t>(op)].emplace_back(std::move(error), after_bytes);
  }

  // From now on a read stops before its first byte until UnblockReads; a stop request or its deadline ends it sooner.
  void BlockReads() {
    std::lock_guard lock(mutex_);
    blocked_ = true;
  }
  void UnblockReads() {
    std::lock_guard lock(mutex_);
    blocked_ = false;
    changed_.notify_all();
  }
  // Returns once `count` reads are held at the same time.
  void WaitForBlockedReads(size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return waiting_ >= count; });
  }

  void set_piece_bytes(uint64_t bytes) { piece_bytes_ = bytes; }
  void set_page_entries(size_t entries) { page_entries_ = entries; }
  // A listing whose names suffice is not described.
  void set_dear_attributes(bool dear) { dear_attributes_ = dear; }

  // Called, with no lock held, before each piece goes to the sink: may replace files, block on a latch, throw nothing.
  void set_before_piece(std::function<void(const std::string& path, uint64_t offset)> hook) {
    std::lock_guard lock(mutex_);
    before_piece_ = std::move(hook);
  }

  Result<store::ObjectInfo> Stat(const std::string& path, const store::CallContext& context) override {
    std::lock_guard lock(mutex_);
    MLCACHE_RETURN_IF_ERROR(Enter(Op::kStat, path, context));
    auto node = nodes_.find(path);
    if (node == nodes_.end()) return Fail(Code::kNotFound, path + ": no such file in the fake store");
    return node->second.info;
  }

  Result<store::ListPage> List(const std::string& path, const std::string& token,
                               const store::CallContext& context) override {
    std::lock_guard lock(mutex_);
    MLCACHE_RETURN_IF_ERROR(Enter(Op::kList, path, context));
    auto directory = nodes_.find(path);
    if (directory == nodes_.end() || directory->second.info.type != store::FileType::kDirectory) {
      return Fail(Code::kNotFound, path + ": no such directory in the fake store");
    }
    const std::string prefix = path.empty() ? "" : path + "/";
    store::ListPage page;
    for (auto node = nodes_.upper_bound(prefix + token); node != nodes_.end() && node->first.starts_with(prefix);
         ++node) {
      std::string name = node->first.substr(prefix.size());
      if (name.find('/') != std::string::npos) continue;
      if (page.entries.size() == page_entries_) {
        page.next = page.entries.back().name;
        break;
      }
      page.entries.push_back({.name = std::move(name), .info = node->second.info});
      if (dear_attributes_ && context.names_suffice) {
        page.entries.back().info = {.type = node->second.info.type};
        page.entries.back().described = false;
      }
    }
    return page;
  }

  Status ReadRange(const store::ObjectRef& ref, uint64_t offset, uint64_t length, const store::ByteSink& sink,
                   const store::CallContext& context) override {
    std::shared_ptr<const std::string> content;
    std::optional<std::pair<Error, uint64_t>> failure;
    std::function<void(const std::string&, uint64_t)> before_piece;
    {
      std::unique_lock lock(mutex_);
      read_log_.push_back({ref.path, offset, length, context.priority, std::string(context.job)});
      auto& failures = failures_[static_cast<size_t>(Op::kRead)];
      if (!failures.empty()) {
        failure = std::move(failures.front());
        failures.pop_front();
      }
      MLCACHE_RETURN_IF_ERROR(Enter(Op::kRead, ref.path, context));
      MLCACHE_RETURN_IF_ERROR(Hold(lock, context));
      MLCACHE_ASSIGN_OR_RETURN(content, Current(ref));
      before_piece = before_piece_;
    }
    if (offset > content->size() || length > content->size() - offset) {
      return Fail(Code::kOutOfRange, ref.path + ": range past the end");
    }
    for (uint64_t done = 0; done < length || failure;) {
      if (failure && done >= std::min(failure->second, length)) return std::unexpected(failure->first);
      if (before_piece) before_piece(ref.path, offset + done);
      MLCACHE_RETURN_IF_ERROR(Alive(context));
      uint64_t piece = std::min<uint64_t>(piece_bytes_, length - done);
      if (failure) piece = std::min(piece, failure->second - done);
      {
        std::lock_guard lock(mutex_);
        MLCACHE_ASSIGN_OR_RETURN(content, Current(ref));
      }
      read_bytes_ += piece;
      MLCACHE_RETURN_IF_ERROR(sink(std::as_bytes(std::span(content->data() + offset + done, piece))));
      done += piece;
    }
    return {};
  }

  Result<store::StoreCapacity> Capacity(const store::CallContext& context) override {
    MLCACHE_RETURN_IF_ERROR(Alive(context));
    return store::StoreCapacity{.total_bytes = 1 << 30, .free_bytes = 1 << 29, .total_files = 1000, .free_files = 500};
  }

  Status Watch(const std::string& path, const store::ChangeSink&, const store::CallContext&) override {
    return Fail(Code::kUnimplemented, path + ": the fake store has no change feed");
  }

 private:
  struct Node {
    store::ObjectInfo info;
    std::shared_ptr<const std::string> content;
  };

  // Below, mutex_ is held by the caller unless said otherwise.

  void Parents(const std::string& path) {
    auto add = [&](const std::string& directory) {
      Node& node = nodes_[directory];
      if (node.info.type == store::FileType::kDirectory) return;
      node.content = nullptr;
      node.info = store::ObjectInfo{.type = store::FileType::kDirectory, .mode = 0755, .nlink = 2};
    };
    for (size_t slash = path.find('/'); slash != std::string::npos; slash = path.find('/', slash + 1)) {
      add(path.substr(0, slash));
    }
  }

  // Needs no lock.
  static Status Alive(const store::CallContext& context) {
    if (context.stop.stop_requested()) return Fail(Code::kCancelled, "the call was called off");
    if (SystemClock().Now() >= context.deadline) return Fail(Code::kDeadlineExceeded, "the call's deadline has passed");
    return {};
  }

  Status Enter(Op op, const std::string& path, const store::CallContext& context) {
    ++counts_[static_cast<size_t>(op)];
    MLCACHE_RETURN_IF_ERROR(Alive(context));
    auto& failures = failures_[static_cast<size_t>(op)];
    if (op == Op::kRead || failures.empty()) return {};
    Error error = std::move(failures.front().first);
    failures.pop_front();
    return std::unexpected(error.WithContext(path));
  }

  Status Hold(std::unique_lock<std::mutex>& lock, const store::CallContext& context) {
    if (!blocked_) return {};
    ++waiting_;
    changed_.notify_all();
    const std::chrono::steady_clock::time_point deadline{context.deadline};
    auto freed = [&] { return !blocked_; };
    if (context.deadline == Nanos::max()) {
      changed_.wait(lock, context.stop, freed);
    } else {
      changed_.wait_until(lock, context.stop, deadline, freed);
    }
    --waiting_;
    return Alive(context);
  }

  Result<std::shared_ptr<const std::string>> Current(const store::ObjectRef& ref) const {
    auto node = nodes_.find(ref.path);
    if (node == nodes_.end() || node->second.info.version != ref.version || node->second.content == nullptr) {
      return Fail(Code::kFailedPrecondition, ref.path + ": changed in the fake store since version " + ref.version);
    }
    return node->second.content;
  }

  uint64_t Count(Op op) const {
    std::lock_guard lock(mutex_);
    return counts_[static_cast<size_t>(op)];
  }

  mutable std::mutex mutex_;
  std::condition_variable_any changed_;
  std::map<std::string, Node> nodes_{
      {"", Node{.info = {.type = store::FileType::kDirectory, .mode = 0755, .nlink = 2}, .content = nullptr}}};
  uint64_t versions_ = 0;
  uint64_t counts_[3] = {};
  std::deque<std::pair<Error, uint64_t>> failures_[3];
  std::vector<Read> read_log_;
  std::function<void(const std::string&, uint64_t)> before_piece_;
  bool blocked_ = false;
  size_t waiting_ = 0;
  std::atomic<uint64_t> read_bytes_ = 0;
  std::atomic<uint64_t> piece_bytes_ = 64 << 10;
  std::atomic<size_t> page_entries_ = 1000;
  std::atomic<bool> dear_attributes_ = false;
};

}  // namespace mlcache::testing
