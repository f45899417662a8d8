// What one mount has been lent: descriptors of complete object files, which its keeper registers with the kernel so
// that reads of them come to nobody. The mount sends a socket for the descriptors and read-only mounts of the tiers'
// objects directories to open them through; both are checked, since they come from an untrusted peer. Thread-safe.
#pragma once

#include <prometheus/counter.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "cached/cache/eviction_policy.h"
#include "cached/cache/object_cache.h"
#include "cached/metrics/metrics.h"
#include "common/status.h"
#include "common/unique_fd.h"

namespace mlcache::session {

class Lender {
 public:
  // At most so many descriptors are on their way: more could exhaust what the kernel lets one user have in flight.
  static constexpr uint64_t kMostUnderWay = 32;
  // As many files as a shim may keep registered, and some more.
  static constexpr size_t kMostRemembered = 65'536;

  // Borrows both.
  Lender(cache::ObjectCache& cache, Metrics& metrics);

  // The descriptors of a Lending message: the socket, then one directory a tier. kPermissionDenied for what is not a
  // read-only mount of a tier's own directory.
  Status Begin(std::vector<UniqueFd> descriptors);

  // True after Begin.
  bool ready() const { return ready_.load(std::memory_order_acquire); }

  // Sends a descriptor of the file; the number under which the shim finds it. Waits for no peer: kUnavailable while too
  // many are under way, kDeadlineExceeded while the socket has no room. Other errors as CachedObject::Lend.
  Result<uint64_t> Lend(uint64_t node, cache::CachedObject& object, const cache::AccessHints& hints, cache::Wait wait);

  // So many bytes of a file are fetched before it is lent.
  void CountMiss(uint64_t bytes) { miss_bytes_.Increment(static_cast<double>(bytes)); }

  // The shim has taken `count` more descriptors.
  void Taken(uint64_t count);

  // The files of these nodes were opened again without the daemon: accesses, and hits of their whole size.
  void Accessed(std::span<const uint64_t> nodes);

  // The node that the object was lent for, once.
  std::optional<uint64_t> Leave(const cache::ObjectId& id);

 private:
  struct Lent {
    cache::ObjectId id{};
    uint64_t bytes = 0;
    bool in_memory = false;
    cache::AccessHints hints;
    std::list<uint64_t>::iterator used;
  };

  void Remember(uint64_t node, const cache::CachedObject& object, const cache::AccessHints& hints);
  void CountHit(bool in_memory, uint64_t bytes);

  cache::ObjectCache& cache_;
  prometheus::Counter& hits_;
  prometheus::Counter& miss_bytes_;
  const std::array<prometheus::Counter*, 2> hit_bytes_;  // disk, memory
  std::atomic<bool> ready_ = false;
  UniqueFd socket_;                  // constant once ready_
  cache::LendingRoots roots_;        // constant once ready_
  std::atomic<uint64_t> sent_ = 0;   // written with send_mutex_ held
  std::atomic<uint64_t> taken_ = 0;  // likewise; never above sent_

  std::mutex send_mutex_;  // numbers arrive in their order

  std::mutex mutex_;  // a leaf, taken while the cache tells of what leaves it
  // All guarded by mutex_.
  std::unordered_map<uint64_t, Lent> lent_;
  std::unordered_map<cache::ObjectId, uint64_t, cache::ObjectIdHash> nodes_;
  std::list<uint64_t> used_;  // nodes of lent_; the front was used last
};

}  // namespace mlcache::session
