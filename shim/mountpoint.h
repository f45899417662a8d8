// The host's side of a mount: what stands in the way of one, what is mounted where, and how far the kernel reads ahead.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace mlcache::shim {

inline constexpr char kFileSystemType[] = "fuse.mlcache";
// What the source of a sealed view, an overlay, begins with.
inline constexpr std::string_view kSealedSource = "mlcache-sealed:";

// One line of /proc/self/mountinfo (proc(5)).
struct MountedFileSystem {
  std::string device;  // "major:minor"
  std::string mountpoint;
  std::string type;
  std::string source;
};

// Pure; lines that make no sense are left out.
std::vector<MountedFileSystem> ParseMountInfo(std::string_view text);

// What is visible at `mountpoint`, an absolute path without links, in this process's namespace: the top-most mount.
std::optional<MountedFileSystem> FindMount(const std::string& mountpoint);

// The real path of a directory that can be mounted over, or why not and what to do about it.
Result<std::string> CheckMountpoint(const std::string& mountpoint);

// Whether /dev/fuse is there and may be used.
Status CheckFuseDevice();

// Raises the limit that the kernel puts on readahead from `device` ("major:minor"); needs root.
Status RaiseReadahead(const std::string& device, uint64_t kibibytes);

}  // namespace mlcache::shim
