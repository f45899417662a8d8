#include "shim/command_line.h"

#include <algorithm>
#include <array>
#include <optional>

#include "common/units.h"
#include "shim/suggest.h"

namespace mlcache::shim {
namespace {

constexpr auto kFlags = std::to_array<std::string_view>(
    {"--help", "--version", "--foreground", "--socket_dir", "--log_file", "--hang_timeout", "-o", "-h", "-V"});

std::unexpected<Error> Usage(const std::string& message) {
  return Fail(Code::kInvalidArgument, message + "; see --help");
}

std::unexpected<Error> UnknownFlag(std::string_view flag) {
  return Usage("unknown flag '" + std::string(flag) + "'; the nearest known one is '" + Nearest(flag, kFlags) + "'");
}

// Walks the arguments; flags may stand before, between and behind the two positional ones.
class Parser {
 public:
  explicit Parser(std::span<const std::string_view> arguments) : rest_(arguments.subspan(1)) {
    const std::string_view program = arguments.front();
    command_.as_helper = program.substr(program.rfind('/') + 1) == "mount.mlcache";
  }

  Result<CommandLine> Run() {
    while (!rest_.empty()) {
      const std::string_view argument = rest_.front();
      rest_ = rest_.subspan(1);
      if (argument == "--") {
        positional_.insert(positional_.end(), rest_.begin(), rest_.end());
        break;
      }
      if (argument.starts_with("--")) {
        MLCACHE_RETURN_IF_ERROR(LongFlag(argument));
      } else if (argument.starts_with("-") && argument.size() > 1) {
        MLCACHE_RETURN_IF_ERROR(ShortFlags(argument));
      } else {
        positional_.push_back(argument);
      }
    }
    if (command_.action != CommandLine::Action::kMount) return std::move(command_);
    return Finish();
  }

 private:
  Result<std::string> Value(std::string_view flag, std::optional<std::string_view> attached) {
    if (attached && !attached->empty()) return std::string(*attached);
    if (attached || rest_.empty()) return Usage("flag " + std::string(flag) + " needs a value");
    std::string value(rest_.front());
    rest_ = rest_.subspan(1);
    return value;
  }

  Status LongFlag(std::string_view argument) {
    const size_t equals = argument.find('=');
    const std::string_view name = argument.substr(0, equals);
    std::optional<std::string_view> attached;
    if (equals != std::string_view::npos) attached = argument.substr(equals + 1);
    if (name == "--help" || name == "--version" || name == "--foreground") {
      if (attached) return Usage("flag " + std::string(name) + " takes no value");
      if (name == "--help") command_.action = CommandLine::Action::kHelp;
      if (name == "--version") command_.action = CommandLine::Action::kVersion;
      if (name == "--foreground") command_.foreground = true;
      return {};
    }
    if (name == "--socket_dir") {
      MLCACHE_ASSIGN_OR_RETURN(command_.socket_dir, Value(name, attached));
      socket_dir_given_ = true;
      return {};
    }
    if (name == "--log_file") {
      MLCACHE_ASSIGN_OR_RETURN(command_.log_file, Value(name, attached));
      return {};
    }
    if (name == "--hang_timeout") {
      MLCACHE_ASSIGN_OR_RETURN(const std::string text, Value(name, attached));
      Result<Nanos> parsed = ParseDuration(text);
      if (!parsed) return std::unexpected(parsed.error().WithContext("--hang_timeout"));
      if (*parsed < std::chrono::seconds(1)) return Usage("--hang_timeout must be at least 1s");
      command_.hang_timeout = *parsed;
      return {};
    }
    return UnknownFlag(argument);
  }

  // -sfnv may be given together; -o, -t and -N take a value, attached or not.
  Status ShortFlags(std::string_view argument) {
    for (size_t i = 1; i < argument.size(); ++i) {
      const char letter = argument[i];
      const std::string name = std::string("-") + letter;
      std::optional<std::string_view> attached;
      if (i + 1 < argument.size()) attached = argument.substr(i + 1);
      if (letter == 'o') {
        MLCACHE_ASSIGN_OR_RETURN(const std::string list, Value(name, attached));
        option_lists_.push_back(list);
        return {};
      }
      if (command_.as_helper && (letter == 't' || letter == 'N')) {
        MLCACHE_ASSIGN_OR_RETURN(const std::string type, Value(name, attached));
        if (letter == 't' && type != "mlcache" && type != "fuse.mlcache") {
          return Usage("file system type '" + type + "' is not mlcache");
        }
        return {};
      }
      if (command_.as_helper && (letter == 's' || letter == 'f' || letter == 'n' || letter == 'v')) {
        sloppy_ = sloppy_ || letter == 's';
        command_.dry_run = command_.dry_run || letter == 'f';
      } else if (letter == 'h') {
        command_.action = CommandLine::Action::kHelp;
      } else if (letter == 'V') {
        command_.action = CommandLine::Action::kVersion;
      } else {
        return UnknownFlag(argument);
      }
    }
    return {};
  }

  Result<CommandLine> Finish() {
    if (positional_.size() != 2) {
      return Usage("expected a store URL and a mountpoint, got " + std::to_string(positional_.size()) + " argument" +
                   (positional_.size() == 1 ? "" : "s"));
    }
    command_.store_url = positional_[0];
    command_.mountpoint = positional_[1];
    if (command_.store_url.find("://") == std::string::npos) {
      return Usage("'" + command_.store_url +
                   "' is no store URL: write file:///directory, s3://bucket/prefix?endpoint=… or "
                   "seaweedfs://filer:8888/path");
    }
    std::vector<std::string> ignored;
    for (const std::string& list : option_lists_) {
      MLCACHE_RETURN_IF_ERROR(ParseMountOptions(list, &command_.options, sloppy_ ? &ignored : nullptr));
    }
    for (const std::string& name : ignored)
      command_.notes.push_back("unknown mount option '" + name + "' ignored (-s)");
    MLCACHE_RETURN_IF_ERROR(Judge());
    return std::move(command_);
  }

  // What the options mean together, and which of them do nothing yet.
  Status Judge() {
    const MountOptions& options = command_.options;
    if (!options.socket_dir.empty() && !socket_dir_given_) command_.socket_dir = options.socket_dir;
    if (options.asked_for_writing) {
      // mount(8) passes "rw" when nothing was said, so as its helper it is no request.
      if (!command_.as_helper) {
        return Fail(Code::kInvalidArgument,
                    "mount option rw: this release mounts read-only, writing comes with a later one; leave rw out");
      }
      command_.notes.emplace_back("mounted read-only: this release does not write");
    }
    if (!options.scratch.empty())
      command_.notes.emplace_back("scratch= is accepted; it has no use on a read-only mount");
    return {};
  }

  std::span<const std::string_view> rest_;
  std::vector<std::string_view> positional_;
  std::vector<std::string> option_lists_;
  bool sloppy_ = false;
  bool socket_dir_given_ = false;
  CommandLine command_;
};

}  // namespace

Result<CommandLine> ParseCommandLine(std::span<const std::string_view> arguments) { return Parser(arguments).Run(); }

std::string HelpText(bool as_helper) {
  return std::string(as_helper ? "Usage: mount.mlcache STORE_URL MOUNTPOINT [-sfnv] [-o OPTION,…]\n"
                               : "Usage: mlcache-mount STORE_URL MOUNTPOINT [-o OPTION,…] [--socket_dir=DIR] "
                                 "[--foreground]\n") +
         R"(
Shows a store prefix as a directory; mlcached on this host caches what is read. End it with: umount MOUNTPOINT
(or fusermount3 -u MOUNTPOINT, if you are not root).

Store URLs   file:///dir   s3://bucket/prefix?endpoint=…&region=…   seaweedfs://filer:8888/path

Flags
  --socket_dir=DIR     where mlcached listens (default /run/mlcache)
  --foreground         stay in front, log to standard error
  --log_file=FILE      log there once in the background (default: syslog)
  --hang_timeout=10s   replace a server process that makes no progress for so long
  --help, --version

Mount options
  ro                   read-only (the default; this release writes nothing)
  allow_other          let other users in (root's mounts through mount(8) do); file modes are always checked
  uid= gid= umask=     override what the store says of owners and modes
  attr_ttl=10s         how old metadata may be (with ml.trainingMode 10m, unless it is given)
  immutable            the store never changes below this mount: metadata stays valid
  io_timeout=600s      end an operation that has no answer after so long with ETIMEDOUT; 0: wait for ever
  job=NAME             the name that statistics carry
  credential=NAME      the daemon's profile to read the store with
  open_mode=auto|passthrough|noopen|cached   seal=auto|on|off   durability=remote|local   scratch=DIR
  ml.optimization=true ml.prefetchWorkers=8 ml.cacheSize=1GB
                       false: no look-ahead, plain recency · fetches ahead at once, 0 to 1024 · accepted, no effect yet
  ml.trainingMode      the dataset seldom changes: metadata lasts 10 minutes
  ml.datasetPath=/DIR  load the metadata below MOUNTPOINT/DIR ahead

Exit codes: 0 the mount answers, 1 failure, 2 usage, 3 mlcached cannot be reached.
)";
}

}  // namespace mlcache::shim
