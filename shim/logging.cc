#include "shim/logging.h"

#include <fcntl.h>
#include <glog/logging.h>
#include <syslog.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "common/unique_fd.h"

namespace mlcache::shim {
namespace {

class SyslogSink : public google::LogSink {
 public:
  void send(google::LogSeverity severity, const char* /*full_filename*/, const char* base_filename, int line,
            const struct tm* /*time*/, const char* message, size_t message_length) override {
    int priority = LOG_INFO;
    if (severity == google::GLOG_WARNING) priority = LOG_WARNING;
    if (severity >= google::GLOG_ERROR) priority = LOG_ERR;
    ::syslog(priority, "%s:%d] %.*s", base_filename, line, static_cast<int>(message_length), message);
  }
};

}  // namespace

void StartLogging(const char* program) {
  FLAGS_logtostderr = true;
  google::InitGoogleLogging(program);
}

Status MoveLogs(const std::string& log_file) {
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!null.valid()) return FailErrno(errno, "open /dev/null");
  if (log_file.empty()) {
    static SyslogSink sink;
    ::openlog("mlcache-mount", LOG_PID | LOG_CONS, LOG_DAEMON);
    google::AddLogSink(&sink);
    ::dup2(null.get(), STDERR_FILENO);
  } else {
    const UniqueFd file(::open(log_file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
    if (!file.valid()) return FailErrno(errno, "open the log file " + log_file);
    ::dup2(file.get(), STDERR_FILENO);
  }
  ::dup2(null.get(), STDIN_FILENO);
  ::dup2(null.get(), STDOUT_FILENO);
  return {};
}

}  // namespace mlcache::shim
