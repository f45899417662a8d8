// The process that serves: parses what the kernel and the daemon send, without any privilege. The keeper starts it,
// and starts another when it dies.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "common/unique_fd.h"
#include "proto/session.pb.h"
#include "shim/command_line.h"
#include "shim/request.h"
#include "shim/shared_state.h"

namespace mlcache::shim {

inline constexpr uint32_t kWorkers = 2;
static_assert(kWorkers <= kMaxWorkers);
inline constexpr uint32_t kKeeperLinks = kWorkers + 1;  // one a worker, then the main thread's

struct ServerOptions {
  std::string socket_dir;
  session::Hello hello;
  Nanos io_timeout{};
  bool may_register = false;  // the keeper has the privilege to register backing files, and that is wished
  std::string why_not;        // if it has not
  pid_t keeper = 0;
  uid_t daemon_uid = 0;          // as it was when the mount began
  std::optional<int> oom_score;  // to go back to, when the keeper has protected itself
  FaultHook fault_hook;
};

// Serves until the connection to the kernel ends; the process's exit code: kExitOk then, kExitFailure when it could
// not start. The caller is a fresh child with one thread. `links`: our ends of kKeeperLinks keeper links.
int RunServer(const ServerOptions& options, UniqueFd device, std::vector<UniqueFd> links, SharedState& state);

}  // namespace mlcache::shim
