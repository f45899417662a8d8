// A fake SeaweedFS cluster with a store over it, for the tests of the store.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <string>

#include "cached/store/seaweed_store.h"
#include "common/clock.h"
#include "tests/fakes/fake_seaweed.h"

namespace mlcache::store {

using FileOptions = testing::FakeSeaweed::FileOptions;

class SeaweedWorld : public ::testing::Test {
 protected:
  static std::string RandomBytes(size_t size, uint32_t seed) {
    std::mt19937 random(seed);
    std::string bytes(size, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    return bytes;
  }

  std::shared_ptr<SeaweedStore> Open(const std::string& access = "", const SeaweedSecurity& security = {},
                                     const std::string& filers = "", const std::string& path = "") {
    StoreUrl url{.scheme = "seaweedfs", .authority = filers.empty() ? cluster_.filer() : filers, .path = path};
    if (!access.empty()) url.options["access"] = access;
    Result<std::shared_ptr<SeaweedStore>> store = SeaweedStore::Open(url, security, options_, *clock_);
    if (!store) ADD_FAILURE() << store.error();
    return store ? *store : nullptr;
  }

  static ObjectRef Ref(ObjectStore& store, const std::string& path) {
    const Result<ObjectInfo> info = store.Stat(path, {});
    if (!info) {
      ADD_FAILURE() << info.error();
      return {};
    }
    return {.path = path, .version = info->version, .size = info->size, .layout = info->layout};
  }

  static Result<std::string> Read(ObjectStore& store, const ObjectRef& ref, uint64_t offset, uint64_t length,
                                  const CallContext& context = {}) {
    std::string bytes;
    const ByteSink sink = [&](std::span<const std::byte> piece) -> Status {
      bytes.append(reinterpret_cast<const char*>(piece.data()), piece.size());
      return {};
    };
    MLCACHE_RETURN_IF_ERROR(store.ReadRange(ref, offset, length, sink, context));
    return bytes;
  }
  static Result<std::string> Read(ObjectStore& store, const std::string& path) {
    const ObjectRef ref = Ref(store, path);
    return Read(store, ref, 0, ref.size);
  }

  SeaweedOptions options_{
      .http = {.connect_timeout = std::chrono::seconds(2), .stall_timeout = std::chrono::seconds(1)},
      .filer = {.connect_timeout = std::chrono::seconds(1)},
      .feed = {.first_backoff = std::chrono::milliseconds(5), .longest_backoff = std::chrono::milliseconds(20)}};
  const Clock* clock_ = &SystemClock();  // of stores opened from now on
  testing::FakeSeaweed cluster_;
};

}  // namespace mlcache::store
