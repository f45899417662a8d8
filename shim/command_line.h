// What was asked on the command line, in the form of mlcache-mount or of mount(8)'s helper mount.mlcache. Pure.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/clock.h"
#include "common/status.h"
#include "shim/mount_options.h"

namespace mlcache::shim {

// Of both programs; mlcachectl and mlcached use the same numbers.
enum ExitCode : int { kExitOk = 0, kExitFailure = 1, kExitUsage = 2, kExitUnreachable = 3 };

struct CommandLine {
  enum class Action { kMount, kHelp, kVersion };

  Action action = Action::kMount;
  bool as_helper = false;  // called as mount.mlcache
  bool dry_run = false;    // mount -f: check everything, mount nothing
  bool foreground = false;
  std::string store_url;
  std::string mountpoint;  // as given
  std::string socket_dir = "/run/mlcache";
  std::string log_file;                           // "" : syslog once in the background
  Nanos hang_timeout = std::chrono::seconds(10);  // a server without progress for so long is replaced
  MountOptions options;
  std::vector<std::string> notes;  // to be logged: what was accepted and does nothing yet
};

// `arguments` as main's, the program's name first. kInvalidArgument: a usage error, exit code 2.
Result<CommandLine> ParseCommandLine(std::span<const std::string_view> arguments);

std::string HelpText(bool as_helper);

}  // namespace mlcache::shim
