// The change feeds of the stores in use: a thread for each volume whose store has one, which tells of what changed.
// Thread-safe.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "cached/session/store_volume.h"

namespace mlcache::session {

class ChangeFeeds {
 public:
  // Called on a feed's thread: `path` of that volume, and all below it, may have changed.
  using Changed = std::function<void(StoreVolume& volume, const std::string& path)>;

  explicit ChangeFeeds(Changed changed) : changed_(std::move(changed)) {}
  ChangeFeeds(const ChangeFeeds&) = delete;
  ChangeFeeds& operator=(const ChangeFeeds&) = delete;
  ~ChangeFeeds() { Stop(); }

  // Follows the volume's store for as long as the volume lives; once, however often it is asked. A store without a
  // feed costs a thread for a moment.
  void Follow(const std::shared_ptr<StoreVolume>& volume);

  // Ends all feeds and waits for their threads; Follow does nothing after it.
  void Stop();

 private:
  struct Feed {
    std::weak_ptr<StoreVolume> volume;
    std::jthread thread;
  };

  void Run(const std::stop_token& stop, const std::weak_ptr<StoreVolume>& weak,
           const std::shared_ptr<store::ObjectStore>& store, const std::string& shown);

  const Changed changed_;
  std::mutex mutex_;       // a leaf
  bool stopped_ = false;   // guarded by mutex_
  std::list<Feed> feeds_;  // guarded by mutex_; joined without it
};

}  // namespace mlcache::session
