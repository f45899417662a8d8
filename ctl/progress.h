// How a warm-up shows where it is. Owned by the main thread.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "common/status.h"
#include "ctl/console.h"
#include "proto/control.pb.h"

namespace mlcache::ctl {

class Progress {
 public:
  virtual ~Progress() = default;

  virtual void Show(const control::WarmupProgress& progress, std::chrono::nanoseconds elapsed) = 0;

  // Before a failure is printed, and at the end: leaves the cursor at the beginning of a line.
  virtual void Clear() = 0;

  // The last line: what was done in all.
  virtual void Finish(const control::WarmupProgress& last, uint64_t failures, std::chrono::nanoseconds elapsed) = 0;
};

// "auto", "json" or "none"; kInvalidArgument otherwise.
Result<std::unique_ptr<Progress>> MakeProgress(const std::string& form, bool metadata_only, Console& console);

// One line that fits into `columns`: "[####....]  45 %  1.2 GiB of 2.7 GiB, 120 of 400 files, 310.0 MiB/s, 5 s left".
std::string ProgressLine(const control::WarmupProgress& progress, std::chrono::nanoseconds elapsed, size_t columns);

}  // namespace mlcache::ctl
