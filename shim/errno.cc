#include "shim/errno.h"

#include <cerrno>

namespace mlcache::shim {
namespace {

// A nodeid that no longer serves: ESTALE makes the kernel look the path up again and so find the present version, or
// that there is none.
bool FindsAgain(ring::Op op) {
  switch (op) {
    case ring::Op::kLookup:
    case ring::Op::kGetAttr:
    case ring::Op::kReadLink:
    case ring::Op::kOpen:
    case ring::Op::kOpenDir:
    case ring::Op::kReadDir:
      return true;
    default:
      return false;
  }
}

int NotFound(ring::Op op) {
  switch (op) {
    case ring::Op::kGetXattr:
    case ring::Op::kListXattr:
      return ENODATA;
    case ring::Op::kGetAttr:
    case ring::Op::kReadLink:
    case ring::Op::kOpen:
    case ring::Op::kOpenDir:
      return ESTALE;
    case ring::Op::kRead:
    case ring::Op::kStats:
      return EIO;  // read(2) knows no ENOENT
    default:
      return ENOENT;
  }
}

}  // namespace

int ErrnoFor(ring::Op op, Code code) {
  switch (code) {
    case Code::kCancelled:
      return EINTR;
    case Code::kInvalidArgument:
    case Code::kOutOfRange:
      return EINVAL;
    case Code::kDeadlineExceeded:
      return ETIMEDOUT;
    case Code::kNotFound:
      return NotFound(op);
    case Code::kAlreadyExists:
      return EEXIST;
    case Code::kPermissionDenied:
    case Code::kUnauthenticated:
      return EACCES;
    case Code::kResourceExhausted:
      return ENOMEM;
    case Code::kFailedPrecondition:
      return FindsAgain(op) ? ESTALE : EIO;
    case Code::kUnimplemented:
      return EOPNOTSUPP;
    case Code::kUnknown:
    case Code::kAborted:
    case Code::kInternal:
    case Code::kUnavailable:
    case Code::kDataLoss:
      return EIO;
  }
  return EIO;
}

std::optional<Code> CodeOf(int32_t wire_code) {
  if (wire_code == 0) return std::nullopt;
  if (wire_code < static_cast<int32_t>(Code::kCancelled) || wire_code > static_cast<int32_t>(Code::kUnauthenticated)) {
    return Code::kUnknown;
  }
  return static_cast<Code>(wire_code);
}

}  // namespace mlcache::shim
