// Waits for what another thread or process brings about.
#pragma once

#include <chrono>
#include <thread>

namespace mlcache::testing {

// Polls the condition; false when it has not come true within 20 s.
template <typename Condition>
bool Eventually(Condition condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::yield();
  }
  return true;
}

}  // namespace mlcache::testing
