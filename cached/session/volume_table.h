// The volumes of a daemon: one for each store URL, shared by all mounts of it and by the control service. Thread-safe.
#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cached/session/credential_table.h"
#include "cached/session/session_server.h"
#include "cached/session/store_volume.h"

namespace mlcache::session {

class VolumeTable {
 public:
  // Volumes kept although nobody uses them, for their metadata.
  static constexpr size_t kMaxIdle = 16;

  // Borrows both.
  VolumeTable(const SessionServerOptions& options, const SessionDependencies& dependencies);

  // The volume of `url` as seen by a credential profile of the daemon (default: by the daemon's own keys), opened when
  // it is not yet. The root is a directory that answered now, or, where the store
  // cannot be reached, one that did when the volume was opened.
  Result<std::shared_ptr<StoreVolume>> Get(const std::string& url, const store::CallContext& context,
                                           const CredentialProfile& credential = {});

  std::vector<std::shared_ptr<StoreVolume>> All() const;

 private:
  std::shared_ptr<StoreVolume> Find(const std::string& key);
  std::shared_ptr<StoreVolume> Keep(const std::string& key, std::shared_ptr<StoreVolume> volume);

  const SessionServerOptions& options_;
  const SessionDependencies& dependencies_;
  mutable std::mutex mutex_;
  struct Entry {
    std::string key;  // canonical URL and credential profile
    std::shared_ptr<StoreVolume> volume;
  };
  std::list<Entry> entries_;  // guarded by mutex_; the front was asked for last
};

}  // namespace mlcache::session
