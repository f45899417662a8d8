// From what a caller of the control service names to a volume and a path below it. Thread-safe.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cached/session/session_server.h"
#include "cached/session/volume.h"
#include "common/status.h"
#include "proto/control.pb.h"

namespace mlcache::rpc {

struct ResolvedTarget {
  std::shared_ptr<session::Volume> volume;
  std::string path;  // below the volume
  std::string base;  // the mountpoint or URL, as the user names the volume

  // `below` (a path of the volume) as the user names it.
  std::string Display(const std::string& below) const;
};

// kNotFound: no such mount; kInvalidArgument: a path that leaves its mount, or neither mount nor URL is named.
Result<ResolvedTarget> Resolve(const control::Target& target, session::SessionServer& sessions);

struct ResolvedTargets {
  std::vector<ResolvedTarget> targets;  // none lies below another, so that every file is met once
  std::vector<control::Failure> failures;
};

ResolvedTargets ResolveAll(const control::TargetRequest& request, session::SessionServer& sessions);

control::Failure MakeFailure(const std::string& path, const Error& error);

}  // namespace mlcache::rpc
