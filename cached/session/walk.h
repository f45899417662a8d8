// Visits every regular file of a volume below a path, depth first, without following symbolic links, in constant
// stack space. The directories that come next are listed ahead of time, several at once.
#pragma once

#include <stop_token>
#include <string>

#include "cached/session/volume.h"
#include "common/clock.h"
#include "common/status.h"

namespace mlcache::session {

class TreeVisitor {
 public:
  virtual ~TreeVisitor() = default;

  // False ends the walk.
  virtual bool VisitFile(const std::string& path, const store::ObjectInfo& info) = 0;
  virtual void VisitDirectory(const std::string& path) = 0;

  // `path` (a directory, or the start itself) could not be looked at; the walk goes on with the others.
  virtual void VisitFailure(const std::string& path, const Error& error) = 0;
};

struct WalkOptions {
  Nanos max_age{};          // of the metadata; 0: as the store has it now
  Nanos request_timeout{};  // of each listing
  store::Priority priority = store::Priority::kWarmup;
  std::stop_token stop = std::stop_token();
  size_t listings_at_once = 8;
};

// False when the walk was stopped before its end. The visitor is called on the caller's thread alone.
bool Walk(Volume& volume, const std::string& start, const WalkOptions& options, const Clock& clock,
          TreeVisitor& visitor);

}  // namespace mlcache::session
