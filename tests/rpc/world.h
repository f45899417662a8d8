// A store, a cache, a fetcher and one volume, in memory: what the control service works on.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "cached/fetch/fetcher.h"
#include "cached/metrics/metrics.h"
#include "cached/rpc/targets.h"
#include "cached/session/volume.h"
#include "cached/store/store_url.h"
#include "tests/fakes/fake_key_value.h"
#include "tests/fakes/fake_object_cache.h"
#include "tests/fakes/fake_object_store.h"
#include "tests/fakes/fake_session_server.h"

namespace mlcache::testing {

struct World {
  static constexpr char kUrl[] = "file:///data";
  static constexpr char kMountpoint[] = "/mnt/data";

  explicit World(uint64_t cache_bytes = UINT64_MAX / 2,
                 std::shared_ptr<FakeObjectStore> fake = std::make_shared<FakeObjectStore>())
      : store(std::move(fake)), cache(cache_bytes) {
    volume = session::MakeVolume(store::ParseStoreUrl(kUrl).value(), store, cache, metadata, {}, SystemClock());
    sessions.AddMount({.mountpoint = kMountpoint, .store_url = kUrl, .pid = 7, .job = "train"}, volume);
  }

  rpc::ResolvedTargets Targets(const std::string& path) {
    return {.targets = {{.volume = volume, .path = path, .base = kMountpoint}}, .failures = {}};
  }

  // The cached bytes of the present version of a file.
  uint64_t Cached(const std::string& path) {
    const auto info = volume->Stat(path, Nanos::zero(), {});
    const auto object = cache.Find(session::KeyOf(volume->url(), path, info.value()));
    return object == nullptr ? 0 : object->CachedBytes();
  }

  Metrics metrics;
  std::shared_ptr<FakeObjectStore> store;
  cache::FakeObjectCache cache;
  cache::FakeKeyValue metadata;
  std::unique_ptr<fetch::Fetcher> fetcher = fetch::MakeFetcher({}, SystemClock(), metrics);
  FakeSessionServer sessions;
  std::shared_ptr<session::Volume> volume;
};

}  // namespace mlcache::testing
