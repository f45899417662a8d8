// The one place where errors become errno numbers for the kernel. Pure.
#pragma once

#include <optional>

#include "common/ring/wire.h"
#include "common/status.h"

namespace mlcache::shim {

// The positive errno that answers a kernel request of kind `op` which failed with `code`. Never ENOSYS: the kernel
// takes that, once, as "this file system never has that operation".
int ErrnoFor(ring::Op op, Code code);

// Of a completion's code, which comes from another process: nullopt for 0, kUnknown for a number that is no Code.
std::optional<Code> CodeOf(int32_t wire_code);

}  // namespace mlcache::shim
