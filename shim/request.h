// One kernel request on its way: what was asked of the daemon for it, and what is needed to answer it.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "common/clock.h"
#include "common/ring/wire.h"
#include "shim/fuse_api.h"

namespace mlcache::shim {

// What the text of .mlcache/stats is wanted for.
enum class StatsUse : uint8_t { kLookup, kAttributes, kRead };

struct Request {
  fuse_req_t kernel = nullptr;
  uint64_t unique = 0;  // the kernel's number of it
  uint64_t node = 0;    // as the kernel named it; in the submission it is OpenTable::BaseOf that
  ring::Submission submission;
  bool plus = false;                   // READDIRPLUS
  StatsUse stats = StatsUse::kLookup;  // of kStats
  uint64_t room = 0;                   // most bytes the kernel takes
  uint64_t position = 0;               // of READDIR, and of a read of .mlcache/stats
  // Below: kept by the worker.
  Nanos deadline = Nanos::max();
  Nanos interrupted_at = Nanos::max();
  bool submitted = false;
  bool answered = false;  // by the daemon; what is left to do is the keeper's, or another request's
};

// Where the operations of the file system send what only the daemon can answer: the worker whose thread runs them.
class RequestSink {
 public:
  virtual ~RequestSink() = default;

  // Takes over the duty to answer `request.kernel`. The submission's id is chosen by the sink.
  virtual void Start(const Request& request) = 0;

  // A submission without completion; may be lost.
  virtual void Hint(const ring::Submission& submission) = 0;

  // Ends the kernel's registrations of these records (OpenTable).
  virtual void CloseBackings(const std::vector<uint32_t>& records) = 0;
};

// Called on a worker's thread for each request before anything is done for it. Only tests have one.
using FaultHook = std::function<void(ring::Op op, std::string_view name)>;

}  // namespace mlcache::shim
