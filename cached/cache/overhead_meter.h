// Measures what the databases and directories of a tier take, and keeps the budget's overhead ahead of it. Thread-safe.
//
// Between two measurements the overhead is twice what was measured (a compaction writes its output beside its input),
// plus twice what was written since, plus a margin for each database.
#pragma once

#include <mutex>
#include <string>
#include <vector>

#include "cached/cache/budget.h"

namespace mlcache::cache {

class OverheadMeter {
 public:
  // `directories` are measured with all they hold at one level; the databases' margin is `margin_bytes` in all.
  OverheadMeter(Budget& budget, std::vector<std::string> databases, std::string object_directory,
                uint64_t margin_bytes);

  // `bytes` are about to be written to a database.
  void Writing(uint64_t bytes);

  // An object file was made in the directory with this path; `bytes` is what that directory takes now.
  void DirectoryNow(size_t directory, uint64_t bytes);

  // Looks at the disk again.
  void Measure();

 private:
  void Publish();  // mutex_ held

  Budget& budget_;
  const std::vector<std::string> databases_;
  const std::string object_directory_;
  const uint64_t margin_bytes_;
  std::mutex measuring_;  // before mutex_
  std::mutex mutex_;
  uint64_t measured_bytes_ = 0;
  uint64_t written_bytes_ = 0;
  std::vector<uint64_t> directory_bytes_;
};

}  // namespace mlcache::cache
