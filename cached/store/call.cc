#include "cached/store/call.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <string>

namespace mlcache::store {

Status CheckCall(const CallContext& context, const Clock& clock, std::string_view what) {
  if (context.stop.stop_requested()) return Fail(Code::kCancelled, std::string(what) + ": called off");
  if (context.deadline != Nanos::max() && clock.Now() >= context.deadline) {
    return Fail(Code::kDeadlineExceeded, std::string(what) + ": the store did not answer before the deadline");
  }
  return {};
}

Status Pause(Nanos duration, const CallContext& context) {
  if (context.deadline != Nanos::max() && SystemClock().Now() + duration >= context.deadline) {
    return Fail(Code::kDeadlineExceeded, "the deadline falls into a pause before the next request");
  }
  std::mutex mutex;
  std::condition_variable_any never;
  std::unique_lock lock(mutex);
  never.wait_for(lock, context.stop, duration, [] { return false; });
  if (context.stop.stop_requested()) return Fail(Code::kCancelled, "called off");
  return {};
}

Status CheckPath(std::string_view path) {
  for (size_t begin = 0; !path.empty() && begin <= path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const std::string_view component = path.substr(begin, end - begin);
    if (component.empty() || component == "." || component == ".." || component.find('\0') != std::string_view::npos) {
      return Fail(Code::kInvalidArgument, std::string(path) + ": not a path below a store's root");
    }
    begin = end + 1;
  }
  return {};
}

}  // namespace mlcache::store
