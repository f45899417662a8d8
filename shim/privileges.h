// What the keeper's children give up before they read their first message, and what the keeper asks of the kernel for
// itself.
#pragma once

#include <sys/types.h>

#include <vector>

#include "common/status.h"

namespace mlcache::shim {

// No capability of any set is left, none can come back by exec, and the process dies with `keeper`. One thread only.
Status BecomeServer(pid_t keeper);

// In a fresh child of the keeper: of its descriptors only these and the standard ones stay open.
void CloseAllBut(std::vector<int> kept);

// Whether this process has CAP_SYS_ADMIN in the first user namespace, as far as it can tell.
bool MayAdminister();

// How much the OOM killer likes this process: -1000 to be passed by, if the caller may ask that. Children inherit it.
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
