// Where log lines go: to standard error while somebody looks at it, then to syslog (journald takes it from there) or to
// a file. Wraps glog; one thread.
#pragma once

#include <string>

#include "common/status.h"

namespace mlcache::shim {

void StartLogging(const char* program);

// Leaves the terminal: standard input and output become /dev/null, standard error and the log go to `log_file`, or to
// syslog when it is "".
Status MoveLogs(const std::string& log_file);

}  // namespace mlcache::shim
