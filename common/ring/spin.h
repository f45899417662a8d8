// How long a loop that found nothing to do should go on looking before it sleeps. The budget follows what was seen, as
// the kernel's halt polling does (Documentation/virt/kvm/halt-polling.rst): it grows while work keeps coming soon after
// the loop ran dry, and shrinks to nothing while it does not, so that an idle session burns no processor time.
//
//   for (AdaptiveSpin spin;;) {
//     if (TakeWork()) {               // all sources: the ring, and in a shim worker a non-blocking read of /dev/fuse
//       spin.FoundWork();
//     } else if (!spin.ShouldSpin()) {
//       if (channel.PrepareToSleep()) epoll_wait(…);  // doorbell edge-triggered, /dev/fuse too
//     }
//   }
//
// A spurious wake-up is no work: do not call FoundWork() for it. Where a look is itself dear (a read of /dev/fuse is a
// system call) look there only every few turns. Owned by one thread.
#pragma once

#include <algorithm>
#include <chrono>
#include <optional>
#include <thread>

#include "common/clock.h"

namespace mlcache::ring {

// A hint to the processor that this is a spin loop: saves power and lets a sibling hyperthread run.
inline void SpinPause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb" ::: "memory");
#endif
}

class AdaptiveSpin {
 public:
  // No budget at all on a machine with one processor, where spinning only keeps the peer from running.
  explicit AdaptiveSpin(Nanos most = DefaultBudget(), const Clock& clock = SystemClock())
      : clock_(clock), most_(most), budget_(most) {}

  // The loop found something to do.
  void FoundWork() {
    if (!dry_since_.has_value()) return;  // busy all along: no look at the clock
    const Nanos gap = clock_.Now() - *dry_since_;
    dry_since_.reset();
    if (gap > most_) {
      budget_ = budget_ <= kLeast ? Nanos{0} : budget_ / 2;  // no budget that we may have would have been enough
    } else if (gap > budget_) {
      budget_ = std::min(most_, std::max(kLeast, budget_ * 2));
    }
  }

  // The loop found nothing: look again at once (after a short pause, made here), or sleep?
  bool ShouldSpin() {
    const Nanos now = clock_.Now();
    if (!dry_since_.has_value()) dry_since_ = now;
    if (now - *dry_since_ >= budget_) return false;
    for (int pause = 0; pause < kPauses; ++pause) SpinPause();
    return true;
  }

  Nanos budget() const { return budget_; }

  static Nanos DefaultBudget() {
    return std::thread::hardware_concurrency() > 1 ? std::chrono::microseconds(50) : Nanos{0};
  }

 private:
  static constexpr Nanos kLeast = std::chrono::microseconds(4);
  static constexpr int kPauses = 4;

  const Clock& clock_;
  const Nanos most_;
  Nanos budget_;
  std::optional<Nanos> dry_since_;
};

}  // namespace mlcache::ring
