// The server's part in sealed views: passes the daemon's messages on to the keeper, and what became of them back.
// Owned by the server's main thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/unique_fd.h"
#include "proto/session.pb.h"
#include "shim/daemon_session.h"
#include "shim/keeper_link.h"
#include "shim/shared_state.h"

namespace mlcache::shim {

class ViewRelay {
 public:
  // Borrows both.
  ViewRelay(KeeperLink& keeper, const SharedState& state) : keeper_(keeper), state_(state) {}

  void Heard(const session::FromDaemon& message, const std::vector<UniqueFd>& descriptors);

  // A new session: it will be told what is shown.
  void Begin() { told_.reset(); }

  // Tells the daemon of a change; in how many milliseconds to look again.
  int Tick(const DaemonSession& session);

 private:
  KeeperLink& keeper_;
  const SharedState& state_;
  std::optional<uint32_t> told_;  // the turn of SharedState that the daemon knows
  int waiting_looks_ = 0;         // more of them soon: the keeper is at work
  uint64_t refused_ = 0;          // a view that the keeper did not even begin, and why
  std::string refusal_;
};

}  // namespace mlcache::shim
