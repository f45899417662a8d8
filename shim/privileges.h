// What the server gives up before it reads its first message, and what the keeper asks of the kernel for itself.
#pragma once

#include <sys/types.h>

#include "common/status.h"

namespace mlcache::shim {

// No capability of any set is left, none can come back by exec, and the process dies with `keeper`. One thread only.
Status BecomeServer(pid_t keeper);

// How much the OOM killer likes this process: -1000 to be passed by, if the caller may ask that. Children inherit it.
// Whether this process has CAP_SYS_ADMIN in the first user namespace, as far as it can tell.
bool MayAdminister();

Result<int> OomScore();
Status SetOomScore(int value);

// While it lives, this process acts without its capabilities, as its server will. One thread.
class WithoutCapabilities {
 public:
  WithoutCapabilities();
  ~WithoutCapabilities();
  WithoutCapabilities(const WithoutCapabilities&) = delete;
  WithoutCapabilities& operator=(const WithoutCapabilities&) = delete;

 private:
  void* saved_;  // cap_t
};

}  // namespace mlcache::shim
