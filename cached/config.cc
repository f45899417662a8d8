#include "cached/config.h"

#include <gflags/gflags.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <string_view>

#include "common/units.h"

DEFINE_string(socket_dir, "/run/mlcache", "Directory of the sockets session.sock and control.sock; made when missing");
DEFINE_string(tier, "",
              "DIR:SIZE[,DIR:SIZE...]: the cache's directories and their hard budgets; the first also keeps "
              "the index and the metadata");
DEFINE_string(metrics_address, "127.0.0.1:9463",
              "Numeric HOST:PORT of the Prometheus endpoint; port 0 picks a free "
              "one; empty for none");
DEFINE_string(free_space_floor, "1GiB", "A tier stops growing when its file system has less room than this left");
DEFINE_string(commit_interval, "1s", "What was cached longer ago survives a crash");
DEFINE_string(commit_bytes, "64MiB", "What was cached before the newest so many bytes survives a crash");
DEFINE_uint32(demand_workers, 16, "Fetches at once that a reader waits for");
DEFINE_uint32(background_workers, 8, "Fetches at once of prefetch and warm-up");
DEFINE_uint32(disk_workers, 4, "Reads at once that wait for a tier's disk");
DEFINE_string(in_flight_bytes, "256MiB", "Memory of all fetches on their way");
DEFINE_string(request_timeout, "60s", "Deadline of one store operation");
DEFINE_uint32(metadata_workers, 16, "Lookups and listings at once that wait for a store");
DEFINE_string(allowed_uids, "",
              "UID[,UID...] that may mount, beside root and the daemon's own user; all: everybody, with the daemon's "
              "credentials");
DEFINE_string(
    credentials, "",
    "File of the credential profiles that mounts may ask for (-o credential=NAME), each with the user ids that "
    "may; the keys themselves stay in the S3 credentials file");
DEFINE_uint32(max_sessions, 256, "Mounts at once");
DEFINE_uint64(max_cached_entries, 2000000, "Directory entries kept in memory");
DEFINE_string(negative_ttl, "1s", "How long 'no such file' is believed, at most");
DEFINE_int32(retry_attempts, 5, "Attempts of one store request, the first included");
DEFINE_string(retry_initial_backoff, "50ms", "Wait before the second attempt; doubles, with jitter");
DEFINE_string(connect_timeout, "5s", "Limit for connecting to a store");
DEFINE_string(stall_timeout, "20s", "An attempt that brings no byte for so long is given up");
DEFINE_string(max_bytes_per_second, "0", "Throttle of the reads from each store; 0 for none");
DEFINE_uint64(max_requests_per_second, 0, "Throttle of the requests to each store; 0 for none");
DEFINE_string(fault_spec, "", "Script of the fault decorator, for tests; empty for no faults");
DEFINE_bool(print_config, false, "Print the effective flags as a flag file and exit");
DEFINE_bool(check_config, false, "Check the flags, the directories and the stores' prerequisites, and exit");

namespace mlcache {
namespace {

constexpr int kMaxFlagFileDepth = 8;

std::unexpected<Error> UsageError(const std::string& message) {
  return Fail(Code::kInvalidArgument, message + " (mlcached --help lists the flags)");
}

bool IsOwn(const gflags::CommandLineFlagInfo& flag) { return flag.filename.ends_with("cached/config.cc"); }

std::vector<gflags::CommandLineFlagInfo> OwnFlags() {
  std::vector<gflags::CommandLineFlagInfo> flags;
  gflags::GetAllFlags(&flags);
  std::erase_if(flags, [](const auto& flag) { return !IsOwn(flag); });
  std::ranges::sort(flags, {}, &gflags::CommandLineFlagInfo::name);
  return flags;
}

// Applies arguments, or the lines of a flag file, to gflags' values.
class FlagParser {
 public:
  Status Parse(const std::vector<std::string>& args) {
    for (size_t i = 0; i < args.size(); ++i) {
      std::string_view arg = args[i];
      if (arg == "--" && i + 1 == args.size()) break;
      if (!arg.starts_with('-') || arg == "-" || arg == "--") {
        const std::string& unexpected = arg == "--" ? args[i + 1] : args[i];
        return UsageError("unexpected argument '" + unexpected + "': mlcached takes flags only");
      }
      arg.remove_prefix(arg.starts_with("--") ? 2 : 1);
      const size_t equals = arg.find('=');
      const std::string name(arg.substr(0, equals));
      if (equals != std::string_view::npos) {
        MLCACHE_RETURN_IF_ERROR(Set(name, std::string(arg.substr(equals + 1))));
      } else if (SetBoolean(name)) {
        continue;
      } else if (i + 1 < args.size() && Known(name)) {
        MLCACHE_RETURN_IF_ERROR(Set(name, args[++i]));
      } else if (Known(name)) {
        return UsageError("flag --" + name + " needs a value");
      } else {
        return UsageError("unknown flag --" + name);
      }
    }
    return {};
  }

  bool help() const { return help_; }
  bool version() const { return version_; }

 private:
  static bool Known(const std::string& name) {
    gflags::CommandLineFlagInfo info;
    return name == "flagfile" || gflags::GetCommandLineFlagInfo(name.c_str(), &info);
  }

  // "--flag" and "--noflag"; false when the name is no boolean flag.
  bool SetBoolean(const std::string& name) {
    if (name == "help" || name == "version") {
      (name == "help" ? help_ : version_) = true;
      return true;
    }
    gflags::CommandLineFlagInfo info;
    if (gflags::GetCommandLineFlagInfo(name.c_str(), &info) && info.type == "bool")
      return !gflags::SetCommandLineOption(name.c_str(), "true").empty();
    const std::string positive = name.starts_with("no") ? name.substr(2) : "";
    if (!positive.empty() && gflags::GetCommandLineFlagInfo(positive.c_str(), &info) && info.type == "bool")
      return !gflags::SetCommandLineOption(positive.c_str(), "false").empty();
    return false;
  }

  Status Set(const std::string& name, const std::string& value) {
    if (name == "flagfile") return ParseFiles(value);
    gflags::CommandLineFlagInfo info;
    if (!gflags::GetCommandLineFlagInfo(name.c_str(), &info)) return UsageError("unknown flag --" + name);
    if (gflags::SetCommandLineOption(name.c_str(), value.c_str()).empty())
      return UsageError("bad value '" + value + "' for --" + name + ": it takes a " + info.type);
    return {};
  }

  Status ParseFiles(const std::string& names) {
    size_t begin = 0;
    while (begin <= names.size()) {
      const size_t end = std::min(names.find(',', begin), names.size());
      MLCACHE_RETURN_IF_ERROR(ParseFile(names.substr(begin, end - begin)));
      begin = end + 1;
    }
    return {};
  }

  Status ParseFile(const std::string& path) {
    if (++depth_ > kMaxFlagFileDepth) return UsageError("flag file " + path + ": --flagfile is nested too deeply");
    std::ifstream file(path);
    std::error_code ignored;
    if (!file || std::filesystem::is_directory(path, ignored)) {
      return Fail(Code::kInvalidArgument, "cannot read --flagfile=" + path + ": " +
                                              std::strerror(file ? EISDIR : errno) +
                                              "; it holds one --name=value a line, see mlcached --print_config");
    }
    std::vector<std::string> args;
    for (std::string line; std::getline(file, line);) {
      const size_t first = line.find_first_not_of(" \t\r");
      if (first == std::string::npos || line[first] == '#') continue;
      args.push_back(line.substr(first, line.find_last_not_of(" \t\r") - first + 1));
      if (!args.back().starts_with('-'))
        return UsageError("flag file " + path + ": line '" + args.back() + "' is not --name=value");
    }
    if (file.bad()) return UsageError("flag file " + path + ": reading failed");
    const Status parsed = Parse(args);
    --depth_;
    if (!parsed) return std::unexpected(parsed.error().WithContext("flag file " + path));
    return {};
  }

  int depth_ = 0;
  bool help_ = false;
  bool version_ = false;
};

template <typename T>
Status Convert(Result<T> parsed, const char* flag, T& into) {
  if (!parsed) return UsageError("--" + std::string(flag) + ": " + parsed.error().message());
  into = *parsed;
  return {};
}

Status ConvertDurations(DaemonOptions& options) {
  MLCACHE_RETURN_IF_ERROR(
      Convert(ParseDuration(FLAGS_commit_interval), "commit_interval", options.cache.commit_interval));
  MLCACHE_RETURN_IF_ERROR(
      Convert(ParseDuration(FLAGS_request_timeout), "request_timeout", options.session.request_timeout));
  MLCACHE_RETURN_IF_ERROR(
      Convert(ParseDuration(FLAGS_negative_ttl), "negative_ttl", options.session.volume.negative_ttl));
  store::StoreOptions& store = options.session.store;
  MLCACHE_RETURN_IF_ERROR(
      Convert(ParseDuration(FLAGS_retry_initial_backoff), "retry_initial_backoff", store.retry_initial_backoff));
  MLCACHE_RETURN_IF_ERROR(Convert(ParseDuration(FLAGS_connect_timeout), "connect_timeout", store.connect_timeout));
  MLCACHE_RETURN_IF_ERROR(Convert(ParseDuration(FLAGS_stall_timeout), "stall_timeout", store.stall_timeout));
  options.fetch.request_timeout = options.session.request_timeout;
  return {};
}

Status ConvertSizes(DaemonOptions& options) {
  MLCACHE_RETURN_IF_ERROR(
      Convert(ParseSize(FLAGS_free_space_floor), "free_space_floor", options.cache.free_space_floor_bytes));
  MLCACHE_RETURN_IF_ERROR(Convert(ParseSize(FLAGS_commit_bytes), "commit_bytes", options.cache.commit_bytes));
  MLCACHE_RETURN_IF_ERROR(Convert(ParseSize(FLAGS_in_flight_bytes), "in_flight_bytes", options.fetch.in_flight_bytes));
  return Convert(ParseSize(FLAGS_max_bytes_per_second), "max_bytes_per_second",
                 options.session.store.max_bytes_per_second);
}

Status RequirePositive() {
  for (const char* name : {"demand_workers", "background_workers", "disk_workers", "metadata_workers", "max_sessions",
                           "max_cached_entries", "retry_attempts"}) {
    const std::string value = gflags::GetCommandLineFlagInfoOrDie(name).current_value;
    if (value.starts_with('-') || value == "0")
      return UsageError("bad value '" + value + "' for --" + name + ": it must be at least 1");
  }
  for (const char* name : {"request_timeout", "connect_timeout", "stall_timeout", "commit_interval"}) {
    const std::string value = gflags::GetCommandLineFlagInfoOrDie(name).current_value;
    if (ParseDuration(value).value_or(Nanos(1)) <= Nanos::zero())
      return UsageError("bad value '" + value + "' for --" + name + ": it must be more than 0");
  }
  return {};
}

Result<std::optional<std::vector<uid_t>>> AllowedUids() {
  if (FLAGS_allowed_uids == "all") return std::nullopt;
  std::vector<uid_t> uids;
  std::istringstream list(FLAGS_allowed_uids);
  for (std::string text; std::getline(list, text, ',');) {
    uid_t uid = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), uid);
    if (error != std::errc() || end != text.data() + text.size())
      return UsageError("bad value '" + text + "' in --allowed_uids: write numeric user ids, as in 1000,1001, or all");
    uids.push_back(uid);
  }
  return uids;
}

Result<DaemonOptions> OptionsFromFlags() {
  DaemonOptions options;
  MLCACHE_RETURN_IF_ERROR(RequirePositive());
  MLCACHE_RETURN_IF_ERROR(ConvertSizes(options));
  MLCACHE_RETURN_IF_ERROR(ConvertDurations(options));
  if (FLAGS_socket_dir.empty()) return UsageError("--socket_dir is empty: name a directory");
  options.socket_dir = std::filesystem::absolute(FLAGS_socket_dir).lexically_normal().string();
  if (options.socket_dir.size() > 1 && options.socket_dir.ends_with('/')) options.socket_dir.pop_back();
  if (FLAGS_tier.empty())
    return UsageError(
        "--tier is missing: name at least one directory and its budget, as in --tier=/var/lib/mlcache:64GiB");
  auto tiers = cache::ParseTiers(FLAGS_tier);
  if (!tiers) return UsageError("--tier: " + tiers.error().message());
  options.cache.tiers = *std::move(tiers);
  if (!FLAGS_metrics_address.empty()) {
    MLCACHE_ASSIGN_OR_RETURN(options.metrics_address, ParseListenAddress(FLAGS_metrics_address));
  }
  options.fetch.demand_workers = FLAGS_demand_workers;
  options.fetch.background_workers = FLAGS_background_workers;
  options.fetch.disk_workers = FLAGS_disk_workers;
  options.session.socket_dir = options.socket_dir;
  MLCACHE_ASSIGN_OR_RETURN(options.session.allowed_uids, AllowedUids());
  options.session.credentials_file = FLAGS_credentials;
  options.session.max_sessions = FLAGS_max_sessions;
  options.session.metadata_workers = FLAGS_metadata_workers;
  options.session.volume.max_cached_entries = FLAGS_max_cached_entries;
  options.session.store.retry_attempts = FLAGS_retry_attempts;
  options.session.store.max_requests_per_second = FLAGS_max_requests_per_second;
  options.session.store.fault_spec = FLAGS_fault_spec;
  return options;
}

}  // namespace

Result<CommandLine> ParseCommandLine(const std::vector<std::string>& args) {
  FlagParser parser;
  MLCACHE_RETURN_IF_ERROR(parser.Parse(args));
  CommandLine line;
  if (parser.help() || parser.version()) {
    line.action = parser.help() ? Action::kHelp : Action::kVersion;
    return line;
  }
  if (FLAGS_print_config) line.action = Action::kPrintConfig;
  if (FLAGS_check_config) line.action = Action::kCheckConfig;
  MLCACHE_ASSIGN_OR_RETURN(line.options, OptionsFromFlags());
  return line;
}

std::string EffectiveFlags() {
  std::string text;
  for (const auto& flag : OwnFlags()) {
    if (flag.name == "print_config" || flag.name == "check_config") continue;
    text += "--" + flag.name + "=" + flag.current_value + "\n";
  }
  return text;
}

std::string Usage() {
  std::string text =
      "mlcached: one cache of remote datasets for all mounts of this host.\n"
      "usage: mlcached --tier=DIR:SIZE[,DIR:SIZE...] [--flag=value ...]\n"
      "  --flagfile=FILE[,FILE...]  flags from files, one --name=value a line, # begins a comment\n"
      "  --help, --version\n";
  for (const auto& flag : OwnFlags())
    text += "  --" + flag.name + "  " + flag.description +
            " (default: " + (flag.default_value.empty() ? "none" : flag.default_value) + ")\n";
  text +=
      "glog's flags (--v=1, --minloglevel=1, --log_dir=DIR, ...) are taken too.\n"
      "exit codes: 0 ok, 1 failure, 2 usage\n";
  return text;
}

}  // namespace mlcache
