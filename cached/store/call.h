// What every store does with a CallContext. Thread-safe functions.
#pragma once

#include <string_view>

#include "cached/store/object_store.h"
#include "common/clock.h"
#include "common/status.h"

namespace mlcache::store {

// kCancelled once context.stop is requested, kDeadlineExceeded once the deadline has passed; `what` opens the message.
Status CheckCall(const CallContext& context, const Clock& clock, std::string_view what);

// Sleeps, on the real clock. Returns early with kCancelled on a stop request, and at once with kDeadlineExceeded where
// the deadline falls into the pause.
Status Pause(Nanos duration, const CallContext& context);

// kInvalidArgument unless `path` is as ObjectStore wants it: relative, without empty, "." or ".." components or NUL.
Status CheckPath(std::string_view path);

}  // namespace mlcache::store
