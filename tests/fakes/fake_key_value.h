// A KeyValue over a std::map, with a knob to make it fail. Thread-safe.
#pragma once

#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "cached/cache/key_value.h"

namespace mlcache::cache {

class FakeKeyValue final : public KeyValue {
 public:
  // Every call fails with this until it is set to nullopt.
  void FailWith(std::optional<Error> error) {
    const std::scoped_lock lock(mutex_);
    error_ = std::move(error);
  }
  size_t size() const {
    const std::scoped_lock lock(mutex_);
    return map_.size();
  }

  Result<std::optional<std::string>> Get(std::string_view key) const override {
    const std::scoped_lock lock(mutex_);
    if (error_.has_value()) return std::unexpected(*error_);
    const auto found = map_.find(key);
    if (found == map_.end()) return std::nullopt;
    return found->second;
  }

  Status Write(const WriteBatch& batch) override {
    const std::scoped_lock lock(mutex_);
    if (error_.has_value()) return std::unexpected(*error_);
    for (const auto& [key, value] : batch) {
      if (value.has_value()) {
        map_[key] = *value;
      } else {
        map_.erase(key);
      }
    }
    return {};
  }

  Status Scan(std::string_view prefix,
              const std::function<bool(std::string_view key, std::string_view value)>& visit) const override {
    const std::scoped_lock lock(mutex_);
    if (error_.has_value()) return std::unexpected(*error_);
    for (auto it = map_.lower_bound(prefix); it != map_.end() && it->first.starts_with(prefix); ++it) {
      if (!visit(it->first, it->second)) break;
    }
    return {};
  }

 private:
  mutable std::mutex mutex_;
  std::map<std::string, std::string, std::less<>> map_;
  std::optional<Error> error_;
};

}  // namespace mlcache::cache
