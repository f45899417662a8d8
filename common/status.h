// Errors as values. `Result<T>` is either a T or an `Error`: a canonical code (the names and numbers of gRPC) and a
// message that names the thing and the cause ("open /data/tier0: Permission denied"). Thread-compatible values.
#pragma once

#include <expected>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>

namespace mlcache {

// The codes of google.rpc.Code that this project uses. errno is made from them in one file, shim/errno.cc.
enum class Code : int {
  kCancelled = 1,
  kUnknown = 2,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kNotFound = 5,
  kAlreadyExists = 6,
  kPermissionDenied = 7,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,  // the object is no longer of the version asked for, or the state forbids the call
  kAborted = 10,
  kOutOfRange = 11,
  kUnimplemented = 12,
  kInternal = 13,
  kUnavailable = 14,  // a retry may succeed
  kDataLoss = 15,     // bytes that do not match their checksum or their promised length
  kUnauthenticated = 16,
};

// "NOT_FOUND", "UNAVAILABLE", …
std::string_view CodeName(Code code);

class [[nodiscard]] Error {
 public:
  Error(Code code, std::string message) : code_(code), message_(std::move(message)) {}

  Code code() const { return code_; }
  const std::string& message() const { return message_; }

  // The same error with `context` and ": " before its message.
  Error WithContext(std::string_view context) const;

 private:
  Code code_;
  std::string message_;
};

// "NOT_FOUND: path: cause".
std::string ToString(const Error& error);
std::ostream& operator<<(std::ostream& out, const Error& error);

template <typename T>
using Result = std::expected<T, Error>;
using Status = std::expected<void, Error>;

// The failure side of any Result: `return Fail(Code::kNotFound, "…");`
inline std::unexpected<Error> Fail(Code code, std::string message) {
  return std::unexpected<Error>(Error(code, std::move(message)));
}

// Maps an errno to its canonical code; the message is "what: strerror(error_number)".
Error ErrnoError(int error_number, std::string_view what);
inline std::unexpected<Error> FailErrno(int error_number, std::string_view what) {
  return std::unexpected<Error>(ErrnoError(error_number, what));
}

#define MLCACHE_CONCAT_INNER(a, b) a##b
#define MLCACHE_CONCAT(a, b) MLCACHE_CONCAT_INNER(a, b)

// MLCACHE_ASSIGN_OR_RETURN(auto file, Open(path)): declares `file`, or returns the error.
#define MLCACHE_ASSIGN_OR_RETURN(declaration, expression) \
  MLCACHE_ASSIGN_OR_RETURN_IMPL(MLCACHE_CONCAT(result_, __LINE__), declaration, expression)
#define MLCACHE_ASSIGN_OR_RETURN_IMPL(result, declaration, expression)        \
  auto result = (expression);                                                 \
  if (!result.has_value()) return std::unexpected(std::move(result.error())); \
  declaration = std::move(result).value()

#define MLCACHE_RETURN_IF_ERROR(expression)                                                                    \
  do {                                                                                                         \
    if (auto status_ = (expression); !status_.has_value()) return std::unexpected(std::move(status_.error())); \
  } while (false)

}  // namespace mlcache
