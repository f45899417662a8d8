// How the files of one mount are opened. *passthrough*: the kernel reads the cached copy of a complete file by itself.
// *noopen*: opens and closes stay in the kernel, which keeps pages of its own. *cached*: opens and reads come to us,
// with the kernel's page cache before us. `open_mode=auto` begins with passthrough where that can be had, and goes over
// to no-open, for good, once the tree has turned out to be one of small files: there an open costs more than its reads.
// Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

#include "shim/open_table.h"
#include "shim/shared_state.h"

namespace mlcache::shim {

struct ServingReport {
  std::string mode;    // "passthrough", "noopen" or "cached"
  std::string reason;  // why nothing faster, "" when that is what was asked for or nothing is
};

class Serving {
 public:
  // Files seen before `auto` may conclude anything, and the size up to which they are small.
  static constexpr uint64_t kEnoughFiles = 64;
  static constexpr uint64_t kSmallFileBytes = uint64_t{1} << 20;

  // `open_mode` as the option; borrows the rest.
  Serving(std::string_view open_mode, SharedState& state, const OpenTable& opens);

  // May a file be lent to this mount now?
  bool WantsLease() const { return lending_.load(std::memory_order_relaxed); }

  // Whether the present session lends files; if not, `why`.
  void SetLending(bool lends, std::string why);

  // The kernel was shown a regular file of this size.
  void Saw(uint64_t bytes);

  // At an OPEN: whether to answer ENOSYS, so that this was the last one.
  bool EndsOpens();

  ServingReport Report() const;

  // Called, with the new report, whenever that changes; on any thread. Set before use.
  void set_on_change(std::function<void()> on_change) { on_change_ = std::move(on_change); }

 private:
  enum class Wish : uint8_t { kAuto, kPassthrough, kNoOpen, kCached };

  bool TreeIsOfSmallFiles() const;

  const Wish wish_;
  SharedState& state_;
  const OpenTable& opens_;
  std::function<void()> on_change_;
  std::atomic<bool> lending_ = false;
  std::atomic<uint64_t> files_ = 0;
  std::atomic<uint64_t> large_files_ = 0;
  std::atomic<uint64_t> bytes_ = 0;
  std::atomic<uint64_t> large_bytes_ = 0;

  mutable std::mutex mutex_;
  std::string why_not_;  // guarded by mutex_
};

}  // namespace mlcache::shim
