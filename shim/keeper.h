// The process that outlives every server of a mount. It mounts, holds /dev/fuse and the privileges, starts a server,
// replaces one that dies or hangs, and ends when the mount does. It never reads from /dev/fuse. One thread.
#pragma once

#include <poll.h>
#include <sys/types.h>

#include <array>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/status.h"
#include "common/unique_fd.h"
#include "shim/command_line.h"
#include "shim/fuse_api.h"
#include "shim/keeper_service.h"
#include "shim/server.h"
#include "shim/shared_state.h"
#include "shim/view_service.h"

namespace mlcache::shim {

// "ro,default_permissions,…" for libfuse, with the store's URL as the mount's source.
std::string FuseMountOptions(const CommandLine& command);

// Decides whether a server hangs, from looks at its workers' progress at even intervals. Counting looks rather than
// time keeps a suspended host, or a stopped keeper, from being taken for a hang. Pure.
class HangDetector {
 public:
  explicit HangDetector(int most_looks) : most_looks_(most_looks) {}
  void Reset();
  bool Look(const SharedState& state);  // true once some worker made no progress for `most_looks` looks

 private:
  const int most_looks_;
  std::array<uint64_t, kMaxWorkers> seen_{};
  std::array<int, kMaxWorkers> still_{};
};

class Keeper {
 public:
  // `command` and `server` are copied; `mountpoint` is a real path. No thread may exist yet.
  Keeper(const CommandLine& command, std::string mountpoint, ServerOptions server);
  ~Keeper();  // unmounts if still mounted and ends the server

  // Mounts, starts the first server, returns when the mount answers. On failure nothing is left.
  Status Start();

  // Keeps it alive until it is unmounted, by whomever, or until SIGTERM or SIGINT comes, which unmount it.
  void Run();

 private:
  Status Mount();
  Status WatchSignals();
  void Protect();
  void MakeServices();
  void Spawn();
  Result<std::vector<UniqueFd>> MakeLinks();
  void ServeLinks(std::span<const pollfd> waiting);
  void Reap();
  void Judge(int wait_status);
  void KillIfHanging();
  void ReplaceIfStuck();
  bool ConnectionIsGone() const;
  void Wait(int timeout_ms);
  void Unmount();
  void EndServer();

  const CommandLine command_;
  const std::string mountpoint_;
  ServerOptions server_;
  SharedStatePointer state_;
  fuse_session* session_ = nullptr;  // only for mounting and unmounting
  UniqueFd device_;                  // our own duplicate, for the servers
  std::optional<ViewService> views_;
  std::optional<KeeperService> service_;
  std::vector<UniqueFd> links_;  // our ends of the living server's
  std::string bdi_;              // "major:minor"
  UniqueFd signals_;
  UniqueFd mount_table_;
  pid_t child_ = -1;
  bool killed_for_hanging_ = false;
  bool ended_ = false;
  int quick_deaths_ = 0;
  Nanos started_at_{};
  uint64_t progress_at_start_ = 0;  // of all workers together
  Nanos next_start_{};
  Nanos next_look_{};
  HangDetector hang_;
};

}  // namespace mlcache::shim
