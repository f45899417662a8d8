#include "cached/fetch/flight.h"

namespace mlcache::fetch {

ReadOperation::ReadOperation(const Source& source, uint64_t offset, std::span<std::byte> out,
                             const store::CallContext& context, Nanos began, ReadDone done)
    : source_(source),
      job_(context.job),
      offset_(offset),
      out_(out),
      stop_(context.stop),
      deadline_(context.deadline),
      began_(began),
      done_(std::move(done)) {}

bool ReadOperation::EndPart(const Status& status) {
  if (!status.has_value()) {
    const std::scoped_lock lock(mutex_);
    if (!error_.has_value()) error_ = status.error();
  }
  return open_parts_.fetch_sub(1, std::memory_order_acq_rel) == 1;
}

Status ReadOperation::result() {
  const std::scoped_lock lock(mutex_);
  if (error_.has_value()) return std::unexpected(*error_);
  return {};
}

}  // namespace mlcache::fetch
