#include <algorithm>
#include <string_view>

#include "common/version.h"
#include "ctl/verb.h"

namespace mlcache::ctl {
namespace {

constexpr char kProgram[] = "mlcachectl";
constexpr char kDefaultSocketDir[] = "/run/mlcache";
constexpr std::string_view kLaterVerbs[] = {"pin", "unpin", "flush", "doctor"};

void PrintUsage(std::ostream& out) {
  out << "usage: " << kProgram << " [--socket_dir=" << kDefaultSocketDir << "] VERB [ARGUMENT...]\n\n";
  Table table({"VERB", "WHAT IT DOES"});
  for (const Verb& verb : Verbs()) table.Add({std::string(verb.name) + " " + verb.form, verb.summary});
  table.Add({"version", "prints the version of this program"});
  table.Print(out);
  out << "\nA PATH lies below a mount of this host, or is a store URL (file://, s3://, seaweedfs://).\n"
         "'"
      << kProgram
      << " VERB --help' says more.\n"
         "exit codes: 0 ok, 1 failure, 2 usage, 3 daemon unreachable, 4 partly done (each failure named)\n";
}

void PrintVerbUsage(std::ostream& out, const Verb& verb) {
  out << "usage: " << kProgram << " [--socket_dir=DIR] " << verb.name << ' ' << verb.form << "\n"
      << verb.summary << ".\n"
      << verb.details;
}

int UsageError(Console& console, const std::string& message) {
  console.err << kProgram << ": " << message << " (see '" << kProgram << " --help')\n";
  return kExitUsage;
}

int RunVerb(const Verb& verb, const std::vector<std::string>& words, const std::string& socket_dir, Console& console) {
  if (std::ranges::any_of(words, [](const std::string& word) { return word == "--help" || word == "-h"; })) {
    PrintVerbUsage(console.out, verb);
    return kExitOk;
  }
  auto arguments = ParseArguments(words, verb.options);
  if (!arguments) return UsageError(console, std::string(verb.name) + ": " + arguments.error().message());
  if (!verb.takes_paths && !arguments->paths.empty())
    return UsageError(console, std::string(verb.name) + ": unexpected argument '" + arguments->paths.front() + "'");
  if (verb.takes_paths && arguments->paths.empty() && !arguments->Has("-f"))
    return UsageError(console, std::string(verb.name) + ": PATH is missing");
  auto client = Client::Connect(socket_dir);
  if (!client) return Report(console, client.error());
  Invocation invocation{.arguments = *std::move(arguments), .client = *client, .console = console};
  return verb.run(invocation);
}

}  // namespace

const std::vector<Verb>& Verbs() {
  static const std::vector<Verb> verbs = {
      {"status", "", "shows the daemon, its tiers and what needs attention", "", {}, false, &RunStatus},
      {"stats",
       "[--json] [--watch]",
       "shows every counter and gauge",
       "  --json   one object, as described in docs/metrics.md\n"
       "  --watch  again every second until interrupted; with --json one line each\n",
       {{"--json"}, {"--watch"}},
       false,
       &RunStats},
      {"mounts", "", "lists the live mounts", "", {}, false, &RunMounts},
      {"warmup",
       "PATH... [-f LIST] [--meta] [--progress=auto|json|none]",
       "brings files into the cache; directories are walked",
       "  -f LIST          more paths, one a line; - reads them from standard input\n"
       "  --meta           listings and attributes only\n"
       "  --progress=WHAT  json: an object a line on standard output, the last one with \"done\": true;\n"
       "                   auto: a bar on a terminal, otherwise json; none: only the failures and a summary\n",
       {{"-f", true}, {"--meta"}, {"--progress", true}},
       true,
       &RunWarmup},
      {"check",
       "PATH... [-f LIST]",
       "shows how many bytes of each file are cached",
       "  -f LIST  more paths, one a line; - reads them from standard input\n",
       {{"-f", true}},
       true,
       &RunCheck},
      {"evict",
       "PATH... [-f LIST]",
       "drops the cached bytes of files; the store is not touched",
       "  -f LIST  more paths, one a line; - reads them from standard input\n",
       {{"-f", true}},
       true,
       &RunEvict},
      {"invalidate",
       "PATH... [-f LIST]",
       "forgets names and attributes, here and in the kernel, so that the store is asked again",
       "  -f LIST  more paths, one a line; - reads them from standard input\n",
       {{"-f", true}},
       true,
       &RunInvalidate},
      {"seal",
       "PATH... [--off] [-f LIST]",
       "shows mounts as sealed views: native speed for what is completely cached",
       "  --off    show the mounts themselves again, and keep it so\n"
       "  -f LIST  more paths, one a line; - reads them from standard input\n"
       "  A path stands for the mount that it lies below. See docs/sealed.md.\n",
       {{"-f", true}, {"--off"}},
       true,
       &RunSeal},
      {"plan",
       "MOUNTPOINT [-f LIST [-0] [--append] | --clear | --show [--json]] [--stream=NAME]",
       "declares the order in which a job will read files, so that they are fetched just ahead of it",
       "  -f LIST        the files in reading order, one a line, relative to the mountpoint or absolute below it; each "
       "as\n"
       "                 often as it will be read; - reads them from standard input\n"
       "  -0             the files of LIST end with NUL instead of a newline\n"
       "  --append       LIST comes behind what is declared already, instead of in its place\n"
       "  --clear        forgets the plan\n"
       "  --show         how far the reader is, and what became of the files (the default without -f)\n"
       "  --json         of --show: one object\n"
       "  --stream=NAME  one of several plans of the mount, as for a rank of its own; --show and --clear without it\n"
       "                 are about all of them\n"
       "  See docs/prefetch.md.\n",
       {{"-f", true}, {"-0"}, {"--append"}, {"--clear"}, {"--show"}, {"--json"}, {"--stream", true}},
       true,
       &RunPlan},
  };
  return verbs;
}

int Main(const std::vector<std::string>& args, Console& console) {
  constexpr std::string_view kSocketDirFlag = "--socket_dir";
  std::string socket_dir = kDefaultSocketDir;
  size_t i = 0;
  for (; i < args.size() && args[i].starts_with('-'); ++i) {
    const std::string_view arg = args[i];
    if (arg == "--help" || arg == "-h") {
      PrintUsage(console.out);
      return kExitOk;
    }
    if (arg == "--version") {
      console.out << kProgram << ' ' << kVersion << '\n';
      return kExitOk;
    }
    if (arg == kSocketDirFlag && i + 1 < args.size()) {
      socket_dir = args[++i];
    } else if (arg.starts_with("--socket_dir=")) {
      socket_dir = arg.substr(kSocketDirFlag.size() + 1);
    } else {
      return UsageError(console, "unknown option '" + args[i] + "' before the verb");
    }
  }
  if (socket_dir.empty()) return UsageError(console, "--socket_dir needs a directory");
  if (i == args.size()) {
    PrintUsage(console.err);
    return UsageError(console, "VERB is missing");
  }
  const std::string& name = args[i];
  const std::vector<std::string> words(args.begin() + static_cast<std::ptrdiff_t>(i) + 1, args.end());
  if (name == "version") {
    console.out << kProgram << ' ' << kVersion << '\n';
    return words.empty() ? kExitOk : UsageError(console, "version: unexpected argument '" + words.front() + "'");
  }
  if (name == "help") {
    PrintUsage(console.out);
    return kExitOk;
  }
  for (const Verb& verb : Verbs()) {
    if (name == verb.name) return RunVerb(verb, words, socket_dir, console);
  }
  if (std::ranges::find(kLaterVerbs, name) != std::ranges::end(kLaterVerbs)) {
    console.err << kProgram << ": " << name << ": not available in this version (" << kVersion << ")\n";
    return kExitUsage;
  }
  return UsageError(console, "unknown verb '" + name + "'");
}

}  // namespace mlcache::ctl
