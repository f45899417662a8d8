// Loads the metadata of a directory tree ahead of its first reader: lists it, with attributes, in the background and at
// the lowest priority, so that look-ups are then answered from memory for as long as metadata lasts (attr_ttl).
#pragma once

#include <memory>
#include <string>
#include <thread>

#include "cached/session/volume.h"
#include "common/clock.h"

namespace mlcache::session {

struct DatasetLoaderOptions {
  Nanos max_age{};  // what is known no longer than this is not asked for again
  Nanos request_timeout = std::chrono::seconds(60);
  size_t max_entries = 500'000;  // then it stops: more would push out what it loaded first
  size_t listings_at_once = 4;
};

class DatasetLoader {
 public:
  // Begins at once, on a thread of its own; `path` is a directory of the volume.
  DatasetLoader(std::shared_ptr<Volume> volume, std::string path, const DatasetLoaderOptions& options);
  DatasetLoader(const DatasetLoader&) = delete;
  DatasetLoader& operator=(const DatasetLoader&) = delete;
  ~DatasetLoader();  // calls off what is left and waits for the listings under way

 private:
  void Load(const std::stop_token& stop) const;

  const std::shared_ptr<Volume> volume_;
  const std::string path_;
  const DatasetLoaderOptions options_;
  std::jthread thread_;
};

}  // namespace mlcache::session
