// What the kernel may ask of the mount, as libfuse's table of operations: each either answers at once (control files,
// everything that would write) or becomes a submission to the daemon. Thread-safe.
#pragma once

#include <cstdint>

#include "shim/control_files.h"
#include "shim/fuse_api.h"
#include "shim/open_table.h"
#include "shim/request.h"
#include "shim/serving.h"

namespace mlcache::shim {

struct FileSystemOptions {
  uint32_t uid = 0;  // who owns the control files
  uint32_t gid = 0;
};

class FileSystem {
 public:
  // Borrows the table and how files are served.
  FileSystem(const FileSystemOptions& options, OpenTable& opens, Serving& serving)
      : control_files_(options.uid, options.gid), opens_(opens), serving_(serving) {}

  static const fuse_lowlevel_ops& Operations();

  // From now on the operations that this thread runs belong to this file system and send their requests to `sink`.
  // Both must outlive the thread's last operation.
  void ServeOnThisThread(RequestSink* sink);

  ControlFiles& control_files() { return control_files_; }
  OpenTable& opens() { return opens_; }
  Serving& serving() { return serving_; }

 private:
  ControlFiles control_files_;
  OpenTable& opens_;
  Serving& serving_;
};

}  // namespace mlcache::shim
