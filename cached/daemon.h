// The parts of mlcached put together, started in the order of their dependencies and stopped in the reverse order.
// Wiring only. Owned by the main thread.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "cached/cache/open_cache.h"
#include "cached/fetch/fetcher.h"
#include "cached/metrics/endpoint.h"
#include "cached/session/session_server.h"
#include "common/clock.h"
#include "common/status.h"

namespace mlcache {

struct DaemonOptions {
  std::string socket_dir;  // absolute
  cache::CacheOptions cache;
  fetch::FetchOptions fetch;
  session::SessionServerOptions session;
  std::optional<ListenAddress> metrics_address;  // none: no endpoint
};

class Daemon {
 public:
  // Ready to serve on return. An error names the part that could not start, why, and how to mend it; what had been
  // started is stopped again. kAlreadyExists: another daemon has the socket directory or a tier.
  static Result<std::unique_ptr<Daemon>> Start(const DaemonOptions& options, const Clock& clock);

  // Refuses new work, ends sessions and fetches, makes the cache durable, removes the sockets.
  virtual ~Daemon() = default;

  // One line for systemctl status: mounts, tiers and their use.
  virtual std::string Summary() const = 0;
};

// What can be known to be wrong without starting: the socket directory, each tier's directory, its room and rights.
// Makes no lasting change. kFailedPrecondition, kPermissionDenied, … name the first problem and its fix.
Status CheckEnvironment(const DaemonOptions& options);

}  // namespace mlcache
