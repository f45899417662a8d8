// The command line of mlcached: flags, flag files, and what they mean. gflags keeps the values; the parsing is ours,
// because gflags ends the process with status 1 and without naming the fix where usage errors must be status 2.
#pragma once

#include <string>
#include <vector>

#include "cached/daemon.h"
#include "common/status.h"

namespace mlcache {

enum class Action { kServe, kPrintConfig, kCheckConfig, kHelp, kVersion };

struct CommandLine {
  Action action = Action::kServe;
  DaemonOptions options;
};

// `args` without the program's name. An unknown flag, a bad value, a positional argument, an unreadable flag file, a
// missing or malformed --tier: kInvalidArgument, with a message that names it and says what to write. Later flags win
// over earlier ones; a flag file counts where --flagfile stands. Sets gflags' values, so it is not thread-safe.
Result<CommandLine> ParseCommandLine(const std::vector<std::string>& args);

// The flags as they are now, one "--name=value" a line in order of names: a flag file that gives the same daemon.
std::string EffectiveFlags();

// What --help prints.
std::string Usage();

}  // namespace mlcache
