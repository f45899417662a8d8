// Waking the consumer of a queue that sleeps, and only then. Internal to common/ring.
//
// A push stores `tail` and then loads `asleep`; a consumer about to sleep stores `asleep` and then loads `tail`
// (Dekker's pattern). All four are sequentially consistent, so in their one order at least one side sees the other, and
// no wake-up is lost (tests/ring/wake_model_test.cc tries every interleaving). Operations rather than fences because
// ThreadSanitizer understands only the former; on x86-64 they cost one xchg a push.
#pragma once

#include <unistd.h>

#include <atomic>
#include <cstdint>

namespace mlcache::ring {

static_assert(std::atomic_ref<uint32_t>::is_always_lock_free);

inline std::atomic_ref<uint32_t> SharedWord(uint32_t& word) { return std::atomic_ref<uint32_t>(word); }

// After a push: wakes the consumer if it announced that it sleeps. Of several producers one writes the doorbell.
inline void RingIfAsleep(uint32_t& asleep, int doorbell) {
  if (SharedWord(asleep).load(std::memory_order_seq_cst) == 0) return;
  if (SharedWord(asleep).exchange(0, std::memory_order_seq_cst) == 0) return;
  const uint64_t one = 1;
  // Fails only when a peer drove the counter to its end, which can but silence the peer's own session.
  [[maybe_unused]] const ssize_t written = ::write(doorbell, &one, sizeof(one));
}

// A consumer's announcement that it sleeps. One thread.
class SleepFlag {
 public:
  explicit SleepFlag(uint32_t& word) : word_(&word) {}

  void Announce() {
    announced_ = true;
    SharedWord(*word_).store(1, std::memory_order_seq_cst);
  }

  // Spares the producers their doorbell while we are awake. A producer that saw the announcement before rings in vain.
  void Withdraw() {
    if (!announced_) return;
    announced_ = false;
    SharedWord(*word_).store(0, std::memory_order_relaxed);
  }

 private:
  uint32_t* word_;
  bool announced_ = false;
};

}  // namespace mlcache::ring
