// A sealed view in the place of its FUSE mount, and back (docs/sealed.md). At any instant exactly one mount is visible
// at the mountpoint: the other is put beneath it, then the upper one is detached. Descriptors opened before go on
// living. While a view is shown the FUSE mount is held by a private clone, and one `umount` of the user's, seen in the
// table of mounts, ends both. For the keeper's one thread; needs CAP_SYS_ADMIN and Linux 6.5.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "common/status.h"
#include "common/unique_fd.h"
#include "shim/view_mount.h"

namespace mlcache::shim {

// A view being mounted, by a process of its own: the keeper never waits for a disk or for its own FUSE server.
class ViewBuild {
 public:
  // Forks. `device` is "major:minor" of the FUSE mount, of which nothing is held open when this is done.
  static Result<std::unique_ptr<ViewBuild>> Start(const ViewParts& parts, const ViewOptions& options,
                                                  const std::string& device);
  ~ViewBuild();  // ends it

  // Readable when there is something to Take.
  int fd() const { return socket_.get(); }

  // The detached mount, or why there is none; nothing while it is still being made.
  std::optional<Result<UniqueFd>> Take();

 private:
  ViewBuild(pid_t child, UniqueFd socket) : child_(child), socket_(std::move(socket)) {}
  const pid_t child_;
  UniqueFd socket_;
};

// The FUSE mount at `mountpoint`, if that and nothing else is on top there: an O_PATH descriptor of its root. `device`
// is "major:minor" of the mount.
Result<UniqueFd> FuseRoot(const std::string& mountpoint, const std::string& device);

class SealedView {
 public:
  // Shows `mount` (of MountView) in the place of the FUSE mount with the root `fuse`. On an error the FUSE mount is
  // visible as before.
  static Result<std::unique_ptr<SealedView>> Show(uint64_t id, UniqueFd mount, UniqueFd fuse,
                                                  const std::string& mountpoint);
  SealedView(const SealedView&) = delete;
  SealedView& operator=(const SealedView&) = delete;
  ~SealedView() = default;  // lets the FUSE mount go; the view stays where it is

  uint64_t id() const { return id_; }

  // False once somebody has unmounted it. Reads /proc/self/mountinfo.
  bool IsShown() const;

  // The FUSE mount in its place again; the view lives on for those who have files of it open. kFailedPrecondition when
  // something else is mounted over it. Called once that succeeds at most once.
  Status Withdraw();

  // Unmounts it, lazily when it is busy, so that nothing is left at the mountpoint.
  void Unmount();

 private:
  SealedView(uint64_t id, std::string mountpoint, uint64_t mount_id, UniqueFd fuse)
      : id_(id), mountpoint_(std::move(mountpoint)), mount_id_(mount_id), fuse_(std::move(fuse)) {}
  Result<UniqueFd> Root() const;

  const uint64_t id_;
  const std::string mountpoint_;
  const uint64_t mount_id_;  // as in mountinfo
  UniqueFd fuse_;            // a clone of the FUSE mount that is nowhere attached
};

}  // namespace mlcache::shim
