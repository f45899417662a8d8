#include "cached/daemon.h"

#include <fcntl.h>
#include <glog/logging.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <utility>

#include "cached/metrics/metrics.h"
#include "cached/rpc/control_server.h"
#include "cached/seal/sealer.h"
#include "cached/session/credential_table.h"
#include "cached/store/seaweed_security.h"
#include "common/unique_fd.h"
#include "common/units.h"
#include "common/version.h"
#include "proto/control_address.h"

namespace mlcache {
namespace {

constexpr mode_t kSocketDirMode = 0755;
constexpr std::string_view kLongestSocketName = "/session.sock";

Status CheckSocketPathLength(const std::string& socket_dir) {
  constexpr size_t kMost = sizeof(sockaddr_un::sun_path) - 1;
  if (socket_dir.size() + kLongestSocketName.size() <= kMost) return {};
  return Fail(Code::kInvalidArgument, "--socket_dir=" + socket_dir +
                                          ": the path is too long for a Unix socket; use at most " +
                                          std::to_string(kMost - kLongestSocketName.size()) + " bytes");
}

// The socket directory, held for as long as this object lives: no second daemon can serve in it.
class SocketDirectory {
 public:
  static Result<SocketDirectory> Hold(const std::string& path) {
    MLCACHE_RETURN_IF_ERROR(CheckSocketPathLength(path));
    std::error_code error;
    const bool made = std::filesystem::create_directories(path, error);
    if (error) return std::unexpected(ErrnoError(error.value(), "make --socket_dir=" + path).WithContext("sockets"));
    // The process' umask is narrower than what mounts of other users need to reach the sockets.
    if (made && chmod(path.c_str(), kSocketDirMode) != 0) return FailErrno(errno, "chmod " + path);
    const std::string lock = path + "/mlcached.lock";
    UniqueFd fd(open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644));
    if (!fd.valid()) {
      return FailErrno(errno, "open " + lock + " (the daemon's user must be able to write to --socket_dir)");
    }
    if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
      return Fail(Code::kAlreadyExists, "--socket_dir=" + path + " is served by another mlcached (process " +
                                            Holder(fd.get()) + "): stop that one, or choose another directory");
    }
    const std::string pid = std::to_string(getpid()) + "\n";
    if (ftruncate(fd.get(), 0) != 0 || pwrite(fd.get(), pid.data(), pid.size(), 0) < 0)
      return FailErrno(errno, "write " + lock);
    return SocketDirectory(path, std::move(fd));
  }

  SocketDirectory(SocketDirectory&&) = default;
  SocketDirectory& operator=(SocketDirectory&&) = delete;
  ~SocketDirectory() {
    // The lock file stays: removing it would let two daemons hold two files of the same name.
    if (fd_.valid() && ftruncate(fd_.get(), 0) != 0) PLOG(WARNING) << "clear " << path_ << "/mlcached.lock";
  }

 private:
  SocketDirectory(std::string path, UniqueFd fd) : path_(std::move(path)), fd_(std::move(fd)) {}

  static std::string Holder(int fd) {
    std::array<char, 32> text{};
    const ssize_t length = pread(fd, text.data(), text.size() - 1, 0);
    std::string pid(text.data(), length > 0 ? static_cast<size_t>(length) : 0);
    while (!pid.empty() && pid.back() == '\n') pid.pop_back();
    return pid.empty() ? "unknown" : pid;
  }

  std::string path_;
  UniqueFd fd_;
};

// Members are in the order of their dependencies: the destructors run in the reverse order.
class RunningDaemon final : public Daemon {
 public:
  RunningDaemon(const DaemonOptions& options, const Clock& clock, SocketDirectory socket_directory)
      : options_(options), clock_(clock), socket_directory_(std::move(socket_directory)) {}

  ~RunningDaemon() override {
    if (control_ != nullptr) LOG(INFO) << "stopping: control service";
    if (sealer_ != nullptr) sealer_->Stop();  // or calls of the control service would go on waiting for it
    control_.reset();
    sealer_.reset();
    if (sessions_ != nullptr) LOG(INFO) << "stopping: sessions";
    sessions_.reset();
    fetcher_.reset();
    if (cache_.cache != nullptr) {
      const Status flushed = cache_.cache->Flush();
      LOG_IF(ERROR, !flushed) << "cache: what was filled last may have to be fetched again: " << flushed.error();
      LOG_IF(INFO, flushed.has_value()) << "stopping: cache is durable";
    }
  }

  Status StartParts() {
    if (options_.metrics_address.has_value()) {
      MLCACHE_ASSIGN_OR_RETURN(endpoint_, MetricsEndpoint::Start(*options_.metrics_address, metrics_));
    }
    LOG(INFO) << "metrics: " << (endpoint_ ? "http://" + endpoint_->address() + "/metrics" : "no endpoint");
    MLCACHE_ASSIGN_OR_RETURN(cache_, cache::OpenCache(options_.cache, clock_, metrics_));
    for (const cache::TierReport& tier : cache_.cache->Tiers()) {
      LOG(INFO) << "tier " << tier.directory << ": " << tier.kind << ", " << FormatSize(tier.used_bytes) << " of "
                << FormatSize(tier.capacity_bytes) << ", " << tier.objects << " objects, " << tier.state;
    }
    fetcher_ = fetch::MakeFetcher(options_.fetch, clock_, metrics_);
    LOG(INFO) << "fetcher: " << options_.fetch.demand_workers << " + " << options_.fetch.background_workers
              << " workers, " << FormatSize(options_.fetch.in_flight_bytes) << " in flight";
    session::SessionServerOptions session_options = options_.session;
    session_options.store.resources =
        std::make_shared<store::StoreResources>(session_options.store.shared, metrics_, clock_);
    const session::SessionDependencies session_parts{.cache = *cache_.cache,
                                                     .metadata = *cache_.metadata,
                                                     .nodes = *cache_.nodes,
                                                     .fetcher = *fetcher_,
                                                     .metrics = metrics_,
                                                     .clock = clock_};
    MLCACHE_ASSIGN_OR_RETURN(sessions_, session::StartSessionServer(session_options, session_parts));
    LOG(INFO) << "sessions: " << options_.socket_dir << "/session.sock";
    seal::SealerOptions seal_options{.request_timeout = options_.session.request_timeout};
    for (const cache::TierReport& tier : cache_.cache->Tiers()) {
      seal_options.tiers.push_back(std::filesystem::absolute(tier.directory).lexically_normal());
    }
    sealer_ = std::make_unique<seal::Sealer>(seal_options, *sessions_, *cache_.cache, *cache_.links, clock_);
    const rpc::ControlDependencies control_parts{.cache = *cache_.cache,
                                                 .fetcher = *fetcher_,
                                                 .sessions = *sessions_,
                                                 .metrics = metrics_,
                                                 .clock = clock_,
                                                 .sealer = sealer_.get()};
    const rpc::ControlOptions control_options{.socket_dir = options_.socket_dir,
                                              .metrics_address = endpoint_ ? endpoint_->address() : "",
                                              .request_timeout = options_.session.request_timeout};
    MLCACHE_ASSIGN_OR_RETURN(control_, rpc::ControlServer::Start(control_options, control_parts));
    LOG(INFO) << "control: " << ControlSocketPath(options_.socket_dir);
    return {};
  }

  std::string Summary() const override {
    std::string text = std::to_string(sessions_->Mounts().size()) + " mounts";
    for (const cache::TierReport& tier : cache_.cache->Tiers()) {
      text += "; " + tier.directory + " " + FormatSize(tier.used_bytes) + " of " + FormatSize(tier.capacity_bytes);
      if (tier.state != "ok") text += " (" + tier.state + ")";
    }
    return text;
  }

 private:
  const DaemonOptions options_;
  const Clock& clock_;
  SocketDirectory socket_directory_;
  Metrics metrics_;
  std::unique_ptr<MetricsEndpoint> endpoint_;
  cache::OpenedCache cache_;
  std::unique_ptr<fetch::Fetcher> fetcher_;
  std::unique_ptr<session::SessionServer> sessions_;
  std::unique_ptr<seal::Sealer> sealer_;
  std::unique_ptr<rpc::ControlServer> control_;
};

// The nearest directory on the way to `path` that exists.
std::filesystem::path ExistingAncestor(std::filesystem::path path) {
  std::error_code error;
  while (!std::filesystem::exists(path, error) && path.has_relative_path()) path = path.parent_path();
  return path;
}

Status CheckDirectory(const std::string& what, const std::string& directory) {
  const std::filesystem::path existing = ExistingAncestor(directory);
  struct stat attributes{};
  if (stat(existing.c_str(), &attributes) != 0) return FailErrno(errno, what + ": " + existing.string());
  if (!S_ISDIR(attributes.st_mode)) {
    return Fail(Code::kFailedPrecondition,
                what + ": " + existing.string() + " is not a directory; name another one or remove it");
  }
  if (access(existing.c_str(), R_OK | W_OK | X_OK) != 0) {
    const int error = errno;
    return FailErrno(error, what + ": user " + std::to_string(geteuid()) + " cannot write to " + existing.string() +
                                " (chown it to the daemon's user, or run mlcached as its owner)");
  }
  return {};
}

// Each mount reads the file anew; here it is only seen to be good.
Status CheckCredentials(const DaemonOptions& options) {
  if (options.session.credentials_file.empty()) return {};
  MLCACHE_RETURN_IF_ERROR(session::CredentialTable::Read(options.session.credentials_file));
  return {};
}

Status CheckTier(const cache::TierOptions& tier, uint64_t floor_bytes) {
  const std::string what = "--tier=" + tier.directory + ":" + std::to_string(tier.capacity_bytes);
  std::error_code error;
  if (!std::filesystem::is_directory(tier.directory, error)) {
    return Fail(Code::kNotFound, what + ": " + tier.directory +
                                     " is not a directory; make it (mkdir -p) and give it to the daemon's user");
  }
  MLCACHE_RETURN_IF_ERROR(CheckDirectory(what, tier.directory));
  struct statvfs room{};
  if (statvfs(tier.directory.c_str(), &room) != 0) return FailErrno(errno, what);
  if (static_cast<uint64_t>(room.f_blocks) * room.f_frsize < tier.capacity_bytes)
    LOG(WARNING) << what << ": the file system is smaller than this budget, so the tier will not reach it";
  if (static_cast<uint64_t>(room.f_bavail) * room.f_frsize < floor_bytes)
    LOG(WARNING) << what << ": less room is free than --free_space_floor asks for, so the tier will not grow";
  return {};
}

}  // namespace

Result<std::unique_ptr<Daemon>> Daemon::Start(const DaemonOptions& options, const Clock& clock) {
  LOG(INFO) << "mlcached " << kVersion << ", process " << getpid() << ", user " << geteuid();
  MLCACHE_RETURN_IF_ERROR(CheckCredentials(options));
  MLCACHE_ASSIGN_OR_RETURN(SocketDirectory directory, SocketDirectory::Hold(options.socket_dir));
  auto daemon = std::make_unique<RunningDaemon>(options, clock, std::move(directory));
  MLCACHE_RETURN_IF_ERROR(daemon->StartParts());
  return daemon;
}

Status CheckEnvironment(const DaemonOptions& options) {
  MLCACHE_RETURN_IF_ERROR(CheckSocketPathLength(options.socket_dir));
  MLCACHE_RETURN_IF_ERROR(CheckDirectory("--socket_dir=" + options.socket_dir, options.socket_dir));
  MLCACHE_RETURN_IF_ERROR(CheckCredentials(options));
  for (const cache::TierOptions& tier : options.cache.tiers)
    MLCACHE_RETURN_IF_ERROR(CheckTier(tier, options.cache.free_space_floor_bytes));
  const Result<store::SeaweedSecurity> security = store::LoadSeaweedSecurity(options.session.store.seaweedfs_security);
  if (!security) return std::unexpected(security.error());
  return {};
}

}  // namespace mlcache
