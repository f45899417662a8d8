// Opens of mounts that can have the kernel read complete files by itself.
#include <utility>

#include "cached/session/request.h"
#include "cached/session/session.h"

namespace mlcache::session {

// Empty files have no file in the cache, and what is not kept never becomes one.
bool Session::IsLendable(const ring::Submission& submission, const fetch::Source& source) const {
  return (submission.flags & ring::kWantLease) != 0 && lender_.ready() && source.ref.size > 0 && source.hints.keep;
}

// An open that takes neither disk nor store; nothing when it does.
std::optional<ring::Completion> Session::LendFromMemory(const ring::Submission& submission,
                                                        const Tree::Opened& opened) {
  const Result<uint64_t> lease =
      lender_.Lend(submission.node, *opened.source.object, opened.source.hints, cache::Wait::kNever);
  if (lease.has_value()) {
    parts_.fetcher.Used(opened.source, {.offset = 0, .length = opened.source.ref.size});
    return ring::Completion{.flags = ring::kLeaseSent, .attributes = opened.attributes, .lease = *lease};
  }
  const bool whole = opened.source.object->Missing(0, opened.source.ref.size).empty();
  if (whole || MayBecomeLendable(opened.source)) return std::nullopt;
  return ring::Completion{.handle = AddFile(submission.node, opened.source), .attributes = opened.attributes};
}

bool Session::MayBecomeLendable(const fetch::Source& source) const {
  return source.ref.size <= parts_.whole_open_bytes;
}

bool Session::Lend(const RequestPtr& request, const Tree::Opened& opened) {
  const Result<uint64_t> lease =
      lender_.Lend(request->submission.node, *opened.source.object, opened.source.hints, cache::Wait::kMayBlock);
  if (!lease.has_value()) return false;
  parts_.fetcher.Used(opened.source, {.offset = 0, .length = opened.source.ref.size});
  // Called off meanwhile: the shim will drop the descriptor, which nobody asks it for.
  if (!Complete(*request, {.flags = ring::kLeaseSent, .attributes = opened.attributes, .lease = *lease})) {
    lender_.Taken(1);
  }
  return true;
}

// A small file is fetched whole, in one request, so that not even its first read comes to us. What goes wrong is the
// first read's to tell.
void Session::FetchAndLend(const RequestPtr& request, Tree::Opened opened) {
  const fetch::Source& source = opened.source;
  uint64_t missing = 0;
  for (const cache::ByteRange& part : source.object->Missing(0, source.ref.size)) missing += part.length;
  lender_.CountMiss(missing);
  const store::CallContext context = ContextOf(*request);
  parts_.fetcher.Ensure(opened.source, {.offset = 0, .length = source.ref.size}, context,
                        [this, request = RequestPtr(request), opened](const Status& fetched) mutable {
                          const RequestPtr last = std::move(request);
                          if (!fetched.has_value() || !Lend(last, opened)) OpenByHandle(last, std::move(opened));
                        });
}

}  // namespace mlcache::session
