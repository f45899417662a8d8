// One submission from when it was taken off the ring until the last thread that works for it lets go.
#pragma once

#include <atomic>
#include <stop_token>

#include "cached/session/session.h"
#include "common/ring/wire.h"

namespace mlcache::session {

struct Session::Request {
  Request(Session& owner, const ring::Submission& taken, uint32_t queue_pair, Nanos now)
      : session(owner), submission(taken), pair(queue_pair), started(now) {}
  Request(const Request&) = delete;
  Request& operator=(const Request&) = delete;
  ~Request() { session.Finished(); }

  Session& session;
  const ring::Submission submission;
  const uint32_t pair;
  const Nanos started;  // on SystemClock
  std::stop_source stop;
  std::atomic<bool> answered = false;  // whoever sets it answers; later answers are dropped
};

}  // namespace mlcache::session
