// Listens on SOCKET_DIR/session.sock and serves every mount: handshake, one pump thread a session, requests answered
// from the volumes and the fetcher. Thread-safe.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cached/cache/key_value.h"
#include "cached/cache/object_cache.h"
#include "cached/fetch/fetcher.h"
#include "cached/prefetch/plan_prefetcher.h"
#include "cached/session/attributes.h"
#include "cached/session/volume.h"
#include "cached/store/open_store.h"
#include "common/clock.h"
#include "common/status.h"
#include "common/units.h"
#include "proto/session.pb.h"

namespace mlcache {
class Metrics;
}

namespace mlcache::session {

class StoreVolume;

struct SessionServerOptions {
  std::string socket_dir;
  mode_t socket_mode = 0666;  // who may mount is decided by the policy, by SO_PEERCRED
  size_t max_sessions = 256;
  size_t metadata_workers = 16;
  uint64_t whole_open_bytes = kMiB;                  // files up to here are fetched whole when they are opened
  Nanos request_timeout = std::chrono::seconds(60);  // of one store operation on behalf of a reader
  // Who may mount beside root and the daemon's own user: nobody else for an empty list, everybody without one.
  std::optional<std::vector<uid_t>> allowed_uids;
  std::string credentials_file;  // of named profiles (credential_table.h); empty: there are none
  // Fetched ahead by the plans of all mounts and not read yet; never more than 1/16 of the cache.
  uint64_t plan_ahead_bytes = 256 * kMiB;
  store::StoreOptions store;
  VolumeOptions volume;
  // Opens stores; store::OpenStore when it is empty. For tests.
  std::function<Result<std::shared_ptr<store::ObjectStore>>(const store::StoreUrl&, const store::CallContext&)>
      open_store;
};

struct MountReport {
  uint64_t mount_id = 0;  // the same over all its sessions
  std::string mountpoint;
  std::string store_url;  // canonical
  pid_t pid = 0;
  uid_t uid = 0;
  std::string job;
  bool read_only = true;
  bool immutable = false;
  Nanos connected_at{};  // wall time
  uint64_t requests = 0;
  std::string open_mode;       // as asked for
  std::string serving_mode;    // as the shim found it: "passthrough", "noopen", "cached"; "" until it told
  std::string serving_reason;  // why nothing faster
};

// A mount as the sealer sees it (cached/seal/sealer.h).
struct SealSubject {
  MountReport report;
  std::shared_ptr<StoreVolume> volume;
  View view;
  std::string seal;  // "auto", "on", "off"
  bool allow_other = false;
  std::optional<ViewState> view_state;  // nothing until the shim has told
};

class SessionServer {
 public:
  virtual ~SessionServer() = default;  // ends every session, answers nothing more, joins

  virtual std::vector<MountReport> Mounts() const = 0;

  // The volume of a live mount, or of a store URL (opened if it is not yet).
  virtual Result<std::shared_ptr<Volume>> VolumeOfMount(const std::string& mountpoint) = 0;
  virtual Result<std::shared_ptr<Volume>> VolumeOfUrl(const std::string& url) = 0;

  // The plans of a live mount.
  virtual Result<std::shared_ptr<prefetch::PlanPrefetcher>> PlanOfMount(const std::string& mountpoint) = 0;

  // Drops what the kernels of all mounts of the volume hold of `path` and below.
  virtual void NotifyInvalidated(const Volume& volume, const std::string& path) = 0;

  virtual std::vector<SealSubject> SealSubjects() const = 0;

  // To the shim of the mount; the descriptors stay the caller's. kUnavailable without a session.
  virtual Status Send(uint64_t mount_id, const FromDaemon& message, const std::vector<int>& descriptors) = 0;
};

// All references are borrowed and must outlive the server. `metadata` and `nodes` are separate maps.
struct SessionDependencies {
  cache::ObjectCache& cache;
  cache::KeyValue& metadata;
  cache::KeyValue& nodes;
  fetch::Fetcher& fetcher;
  Metrics& metrics;
  const Clock& clock;
};

Result<std::unique_ptr<SessionServer>> StartSessionServer(const SessionServerOptions& options,
                                                          const SessionDependencies& dependencies);

}  // namespace mlcache::session
