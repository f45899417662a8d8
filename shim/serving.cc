#include "shim/serving.h"

namespace mlcache::shim {

Serving::Serving(std::string_view open_mode, SharedState& state, const OpenTable& opens)
    : wish_(open_mode == "passthrough" ? Wish::kPassthrough
            : open_mode == "noopen"    ? Wish::kNoOpen
            : open_mode == "cached"    ? Wish::kCached
                                       : Wish::kAuto),
      state_(state),
      opens_(opens) {}

void Serving::SetLending(bool lends, std::string why) {
  const bool wanted = wish_ == Wish::kAuto || wish_ == Wish::kPassthrough;
  {
    const std::lock_guard lock(mutex_);
    why_not_ = std::move(why);
  }
  lending_ = lends && wanted && state_.no_open == 0;
  if (on_change_) on_change_();
}

void Serving::Saw(uint64_t bytes) {
  if (wish_ != Wish::kAuto || state_.no_open != 0) return;
  files_.fetch_add(1, std::memory_order_relaxed);
  bytes_.fetch_add(bytes, std::memory_order_relaxed);
  if (bytes <= kSmallFileBytes) return;
  large_files_.fetch_add(1, std::memory_order_relaxed);
  large_bytes_.fetch_add(bytes, std::memory_order_relaxed);
}

// Most files are small, and so is what most bytes lie in.
bool Serving::TreeIsOfSmallFiles() const {
  const uint64_t files = files_.load(std::memory_order_relaxed);
  return files >= kEnoughFiles && large_files_.load(std::memory_order_relaxed) * 10 <= files &&
         large_bytes_.load(std::memory_order_relaxed) * 2 <= bytes_.load(std::memory_order_relaxed);
}

bool Serving::EndsOpens() {
  if (state_.no_open != 0) return true;
  if (wish_ != Wish::kNoOpen && (wish_ != Wish::kAuto || !TreeIsOfSmallFiles())) return false;
  // A file that the kernel reads by itself could not be mapped through an open of the other kind meanwhile
  // (fs/fuse/file.c, fuse_file_mmap): wait for a moment when there is none.
  if (opens_.passthrough_opens() > 0) return false;
  state_.no_open = 1;
  lending_ = false;
  if (on_change_) on_change_();
  return true;
}

ServingReport Serving::Report() const {
  if (state_.no_open != 0) return {.mode = "noopen", .reason = ""};
  if (lending_) return {.mode = "passthrough", .reason = ""};
  const std::lock_guard lock(mutex_);
  if (wish_ == Wish::kNoOpen) return {.mode = "noopen", .reason = ""};
  return {.mode = "cached", .reason = wish_ == Wish::kCached ? "" : why_not_};
}

}  // namespace mlcache::shim
