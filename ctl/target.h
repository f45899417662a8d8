// From the paths of a command line to what the daemon understands.
#pragma once

#include <string>
#include <vector>

#include "common/status.h"
#include "proto/control.pb.h"

namespace mlcache::ctl {

// The mount or store that `argument` lies in: a store URL is taken as it is, a path is matched with the mountpoints.
// As long as the spelling allows it, no file system is touched: a mount whose daemon is busy must not hold us up, and
// to look at a file through its mount would count as a use. kNotFound names the path and the way to list the mounts.
Result<control::Target> ResolveTarget(const std::string& argument, const std::vector<std::string>& mountpoints);

}  // namespace mlcache::ctl
