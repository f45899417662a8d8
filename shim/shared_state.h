// The memory that the keeper and every server it ever starts have in common (a memfd, mapped shared): what a successor
// must know of its predecessor. Of files it holds only those that are open and those that the kernel reads by itself
// (open_table.h). Atomics only; each field says who writes it.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

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

// A file that is registered with the kernel to be read without us.
struct BackingRecord {
  std::atomic<uint64_t> node;  // server, before it asks for the registration; keeper, to 0, after its end
  std::atomic<int32_t> id;     // keeper: the kernel's, 0 while there is none
};

// One open of a file, noted before the kernel is answered, until its RELEASE.
struct OpenRecord {
  std::atomic<uint64_t> node;     // 0: free
  std::atomic<uint64_t> unique;   // of the OPEN, without kResendBit
  std::atomic<uint64_t> handle;   // the daemon's; 0 when it gave none
  std::atomic<uint32_t> backing;  // 1 + the BackingRecord, 0: read through us
  std::atomic<uint32_t> turn;     // counts the record's uses
};

inline constexpr uint32_t kMaxBackings = 32'768;
inline constexpr uint32_t kMaxOpens = 262'144;
inline constexpr uint32_t kMaxMoved = 4096;
inline constexpr uint32_t kMaxStaleAnswers = 256;

struct SharedState {
  std::atomic<uint32_t> init_length;    // first server: the kernel's INIT request, 0 while there is none
  std::atomic<uint32_t> init_answered;  // 1 once the kernel took the reply
  std::atomic<uint32_t> ready;          // 1 once a server has both the kernel and the daemon
  std::atomic<uint32_t> workers;        // how many beats are in use
  std::array<std::byte, kMaxInitBytes> init;
  std::array<WorkerBeat, kMaxWorkers> beats;
  std::array<Suspect, 64> suspects;
  std::array<std::atomic<uint64_t>, sizeof(ring::NodeAttributes) / 8> root;  // any server: see RememberRoot
  std::atomic<uint32_t> passthrough;    // first server: 1 when the kernel was told of it in the INIT reply
  std::atomic<uint32_t> no_open;        // server: 1 once an OPEN was answered ENOSYS
  std::atomic<uint32_t> opens_touched;  // server: records of `opens` from here on were never used
  // Keeper: which sealed view is shown, see RememberView. `view_turn` is odd while the rest is being written.
  std::atomic<uint32_t> view_turn;
  std::atomic<uint64_t> view_shown;
  std::atomic<uint64_t> view_failed;
  std::array<std::atomic<uint64_t>, 32> view_reason;
  // Servers, by open_table.h alone; `backings` as said there.
  std::array<std::atomic<uint64_t>, kMaxMoved> moved;
  std::array<std::atomic<uint64_t>, kMaxStaleAnswers> stale_answers;
  std::array<BackingRecord, kMaxBackings> backings;
  std::array<OpenRecord, kMaxOpens> opens;
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

// Which sealed view stands in the place of the mount, and the last one that could not be shown or withdrawn.
struct ShownView {
  uint64_t shown = 0;
  uint64_t failed = 0;
  std::string reason;  // at most 255 bytes of it are kept, those beyond ASCII as '?'
};
void RememberView(SharedState& state, const ShownView& view);  // the keeper

// Nothing while it is being written. `turn` is another one after each change.
std::optional<ShownView> LastView(const SharedState& state, uint32_t* turn);

// True for a request that killed enough servers: it is answered EIO unread.
bool IsPoison(const SharedState& state, uint64_t unique);

}  // namespace mlcache::shim
