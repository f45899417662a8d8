// What the cache's tests share: a directory that goes away, an opened cache that can be reopened, and objects with
// bytes that tell where they belong.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "cached/cache/block_sum.h"
#include "cached/cache/object_cache.h"
#include "cached/cache/open_cache.h"
#include "cached/metrics/metrics.h"
#include "common/clock.h"

namespace mlcache::cache {

class TempDirectory {
 public:
  explicit TempDirectory(const std::string& parent = ::testing::TempDir()) : path_(parent + "/mlcache-XXXXXX") {
    if (::mkdtemp(path_.data()) == nullptr) ADD_FAILURE() << "mkdtemp " << path_;
  }
  TempDirectory(const TempDirectory&) = delete;
  TempDirectory& operator=(const TempDirectory&) = delete;
  ~TempDirectory() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline ObjectKey KeyOf(const std::string& path, uint64_t size, const std::string& version = "v1") {
  return {.store = "file:///data", .path = path, .version = version, .size = size};
}

// The bytes of an object at a place: every 8 of them differ from those of any other object, version and place.
inline std::vector<std::byte> BytesOf(const ObjectKey& key, uint64_t offset, uint64_t length) {
  std::vector<std::byte> bytes(length);
  const uint64_t seed = FingerprintOf(key);
  for (uint64_t i = 0; i < length; ++i) {
    const uint64_t word = seed + (offset + i) / 8 * 0x9E3779B97F4A7C15ULL;
    bytes[i] = static_cast<std::byte>(word >> ((offset + i) % 8 * 8));
  }
  return bytes;
}

// May fail here, and that is all right.
inline void Try(const Status& /*status*/) {}

// Fills a range (whole blocks) with the right bytes.
inline Status FillRange(CachedObject& object, uint64_t offset, uint64_t length, const AccessHints& hints = {}) {
  MLCACHE_ASSIGN_OR_RETURN(auto room, object.Reserve({offset, length}, hints));
  return object.Fill(*room, offset, BytesOf(object.key(), offset, length));
}

inline ::testing::AssertionResult ReadsBack(CachedObject& object, uint64_t offset, uint64_t length) {
  std::vector<std::byte> out(length);
  const Status read = object.Read(offset, out, Wait::kMayBlock);
  if (!read.has_value()) return ::testing::AssertionFailure() << read.error();
  if (out != BytesOf(object.key(), offset, length)) return ::testing::AssertionFailure() << "wrong bytes";
  return ::testing::AssertionSuccess();
}

// As du: what the directory and everything below takes.
inline uint64_t SpaceBelow(const std::string& path) {
  uint64_t bytes = 0;
  struct stat info{};
  std::error_code error;
  for (auto entry = std::filesystem::recursive_directory_iterator(path, error);
       entry != std::filesystem::recursive_directory_iterator(); entry.increment(error)) {
    if (error) break;
    if (::lstat(entry->path().c_str(), &info) == 0) bytes += static_cast<uint64_t>(info.st_blocks) * 512;
  }
  return bytes;
}

inline std::string FileOf(const std::string& tier, const ObjectKey& key) {
  const std::string hex = ToHex(IdOf(key));
  return tier + "/objects/" + hex.substr(0, 2) + "/" + hex;
}

class FakeClock final : public Clock {
 public:
  Nanos Now() const override { return Nanos(now_.load()); }
  Nanos WallNow() const override { return Nanos(now_.load()); }
  void Advance(Nanos by) { now_ += by.count(); }

 private:
  std::atomic<int64_t> now_ = 1'000'000'000;
};

// A cache that can be closed and opened again over the same tiers.
class CacheWorld {
 public:
  explicit CacheWorld(CacheOptions options) : options_(std::move(options)) { Open(); }
  explicit CacheWorld(const std::string& directory, uint64_t capacity = 64 * kMiB)
      : CacheWorld(CacheOptions{.tiers = {{directory, capacity}}, .commit_interval = std::chrono::hours(1)}) {}

  void Open() {
    metrics_ = std::make_unique<Metrics>();
    auto opened = OpenCache(options_, clock, *metrics_);
    ASSERT_TRUE(opened.has_value()) << opened.error();
    opened_ = std::move(*opened);
  }
  void Close() { opened_ = {}; }
  void Reopen() {
    Close();
    Open();
  }

  ObjectCache& cache() { return *opened_.cache; }
  ObjectLinks& links() { return *opened_.links; }
  KeyValue& metadata() { return *opened_.metadata; }
  KeyValue& nodes() { return *opened_.nodes; }
  CacheOptions& options() { return options_; }
  const std::string& directory() const { return options_.tiers.front().directory; }
  std::shared_ptr<CachedObject> Get(const ObjectKey& key) { return cache().Acquire(key).value(); }
  double Verified() { return metrics_->verified_bytes.Add({{"tier", cache().Tiers().front().kind}}).Value(); }
  double Corrupt() { return metrics_->corrupt_blocks.Add({{"tier", cache().Tiers().front().kind}}).Value(); }
  double Isolated() { return metrics_->tier_isolated.Add({{"tier", directory()}}).Value(); }

  FakeClock clock;

 private:
  CacheOptions options_;
  std::unique_ptr<Metrics> metrics_;
  OpenedCache opened_;
};

}  // namespace mlcache::cache
