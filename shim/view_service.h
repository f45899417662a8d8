// What the keeper does about sealed views, for its server who passes the daemon's messages on: has a view made, shows
// it, withdraws it, and notices when a user has unmounted it. What came of it is left in SharedState, from where
// whatever server lives tells the daemon. Used by the keeper's one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/status.h"
#include "common/unique_fd.h"
#include "proto/keeper.pb.h"
#include "shim/shared_state.h"
#include "shim/view.h"

namespace mlcache::shim {

class ViewService {
 public:
  // `options` tell of the mount; `device` is its "major:minor". `allowed`: "" or why this mount is never sealed.
  ViewService(ViewOptions options, std::string device, std::string allowed, SharedState& state);

  // Begins; the end is to be read in SharedState. Descriptors: the image, then one a layer.
  Status Show(const keeper::ShowView& wanted, std::vector<UniqueFd> descriptors);

  // The FUSE mount is visible when this returns without an error. Without a view there is nothing to do.
  Status Withdraw();

  // To poll for reading, then to call Progress; -1 while nothing is being made.
  int fd() const { return build_ == nullptr ? -1 : build_->fd(); }
  void Progress();

  // The table of mounts has changed: a view that was unmounted takes the FUSE mount along.
  void LookAtMounts();

  // The end of the mount: nothing of it stays at the mountpoint.
  void Unmount();

  bool shown() const { return view_ != nullptr; }

 private:
  void Tell(uint64_t shown, uint64_t failed, const std::string& reason);
  void Failed(const Error& error);

  const ViewOptions options_;
  const std::string device_;
  const std::string allowed_;
  SharedState& state_;
  // Of the view that is made or shown: open, it tells the daemon that the view is in use (cached/seal/view_files.h).
  // The kernel has it open by itself only where it mounts the image, not where a tmpfs was made of it.
  UniqueFd image_;
  uint64_t building_ = 0;
  std::unique_ptr<ViewBuild> build_;
  std::unique_ptr<SealedView> view_;
};

}  // namespace mlcache::shim
