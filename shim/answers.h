// How what the daemon said becomes the reply to a kernel request. Stateless but for the control files.
#pragma once

#include <cstddef>
#include <span>

#include "common/ring/wire.h"
#include "shim/control_files.h"
#include "shim/fuse_api.h"
#include "shim/request.h"

namespace mlcache::shim {

// Answers `request.kernel`, whatever the completion holds; `bytes` are those of its slot and are not needed afterwards.
void Answer(const Request& request, const ring::Completion& completion, std::span<const std::byte> bytes,
            ControlFiles& control_files);

// `.mlcache` itself has `.`, `..` and stats, and needs no daemon.
void AnswerControlDirectory(fuse_req_t kernel, uint64_t position, uint64_t room, bool plus, const ControlFiles& files);

// From the daemon's record; timeouts in seconds as libfuse wants them.
fuse_entry_param EntryOf(const ring::NodeAttributes& attributes);

}  // namespace mlcache::shim
