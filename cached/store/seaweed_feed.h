// A filer's metadata log as the seam's change feed: it goes on where it stopped after a break, and says "everything may
// have changed" when it cannot know what it missed. Owned by the thread that runs it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "cached/store/object_store.h"
#include "cached/store/seaweed_filer.h"
#include "common/clock.h"
#include "common/status.h"

namespace mlcache::store {

// The paths below `root` ("" or "/a/b", absolute) that one reply tells of, relative to it.
std::vector<ChangeEvent> ChangesOf(const filer_pb::SubscribeMetadataResponse& reply, const std::string& root);

struct SeaweedFeedOptions {
  Nanos longest_gap = std::chrono::minutes(10);  // without a filer; more is not made up for, all is forgotten instead
  Nanos overlap = std::chrono::seconds(10);      // told again after a break: filers' clocks differ
  Nanos first_backoff = std::chrono::milliseconds(100);
  Nanos longest_backoff = std::chrono::seconds(5);
};

class SeaweedFeed {
 public:
  // Sleeps for the duration, as store::Pause does.
  using PauseFunction = std::function<Status(Nanos, const CallContext&)>;

  // Borrows `filer` and `clock`.
  SeaweedFeed(SeaweedFiler& filer, std::string root, const SeaweedFeedOptions& options, const Clock& clock,
              PauseFunction pause);

  // Until context.stop. kUnimplemented if the filer has no such log.
  Status Run(const ChangeSink& sink, const CallContext& context);

 private:
  // Takes the filer's position at the moment when it was last heard, on its clock where it tells one.
  Status Position(const CallContext& context);
  Status FollowOnce(const ChangeSink& sink, const CallContext& context);

  SeaweedFiler& filer_;
  const std::string root_;
  const SeaweedFeedOptions options_;
  const Clock& clock_;
  const PauseFunction pause_;
  const int32_t client_id_;
  int32_t epoch_ = 0;
  int64_t since_ns_ = 0;  // of the last change told
  Nanos heard_at_{};      // when a filer was last heard, at first when Run began; on Clock::Now
  int failures_ = 0;      // since then
};

}  // namespace mlcache::store
