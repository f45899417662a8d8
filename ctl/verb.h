// The verbs of mlcachectl, a source file each.
#pragma once

#include <string>
#include <vector>

#include "ctl/arguments.h"
#include "ctl/client.h"
#include "ctl/console.h"

namespace mlcache::ctl {

// What a verb gets. Its result is the exit code.
struct Invocation {
  Arguments arguments;
  Client& client;
  Console& console;
};

struct Verb {
  const char* name;
  const char* form;     // of what follows the name, as in "PATH... [--meta]"
  const char* summary;  // one line
  const char* details;  // more lines for 'VERB --help', each ended
  std::vector<OptionForm> options;
  bool takes_paths;  // at least one then, unless -f names a list
  int (*run)(Invocation& invocation);
};

// In the order that --help shows.
const std::vector<Verb>& Verbs();

int RunStatus(Invocation& invocation);
int RunStats(Invocation& invocation);
int RunMounts(Invocation& invocation);
int RunWarmup(Invocation& invocation);
int RunCheck(Invocation& invocation);
int RunEvict(Invocation& invocation);
int RunInvalidate(Invocation& invocation);
int RunSeal(Invocation& invocation);
int RunPlan(Invocation& invocation);

// Prints the error; its exit code.
int Report(Console& console, const Error& error);

// The targets that the arguments name; what could not be resolved is printed and counted.
struct TargetList {
  control::TargetRequest request;
  uint64_t failures = 0;
};
Result<TargetList> ResolveTargets(Invocation& invocation, const std::vector<std::string>& paths);

// "path: message" on stderr, one line each.
void PrintFailure(Console& console, const std::string& path, const std::string& message);

// The exit code of a verb over many files.
int ExitCodeOf(uint64_t succeeded, uint64_t failed);

// The whole program but for its environment; `args` without the program's name.
int Main(const std::vector<std::string>& args, Console& console);

}  // namespace mlcache::ctl
