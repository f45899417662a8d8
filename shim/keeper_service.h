// What the keeper does for its server (proto/keeper.proto), with its privileges: registers backing files, clones a
// tier's directory read-only. What a server sends is checked: it may ask only for what can hurt its own mount. Used by
// the keeper's one thread.
#pragma once

#include <vector>

#include "common/status.h"
#include "common/unique_fd.h"
#include "proto/keeper.pb.h"
#include "shim/shared_state.h"
#include "shim/view_service.h"

namespace mlcache::shim {

// A detached, read-only, nosuid, nodev clone of the mount below `path`, showing that directory: its descriptor.
// kFailedPrecondition when `path` is not the directory with this device and inode number, kPermissionDenied without
// CAP_SYS_ADMIN.
Result<UniqueFd> CloneReadOnly(const keeper::CloneReadOnly& wanted);

class KeeperService {
 public:
  // Borrows all; `device` is /dev/fuse of the mount.
  KeeperService(int device, SharedState& state, ViewService& views) : device_(device), state_(state), views_(views) {}

  // Answers one request that waits on `socket`; false once the server's end is closed.
  bool Serve(int socket);

 private:
  keeper::Reply Answer(const keeper::Request& request, std::vector<UniqueFd> descriptors, UniqueFd* out);
  Result<int> OpenBacking(const keeper::BackingOpen& wanted, const std::vector<UniqueFd>& descriptors);
  void CloseBacking(const keeper::BackingClose& wanted);

  const int device_;
  SharedState& state_;
  ViewService& views_;
};

}  // namespace mlcache::shim
