#include "cached/session/handshake.h"

#include <glog/logging.h>
#include <unistd.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "cached/session/path.h"
#include "common/ring/wire.h"
#include "common/version.h"

namespace mlcache::session {
namespace {

constexpr uint32_t kMaxPairs = 64;
constexpr size_t kMaxTextBytes = 4096;  // of each text in a Hello, and of a refusal
constexpr uint32_t kMaxPrefetchWorkers = 1024;

bool IsTrusted(const ring::PeerIdentity& peer) { return peer.uid == 0 || peer.uid == geteuid(); }

bool IsText(const std::string& text) { return text.size() <= kMaxTextBytes && text.find('\0') == std::string::npos; }

}  // namespace

Result<Hello> ParseHello(const std::string& bytes) {
  Hello hello;
  if (!hello.ParseFromString(bytes))
    return Fail(Code::kInvalidArgument, "the first message is no Hello: is this mlcache-mount, and of this release?");
  if (hello.protocol_version() != ring::kProtocolVersion) {
    return Fail(Code::kFailedPrecondition,
                "mlcached " + std::string(kVersion) + " speaks protocol " + std::to_string(ring::kProtocolVersion) +
                    ", mlcache-mount " + hello.program_version() + " speaks protocol " +
                    std::to_string(hello.protocol_version()) + ": install both from one release, restart the daemon");
  }
  const bool texts = IsText(hello.store_url()) && IsText(hello.mountpoint()) && IsText(hello.options().job()) &&
                     IsText(hello.options().credential()) && IsText(hello.options().open_mode()) &&
                     IsText(hello.options().ml_dataset_path());
  if (!texts) return Fail(Code::kInvalidArgument, "a text in the Hello is longer than 4096 bytes or holds a NUL");
  if (hello.workers() < 1 || hello.workers() > kMaxPairs)
    return Fail(Code::kInvalidArgument, "a mount has 1 to 64 workers, not " + std::to_string(hello.workers()));
  return hello;
}

Status MayMount(const ring::PeerIdentity& peer, const SessionServerOptions& options) {
  if (IsTrusted(peer) || !options.allowed_uids) return {};
  if (std::ranges::find(*options.allowed_uids, peer.uid) != options.allowed_uids->end()) return {};
  return Fail(
      Code::kPermissionDenied,
      "user " + std::to_string(peer.uid) +
          " is not among the users that this daemon lets mount: its administrator lists them in --allowed_uids");
}

Result<CredentialProfile> CredentialOf(const Hello& hello, const ring::PeerIdentity& peer,
                                       const SessionServerOptions& options) {
  const std::string& name = hello.options().credential();
  MLCACHE_ASSIGN_OR_RETURN(const store::StoreUrl url, store::ParseStoreUrl(hello.store_url()));
  const bool picks_keys = url.options.contains("profile");
  if (picks_keys && !IsTrusted(peer)) {
    return Fail(Code::kPermissionDenied,
                "?profile= in a store URL is for root and the daemon's own user: mount with "
                "-o credential=NAME, a profile that the daemon's administrator made for you");
  }
  if (name.empty()) {
    MLCACHE_RETURN_IF_ERROR(MayMount(peer, options));
    return CredentialProfile();
  }
  if (url.scheme != "s3")
    return Fail(Code::kInvalidArgument,
                "credential=" + name + " chooses keys of s3:// stores: leave it out for " + url.scheme + "://");
  if (picks_keys) return Fail(Code::kInvalidArgument, "credential= and ?profile= both choose keys: give one of them");
  if (options.credentials_file.empty()) {
    return Fail(Code::kNotFound, "this daemon has no credential profile '" + name +
                                     "': start mlcached with --credentials=FILE, or leave out credential= to use the "
                                     "daemon's own keys");
  }
  MLCACHE_ASSIGN_OR_RETURN(const CredentialTable table, CredentialTable::Read(options.credentials_file));
  return table.Choose(name, peer.uid, IsTrusted(peer));
}

Status CheckOptions(const MountOptions& options) {
  if (!options.read_only())
    return Fail(Code::kUnimplemented,
                "mlcached " + std::string(kVersion) + " serves read-only mounts: mount with -o ro");
  if (options.ml_prefetch_workers() > kMaxPrefetchWorkers) {
    return Fail(Code::kInvalidArgument, "ml.prefetchWorkers is at most " + std::to_string(kMaxPrefetchWorkers) +
                                            ", not " + std::to_string(options.ml_prefetch_workers()));
  }
  return {};
}

prefetch::PacerOptions PacerOptionsOf(const MountOptions& options) {
  prefetch::PacerOptions pacer;
  pacer.optimizes = !options.has_ml_optimization() || options.ml_optimization();
  if (options.has_ml_prefetch_workers()) pacer.workers = options.ml_prefetch_workers();
  return pacer;
}

Result<std::optional<std::string>> DatasetOf(const MountOptions& options, Volume& volume, Nanos max_age,
                                             const store::CallContext& context) {
  const std::string& given = options.ml_dataset_path();
  if (given.empty()) return std::nullopt;
  const std::string option = "ml.datasetPath=" + given;
  Result<std::string> path = CleanPath(given);
  if (!path.has_value() || !IsValidPath(*path))
    return Fail(Code::kInvalidArgument, option + " is no path below the mountpoint, as in ml.datasetPath=/train");
  const Result<store::ObjectInfo> info = volume.Stat(*path, max_age, context);
  if (!info.has_value() && info.error().code() == Code::kNotFound) {
    return Fail(Code::kNotFound, option + ": there is no such directory in " + volume.url().Canonical() +
                                     " (the path is the one below the mountpoint)");
  }
  if (info.has_value() && info->type != store::FileType::kDirectory)
    return Fail(Code::kInvalidArgument, option + " is no directory of " + volume.url().Canonical());
  return *std::move(path);
}

View ViewOf(const MountOptions& options, const VolumeOptions& volume) {
  constexpr uint64_t kLongest = uint64_t{366} * 24 * 3600 * 1'000'000'000;
  View view;
  if (options.has_uid()) view.uid = options.uid();
  if (options.has_gid()) view.gid = options.gid();
  if (options.has_umask()) view.umask = options.umask();
  view.immutable = options.immutable();
  view.attr_ttl = Nanos(static_cast<int64_t>(std::min(options.attr_ttl_ns(), kLongest)));
  view.negative_ttl = volume.negative_ttl;
  return view;
}

Status SendWelcome(int socket, const ring::DaemonChannel& channel, uint64_t generation,
                   const std::vector<cache::ObjectsDirectory>& directories) {
  MLCACHE_ASSIGN_OR_RETURN(const ring::ChannelDescriptors descriptors, channel.Descriptors());
  std::vector<int> fds = {descriptors.control.get(), descriptors.arena.get(), descriptors.submission_doorbell.get(),
                          descriptors.notification_doorbell.get()};
  for (const UniqueFd& doorbell : descriptors.completion_doorbells) fds.push_back(doorbell.get());
  Welcome welcome;
  welcome.set_generation(generation);
  welcome.set_queue_pairs(static_cast<uint32_t>(descriptors.completion_doorbells.size()));
  welcome.set_program_version(kVersion);
  for (const cache::ObjectsDirectory& directory : directories) {
    ObjectsDirectory& sent = *welcome.add_objects_directories();
    sent.set_path(directory.path);
    sent.set_device(directory.device);
    sent.set_inode(directory.inode);
  }
  return ring::Send(socket, welcome.SerializeAsString(), fds);
}

void SendRefusal(int socket, const Error& error) {
  Welcome welcome;
  welcome.set_code(static_cast<int32_t>(error.code()));
  // proto3 texts are UTF-8; paths need not be.
  std::string message = error.message().substr(0, kMaxTextBytes);
  std::ranges::replace_if(message, [](char c) { return static_cast<unsigned char>(c) >= 0x80; }, '?');
  welcome.set_message(std::move(message));
  welcome.set_program_version(kVersion);
  const Status sent = ring::Send(socket, welcome.SerializeAsString(), {});
  if (!sent.has_value()) VLOG(1) << "refusing a mount: " << sent.error();
}

}  // namespace mlcache::session
