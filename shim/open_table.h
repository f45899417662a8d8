// Which files of the mount are open in which mode, and which are registered with the kernel to be read without us
// (passthrough). The kernel allows an inode one mode and one backing id at a time (fs/fuse/iomode.c) and answers EIO to
// the application otherwise, so every OPEN is decided here.
//
// Each version of a file has two nodeids, *base* (even, the daemon's) and *alias* (base | 1): when an OPEN asks for a
// mode that its node cannot take on now, it is answered ESTALE, the kernel looks the name up again, and gets the other
// one. Both have the same st_ino and the same bytes. A file that was opened while it was being fetched turns to
// passthrough that way as soon as it is complete.
//
// What a successor must know lives in SharedState, written before the kernel is answered; the rest is rebuilt from it.
// OPENs that the kernel sends again after a server's death are recognised by their number. Thread-safe.
#pragma once

#include <cstdint>
#include <list>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "common/ring/wire.h"
#include "shim/control_files.h"
#include "shim/shared_state.h"

namespace mlcache::shim {

class OpenTable {
 public:
  // At most `most_idle` files stay registered while nobody has them open: each is about 1.6 KB of kernel memory.
  explicit OpenTable(SharedState& state, size_t most_idle = 16'384);

  static bool HasAlias(uint64_t node) { return node > ring::kRootNode && !IsControlNode(node); }
  static uint64_t BaseOf(uint64_t node) { return HasAlias(node) ? node & ~uint64_t{1} : node; }

  // The nodeid that a LOOKUP of the version `base` is to answer.
  uint64_t NodeFor(uint64_t base) const;

  // A worker's request that waits for another one's registration of the same file.
  struct Waiter {
    uint32_t worker = 0;
    uint64_t request = 0;
  };
  struct Open {
    uint64_t node = 0;
    uint64_t unique = 0;
    uint32_t pid = 0;
    uint64_t handle = 0;  // the daemon's
    Waiter waiter;
  };
  enum class Verdict : uint8_t {
    kOpened,    // answer with `file_handle` and, when it is not 0, `backing_id`
    kStale,     // answer ESTALE
    kWait,      // the waiter will be told
    kRegister,  // have the descriptor registered under `record`, then call Registered
    kFull,      // answer ENFILE
  };
  struct Decision {
    Verdict verdict = Verdict::kFull;
    uint64_t file_handle = 0;
    int32_t backing_id = 0;
    uint32_t record = 0;
  };

  // kOpened when the file is registered already, or when this very OPEN was decided before its server died; nothing
  // when the daemon has to be asked.
  std::optional<Decision> Reopen(const Open& open);

  // The daemon has not lent the file.
  Decision OpenCached(const Open& open);

  // The daemon has lent it.
  Decision OpenLent(const Open& open);

  // The keeper's answer to a kRegister; the requests to be decided again (Reopen, then OpenCached), the asker's not
  // among them.
  std::vector<Waiter> Registered(uint64_t node, uint32_t record, bool done);

  // Records whose registration is to be ended (BackingClose).
  using Closing = std::vector<uint32_t>;

  struct Released {
    uint64_t handle = 0;  // the daemon's
    Closing closing;
  };
  // A handle that is not known (an earlier RELEASE was answered by a server that died) gives nothing.
  Released Release(uint64_t file_handle);

  // The daemon's handle within one of ours; 0 for one that is not known.
  uint64_t HandleOf(uint64_t file_handle) const;

  // The daemon wants the space of this version: ends its registrations now, or with the last open.
  Closing Revoke(uint64_t base);

  size_t passthrough_opens() const;
  size_t registered() const;

 private:
  struct Node {
    uint32_t cached_opens = 0;
    uint32_t passthrough_opens = 0;
    std::optional<uint32_t> record;  // claimed or registered
    bool registering = false;
    bool revoked = false;
    std::vector<Waiter> waiters;
    std::optional<std::list<uint64_t>::iterator> idle;  // in idle_ when registered and not open
  };

  // mutex_ held:
  Decision Enter(uint64_t node, Node& state, const Open& open, bool passthrough);
  std::optional<Decision> Repeated(const Open& open) const;
  std::optional<uint32_t> ClaimRecord(uint64_t node);
  bool MayAnswerStale(const Open& open);
  void Drop(Node& state, Closing& closing);
  void Settle(uint64_t node, Closing& closing);
  OpenRecord* RecordOf(uint64_t file_handle) const;
  uint64_t HandleFor(uint32_t index) const;

  SharedState& state_;
  const size_t most_idle_;
  mutable std::mutex mutex_;
  // All guarded by mutex_.
  std::unordered_map<uint64_t, Node> nodes_;  // open or registered
  std::list<uint64_t> idle_;                  // the front was used last
  std::vector<uint32_t> free_opens_;
  std::unordered_map<uint64_t, uint32_t> inherited_;  // OPENs by number that a predecessor may not have answered
  uint32_t next_backing_ = 0;
  size_t passthrough_opens_ = 0;
};

}  // namespace mlcache::shim
