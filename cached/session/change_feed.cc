#include "cached/session/change_feed.h"

#include <glog/logging.h>
#include <pthread.h>

#include <algorithm>
#include <utility>

namespace mlcache::session {

void ChangeFeeds::Follow(const std::shared_ptr<StoreVolume>& volume) {
  std::list<Feed> ended;  // of volumes that are no more; joined after the lock
  const std::lock_guard lock(mutex_);
  if (stopped_) return;
  bool followed = false;
  for (auto it = feeds_.begin(); it != feeds_.end();) {
    const auto next = std::next(it);
    const std::shared_ptr<StoreVolume> alive = it->volume.lock();
    followed = followed || alive == volume;
    if (alive == nullptr) {
      it->thread.request_stop();
      ended.splice(ended.end(), feeds_, it);
    }
    it = next;
  }
  if (followed) return;
  Feed& feed = feeds_.emplace_back(Feed{.volume = volume, .thread = {}});
  // The thread holds the store, not the volume: a volume that nobody uses must be able to go.
  feed.thread =
      std::jthread([this, weak = feed.volume, store = volume->shared_store(),
                    shown = volume->url().Canonical()](const std::stop_token& stop) { Run(stop, weak, store, shown); });
  pthread_setname_np(feed.thread.native_handle(), "change-feed");
}

void ChangeFeeds::Stop() {
  std::list<Feed> all;
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    all.swap(feeds_);
  }
  for (Feed& feed : all) feed.thread.request_stop();
}

void ChangeFeeds::Run(const std::stop_token& stop, const std::weak_ptr<StoreVolume>& weak,
                      const std::shared_ptr<store::ObjectStore>& store, const std::string& shown) {
  const store::CallContext context{.priority = store::Priority::kWarmup, .stop = stop};
  const store::ChangeSink sink = [&](const store::ChangeEvent& event) {
    if (const std::shared_ptr<StoreVolume> volume = weak.lock()) changed_(*volume, event.path);
  };
  const Status status = store->Watch("", sink, context);
  const bool expected = status || stop.stop_requested() || status.error().code() == Code::kUnimplemented;
  LOG_IF(WARNING, !expected) << shown << ": its change feed ended, changes are seen after attr_ttl: " << status.error();
}

}  // namespace mlcache::session
