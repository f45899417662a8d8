// mlcached: reads its flags, starts the daemon, waits for a signal, stops it.
#include <gflags/gflags.h>
#include <glog/logging.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <ctime>
#include <iostream>
#include <string>
#include <vector>

#include "cached/config.h"
#include "cached/daemon.h"
#include "common/version.h"

namespace mlcache {
namespace {

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;
constexpr Nanos kStatusInterval = std::chrono::seconds(10);

// Lent leases, staging files and connections add up; the soft limit of a login is made for editors.
void RaiseFileLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) PLOG(WARNING) << "raise the limit of open files";
}

// To stderr (which systemd hands to the journal), unless --log_dir asks for files.
void StartLogging(const char* program) {
  FLAGS_logtostderr = gflags::GetCommandLineFlagInfoOrDie("log_dir").current_value.empty();
  google::InitGoogleLogging(program);
}

sigset_t BlockSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGIO, SIG_IGN);  // cached/cache/graveyard.h
  return signals;
}

// How often the main loop must run: systemd wants to hear of us twice in its watchdog time.
Nanos LoopInterval() {
  uint64_t watchdog_us = 0;
  if (sd_watchdog_enabled(0, &watchdog_us) <= 0) return kStatusInterval;
  return std::min<Nanos>(kStatusInterval, std::chrono::microseconds(watchdog_us / 2));
}

void WaitForEnd(const Daemon& daemon, const sigset_t& signals) {
  const Nanos interval = LoopInterval();
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(interval);
  const timespec timeout{.tv_sec = seconds.count(), .tv_nsec = (interval - seconds).count()};
  while (true) {
    sd_notifyf(0, "WATCHDOG=1\nSTATUS=%s", daemon.Summary().c_str());
    const int signal = sigtimedwait(&signals, nullptr, &timeout);
    if (signal == SIGTERM || signal == SIGINT) {
      LOG(INFO) << "stopping on " << (signal == SIGTERM ? "SIGTERM" : "SIGINT");
      return;
    }
    LOG_IF(INFO, signal == SIGHUP) << "SIGHUP: there is nothing to reload; restart mlcached to change its flags";
  }
}

int Serve(const DaemonOptions& options) {
  umask(077);
  RaiseFileLimit();
  // Blocked before any thread starts, so that all inherit it and only the loop above takes them.
  sigset_t signals = BlockSignals();
  auto daemon = Daemon::Start(options, SystemClock());
  if (!daemon) {
    LOG(ERROR) << "mlcached could not start: " << daemon.error().message();
    return kExitFailure;
  }
  LOG(INFO) << "ready: " << (*daemon)->Summary();
  sd_notify(0, "READY=1");
  WaitForEnd(**daemon, signals);
  sd_notify(0, "STOPPING=1\nSTATUS=making the cache durable");
  // A second signal ends a shutdown that takes too long.
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
  daemon->reset();
  LOG(INFO) << "stopped";
  return 0;
}

int Run(const std::vector<std::string>& args, const char* program) {
  const auto line = ParseCommandLine(args);
  if (!line) {
    std::cerr << "mlcached: " << line.error().message() << '\n';
    return kExitUsage;
  }
  switch (line->action) {
    case Action::kHelp:
      std::cout << Usage();
      return 0;
    case Action::kVersion:
      std::cout << "mlcached " << kVersion << '\n';
      return 0;
    case Action::kPrintConfig:
      std::cout << EffectiveFlags();
      return 0;
    case Action::kCheckConfig:
    case Action::kServe:
      break;
  }
  StartLogging(program);
  if (line->action == Action::kServe) return Serve(line->options);
  if (const Status checked = CheckEnvironment(line->options); !checked) {
    std::cerr << "mlcached: " << checked.error().message() << '\n';
    return kExitFailure;
  }
  std::cout << "mlcached: the configuration is good\n";
  return 0;
}

}  // namespace
}  // namespace mlcache

int main(int argc, char** argv) { return mlcache::Run(std::vector<std::string>(argv + 1, argv + argc), argv[0]); }
