// What the kernel may ask of the mount, as libfuse's table of operations: each either answers at once (control files,
// everything that would write) or becomes a submission to the daemon. Holds nothing per file. Thread-safe.
#pragma once

#include <cstdint>

#include "shim/control_files.h"
#include "shim/fuse_api.h"
#include "shim/request.h"

namespace mlcache::shim {

struct FileSystemOptions {
  uint32_t uid = 0;  // who owns the control files
  uint32_t gid = 0;
};

class FileSystem {
 public:
  explicit FileSystem(const FileSystemOptions& options) : control_files_(options.uid, options.gid) {}

  static const fuse_lowlevel_ops& Operations();

  // From now on the operations that this thread runs belong to this file system and send their requests to `sink`.
  // Both must outlive the thread's last operation.
  void ServeOnThisThread(RequestSink* sink);

  ControlFiles& control_files() { return control_files_; }

 private:
  ControlFiles control_files_;
};

}  // namespace mlcache::shim
