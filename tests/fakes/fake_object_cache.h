// An ObjectCache in memory for the tests of its users: same contract, no disk, no thread, and knobs to make it fail.
// The contract suite in tests/cache runs over it and over the real one. Thread-safe.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "cached/cache/object_cache.h"

namespace mlcache::cache {

class FakeObjectCache final : public ObjectCache {
 public:
  explicit FakeObjectCache(uint64_t capacity_bytes = UINT64_MAX / 2) : capacity_bytes_(capacity_bytes) {}

  // Knobs. From then on: Wait::kNever finds nothing in memory; Reserve is refused; Fill fails with this error.
  std::atomic<bool> never_wait_is_unavailable = false;
  std::atomic<bool> refuse_reservations = false;
  void FailFills(std::optional<Error> error) {
    const std::scoped_lock lock(mutex_);
    fill_error_ = std::move(error);
  }
  // The next Read that touches this block finds it damaged.
  void Corrupt(const ObjectKey& key, uint64_t offset) {
    const std::scoped_lock lock(mutex_);
    if (auto found = blocks_.find(KeyParts(key)); found != blocks_.end()) {
      if (auto block = found->second.find(offset / kBlockBytes); block != found->second.end()) {
        block->second.corrupt = true;
      }
    }
  }

  // What happened, for assertions.
  std::atomic<uint64_t> touches = 0;
  std::atomic<uint64_t> let_go = 0;  // LetPagesGo
  std::atomic<uint64_t> filled_bytes = 0;
  std::atomic<uint64_t> flushes = 0;
  uint64_t used_bytes() const {
    const std::scoped_lock lock(mutex_);
    return used_bytes_;
  }
  uint64_t reserved_bytes() const {
    const std::scoped_lock lock(mutex_);
    return reserved_bytes_;
  }

  Result<std::shared_ptr<CachedObject>> Acquire(const ObjectKey& key) override {
    const std::scoped_lock lock(mutex_);
    return Open(key);
  }

  std::shared_ptr<CachedObject> Find(const ObjectKey& key) override {
    const std::scoped_lock lock(mutex_);
    if (auto found = blocks_.find(KeyParts(key)); found == blocks_.end() || found->second.empty()) return nullptr;
    return Open(key);
  }

  uint64_t Evict(const ObjectKey& key) override {
    const std::scoped_lock lock(mutex_);
    return Drop(KeyParts(key));
  }

  Status Flush() override {
    ++flushes;
    return {};
  }

  void Touch(const ObjectId& /*id*/, const AccessHints& /*hints*/) override { ++touches; }
  std::vector<ObjectsDirectory> ObjectsDirectories() const override { return {}; }
  void TellOfLeaving(Left left) override {
    const std::scoped_lock lock(mutex_);
    left_ = std::move(left);
  }

  std::vector<TierReport> Tiers() const override {
    const std::scoped_lock lock(mutex_);
    return {{.directory = "fake",
             .kind = "memory",
             .capacity_bytes = capacity_bytes_,
             .used_bytes = used_bytes_ + reserved_bytes_,
             .objects = static_cast<uint64_t>(
                 std::ranges::count_if(blocks_, [](const auto& object) { return !object.second.empty(); })),
             .state = "ok"}};
  }

 private:
  using Parts = std::tuple<std::string, std::string, std::string, uint64_t>;
  struct Block {
    std::vector<std::byte> bytes;
    bool corrupt = false;
  };
  using Blocks = std::map<uint64_t, Block>;

  struct Room final : Reservation {
    Room(FakeObjectCache& owner, uint64_t room) : cache(owner), bytes(room) {}
    Room(const Room&) = delete;
    Room& operator=(const Room&) = delete;
    ~Room() override {
      const std::scoped_lock lock(cache.mutex_);
      cache.reserved_bytes_ -= bytes;
    }
    FakeObjectCache& cache;
    uint64_t bytes;
  };

  class Object final : public CachedObject {
   public:
    Object(FakeObjectCache& cache, ObjectKey key) : cache_(cache), key_(std::move(key)), parts_(KeyParts(key_)) {}

    const ObjectKey& key() const override { return key_; }

    std::vector<ByteRange> Missing(uint64_t offset, uint64_t length) const override {
      const std::scoped_lock lock(cache_.mutex_);
      std::vector<ByteRange> missing;
      if (offset >= key_.size || length == 0) return missing;
      const uint64_t end = offset + std::min(length, key_.size - offset);
      const auto found = cache_.blocks_.find(parts_);
      for (uint64_t block = offset / kBlockBytes; block * kBlockBytes < end; ++block) {
        if (found != cache_.blocks_.end() && found->second.contains(block)) continue;
        const uint64_t start = block * kBlockBytes;
        if (!missing.empty() && missing.back().offset + missing.back().length == start) {
          missing.back().length += BlockLength(block);
        } else {
          missing.push_back({start, BlockLength(block)});
        }
      }
      return missing;
    }

    Status Read(uint64_t offset, std::span<std::byte> out, Wait wait) override {
      if (offset > key_.size || out.size() > key_.size - offset) return Fail(Code::kOutOfRange, key_.path);
      if (!Missing(offset, out.size()).empty()) return Fail(Code::kNotFound, key_.path + ": not cached");
      if (wait == Wait::kNever && cache_.never_wait_is_unavailable) return Fail(Code::kUnavailable, key_.path);
      const std::scoped_lock lock(cache_.mutex_);
      Blocks& blocks = cache_.blocks_[parts_];
      for (uint64_t done = 0; done < out.size();) {
        const uint64_t at = offset + done;
        const auto block = blocks.find(at / kBlockBytes);
        if (block == blocks.end()) return Fail(Code::kNotFound, key_.path + ": not cached");
        if (block->second.corrupt) {
          cache_.used_bytes_ -= block->second.bytes.size();
          blocks.erase(block);
          return Fail(Code::kDataLoss, key_.path + ": a cached block does not match its checksum");
        }
        const uint64_t inside = at % kBlockBytes;
        const uint64_t take = std::min<uint64_t>(block->second.bytes.size() - inside, out.size() - done);
        std::memcpy(out.data() + done, block->second.bytes.data() + inside, take);
        done += take;
      }
      return {};
    }

    Result<std::unique_ptr<Reservation>> Reserve(ByteRange range, const AccessHints& hints) override {
      const std::scoped_lock lock(cache_.mutex_);
      const uint64_t start = range.offset / kBlockBytes * kBlockBytes;
      const uint64_t end =
          std::min(key_.size, (range.offset + range.length + kBlockBytes - 1) / kBlockBytes * kBlockBytes);
      const uint64_t bytes = end > start ? end - start : 0;
      while (cache_.used_bytes_ + cache_.reserved_bytes_ + bytes > cache_.capacity_bytes_) {
        auto victim = std::ranges::find_if(
            cache_.blocks_, [&](const auto& object) { return !object.second.empty() && object.first != parts_; });
        if (victim == cache_.blocks_.end()) break;
        cache_.Drop(victim->first);
      }
      if (cache_.refuse_reservations || !hints.keep ||
          cache_.used_bytes_ + cache_.reserved_bytes_ + bytes > cache_.capacity_bytes_) {
        return Fail(Code::kResourceExhausted, key_.path + ": no room in the cache");
      }
      cache_.reserved_bytes_ += bytes;
      return std::make_unique<Room>(cache_, bytes);
    }

    Status Fill(Reservation& reservation, uint64_t offset, std::span<const std::byte> bytes) override {
      if (offset % kBlockBytes != 0 || offset > key_.size || bytes.size() > key_.size - offset ||
          (bytes.size() % kBlockBytes != 0 && offset + bytes.size() != key_.size)) {
        return Fail(Code::kInvalidArgument, key_.path + ": a fill must be whole blocks within the object");
      }
      const std::scoped_lock lock(cache_.mutex_);
      if (cache_.fill_error_.has_value()) return std::unexpected(*cache_.fill_error_);
      auto& room = static_cast<Room&>(reservation);
      Blocks& blocks = cache_.blocks_[parts_];
      uint64_t needed = 0;
      for (uint64_t at = offset; at < offset + bytes.size(); at += kBlockBytes) {
        if (!blocks.contains(at / kBlockBytes)) needed += BlockLength(at / kBlockBytes);
      }
      if (room.bytes < needed) return Fail(Code::kResourceExhausted, key_.path + ": more than was reserved");
      room.bytes -= needed;
      cache_.reserved_bytes_ -= needed;
      cache_.used_bytes_ += needed;
      cache_.filled_bytes += needed;
      for (uint64_t at = offset; at < offset + bytes.size(); at += kBlockBytes) {
        const uint64_t block = at / kBlockBytes;
        const auto part = bytes.subspan(at - offset, BlockLength(block));
        if (!blocks.contains(block)) blocks[block].bytes.assign(part.begin(), part.end());
      }
      return {};
    }

    void Touch(ByteRange /*range*/, const AccessHints& /*hints*/) override { ++cache_.touches; }

    // There is no file: what a test wants to see lent has to come from the real cache.
    Result<UniqueFd> Lend(const LendingRoots& /*roots*/, Wait /*wait*/) override {
      return Fail(Code::kNotFound, key_.path + ": no file to lend");
    }

    void LetPagesGo() override { ++cache_.let_go; }

    uint64_t CachedBytes() const override {
      const std::scoped_lock lock(cache_.mutex_);
      uint64_t bytes = 0;
      if (auto found = cache_.blocks_.find(parts_); found != cache_.blocks_.end()) {
        for (const auto& [number, block] : found->second) bytes += block.bytes.size();
      }
      return bytes;
    }

    std::string TierKind() const override { return CachedBytes() == 0 ? "" : "memory"; }

   private:
    uint64_t BlockLength(uint64_t block) const { return std::min(kBlockBytes, key_.size - block * kBlockBytes); }

    FakeObjectCache& cache_;
    const ObjectKey key_;
    const Parts parts_;
  };

  static Parts KeyParts(const ObjectKey& key) { return {key.store, key.path, key.version, key.size}; }

  std::shared_ptr<CachedObject> Open(const ObjectKey& key) {
    std::weak_ptr<Object>& held = open_[KeyParts(key)];
    auto object = held.lock();
    if (object == nullptr) {
      object = std::make_shared<Object>(*this, key);
      held = object;
    }
    return object;
  }

  uint64_t Drop(const Parts& parts) {
    uint64_t dropped = 0;
    if (auto found = blocks_.find(parts); found != blocks_.end()) {
      for (const auto& [number, block] : found->second) dropped += block.bytes.size();
      found->second.clear();
    }
    used_bytes_ -= dropped;
    return dropped;
  }

  const uint64_t capacity_bytes_;
  mutable std::mutex mutex_;
  std::map<Parts, Blocks> blocks_;
  std::map<Parts, std::weak_ptr<Object>> open_;
  uint64_t used_bytes_ = 0;
  uint64_t reserved_bytes_ = 0;
  std::optional<Error> fill_error_;
  Left left_;
};

}  // namespace mlcache::cache
