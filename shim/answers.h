// How what the daemon said becomes the reply to a kernel request. Stateless but for the control files.
#pragma once

#include <cstddef>
#include <span>

#include "common/ring/wire.h"
#include "shim/control_files.h"
#include "shim/fuse_api.h"
#include "shim/open_table.h"
#include "shim/request.h"
#include "shim/serving.h"

namespace mlcache::shim {

// What an answer needs to know of the mount beside the daemon's words. Borrowed.
struct AnswerContext {
  ControlFiles& control_files;
  const OpenTable& opens;
  Serving& serving;
};

// Answers `request.kernel`, whatever the completion holds; `bytes` are those of its slot and are not needed afterwards.
// Not for an open that was granted: that is ReplyOpened's.
void Answer(const Request& request, const ring::Completion& completion, std::span<const std::byte> bytes,
            const AnswerContext& context);

// Answers an OPEN: read through us when `backing_id` is 0, by the kernel itself otherwise. False when the kernel has
// given up on it, so that no RELEASE will come.
bool ReplyOpened(fuse_req_t kernel, uint64_t unique, int device, uint64_t file_handle, int32_t backing_id);

// `.mlcache` itself has `.`, `..` and stats, and needs no daemon.
void AnswerControlDirectory(fuse_req_t kernel, uint64_t position, uint64_t room, bool plus);

// From the daemon's record; timeouts in seconds as libfuse wants them.
fuse_entry_param EntryOf(const ring::NodeAttributes& attributes);

}  // namespace mlcache::shim
