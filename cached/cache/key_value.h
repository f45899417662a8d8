// A small durable map, kept by RocksDB in the programs and by a std::map in tests: the metadata cache and the node
// table live in one each. A write survives the death of the process; a power loss may take the newest. Thread-safe.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/status.h"

namespace mlcache::cache {

// Applied as one. A pair without a value deletes the key.
using WriteBatch = std::vector<std::pair<std::string, std::optional<std::string>>>;

class KeyValue {
 public:
  virtual ~KeyValue() = default;

  virtual Result<std::optional<std::string>> Get(std::string_view key) const = 0;
  virtual Status Write(const WriteBatch& batch) = 0;

  // Visits the keys that begin with `prefix` in byte order until `visit` returns false. `visit` must not call back.
  virtual Status Scan(std::string_view prefix,
                      const std::function<bool(std::string_view key, std::string_view value)>& visit) const = 0;
};

}  // namespace mlcache::cache
