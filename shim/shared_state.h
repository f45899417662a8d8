// The memory that the keeper and every server it ever starts have in common (a memfd, mapped shared): what a successor
// must know of its predecessor. It holds nothing about files. Atomics only; each field says who writes it.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "common/ring/wire.h"
#include "common/status.h"

namespace mlcache::shim {

inline constexpr size_t kMaxWorkers = 16;
inline constexpr size_t kMaxInitBytes = 512;

// Marks a request that the kernel sends again (linux/fuse.h, FUSE_UNIQUE_RESEND); otherwise it is the same request.
inline constexpr uint64_t kResendBit = uint64_t{1} << 63;

struct alignas(64) WorkerBeat {
  std::atomic<uint64_t> progress;  // worker: one more each turn of its loop
  std::atomic<uint64_t> unique;    // worker: the kernel request it is busy with at this instant, 0 for none
  std::atomic<uint32_t> opcode;
};

// A request that a server was busy with when it died.
struct Suspect {
  std::atomic<uint64_t> unique;  // keeper; without kResendBit
  std::atomic<uint32_t> points;  // keeper
};

struct SharedState {
  std::atomic<uint32_t> init_length;    // first server: the kernel's INIT request, 0 while there is none
  std::atomic<uint32_t> init_answered;  // 1 once the kernel took the reply
  std::atomic<uint32_t> ready;          // 1 once a server has both the kernel and the daemon
  std::atomic<uint32_t> workers;        // how many beats are in use
  std::array<std::byte, kMaxInitBytes> init;
  std::array<WorkerBeat, kMaxWorkers> beats;
  std::array<Suspect, 64> suspects;
  std::array<std::atomic<uint64_t>, sizeof(ring::NodeAttributes) / 8> root;  // any server: see RememberRoot
};

// How much one death says against the request in work. A crash or a hang says much; a SIGKILL from outside (an
// administrator, the OOM killer) nearly nothing.
inline constexpr uint32_t kCrashPoints = 4;
inline constexpr uint32_t kKilledPoints = 1;
inline constexpr uint32_t kPoisonPoints = 8;

// Zeroed, and shared with every process forked from now on.
struct SharedStateDeleter {
  void operator()(SharedState* state) const;
};
using SharedStatePointer = std::unique_ptr<SharedState, SharedStateDeleter>;
Result<SharedStatePointer> CreateSharedState();

// Keeper, after a server's death: charges what its workers were busy with, and clears their beats.
void ChargeDeath(SharedState& state, uint32_t points);

// The root's attributes as the daemon last told them: with these, stat of the mountpoint (which umount(8) begins with)
// is answered while the daemon is away. Thread-safe; a reader beside a writer may see some fields of either.
void RememberRoot(SharedState& state, const ring::NodeAttributes& attributes);
std::optional<ring::NodeAttributes> LastRoot(const SharedState& state);

// True for a request that killed enough servers: it is answered EIO unread.
bool IsPoison(const SharedState& state, uint64_t unique);

}  // namespace mlcache::shim
