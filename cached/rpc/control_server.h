// The control service of control.proto on SOCKET_DIR/control.sock. Who may open the socket may do everything it
// offers: its mode is 0660. Thread-safe.
#pragma once

#include <memory>
#include <string>

#include "cached/cache/object_cache.h"
#include "cached/fetch/fetcher.h"
#include "cached/session/session_server.h"
#include "common/clock.h"
#include "common/status.h"

namespace mlcache {
class Metrics;
}
namespace mlcache::seal {
class Sealer;
}

namespace mlcache::rpc {

// Borrowed; must outlive the server.
struct ControlDependencies {
  cache::ObjectCache& cache;
  fetch::Fetcher& fetcher;
  session::SessionServer& sessions;
  const Metrics& metrics;
  const Clock& clock;
  seal::Sealer* sealer = nullptr;  // null: nothing is ever sealed
};

struct ControlOptions {
  std::string socket_dir;       // held by the caller: a socket left there by an earlier daemon is replaced
  std::string metrics_address;  // as bound, for Status; empty for none
  Nanos request_timeout = std::chrono::seconds(60);
};

class ControlServer {
 public:
  static Result<std::unique_ptr<ControlServer>> Start(const ControlOptions& options,
                                                      const ControlDependencies& dependencies);

  // Calls off what runs, joins, removes the socket.
  virtual ~ControlServer() = default;
};

}  // namespace mlcache::rpc
