// The daemon's state in the first tier: small durable maps as column families of one RocksDB. A write survives the
// process (it is in the log), not always a power loss. Thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "cached/cache/key_value.h"
#include "cached/cache/overhead_meter.h"
#include "common/status.h"

namespace mlcache::cache {

struct StateStores {
  std::unique_ptr<KeyValue> metadata;
  std::unique_ptr<KeyValue> nodes;
};

// `nodes` is emptied when `boot` is not the one it was last used under. Each write is announced to `meter` first, then
// `relieve` may make room for it. Both must outlive the stores.
Result<StateStores> OpenState(const std::string& directory, const std::string& boot, OverheadMeter& meter,
                              std::function<void()> relieve);

}  // namespace mlcache::cache
