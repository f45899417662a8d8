#include "cached/rpc/control_service.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <set>
#include <string>
#include <utility>

#include "cached/metrics/metrics.h"
#include "cached/rpc/plan.h"
#include "cached/rpc/targets.h"
#include "cached/rpc/warmup.h"
#include "cached/seal/sealer.h"
#include "cached/session/volume.h"
#include "cached/session/walk.h"
#include "common/version.h"

namespace mlcache::rpc {
namespace {

// What was asked for, until the mount has told what it found.
std::string ModeOf(const session::MountReport& mount) {
  if (mount.serving_mode.empty()) return mount.open_mode;
  return mount.serving_reason.empty() ? mount.serving_mode : mount.serving_mode + ": " + mount.serving_reason;
}

constexpr std::string_view kTierOk = "ok";

// Versions are bytes; what does not print becomes \xNN.
std::string Printable(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) {
    if (c >= 0x20 && c < 0x7f && c != '\\') {
      text += c;
    } else {
      std::array<char, 8> escaped{};
      std::snprintf(escaped.data(), escaped.size(), "\\x%02x", static_cast<unsigned char>(c));
      text += escaped.data();
    }
  }
  return text;
}

class StreamObserver final : public WarmupObserver {
 public:
  StreamObserver(grpc::ServerContext& context, grpc::ServerWriter<control::WarmupProgress>& writer)
      : context_(context), writer_(writer) {}
  bool Report(const control::WarmupProgress& progress) override { return writer_.Write(progress); }
  bool Cancelled() override { return context_.IsCancelled(); }

 private:
  grpc::ServerContext& context_;
  grpc::ServerWriter<control::WarmupProgress>& writer_;
};

// One CheckReply a file.
class CheckVisitor final : public session::TreeVisitor {
 public:
  CheckVisitor(const ResolvedTarget& target, cache::ObjectCache& cache, grpc::ServerContext& context,
               grpc::ServerWriter<control::CheckReply>& writer)
      : target_(target), cache_(cache), context_(context), writer_(writer) {}

  bool VisitFile(const std::string& path, const store::ObjectInfo& info) override {
    control::CheckReply reply;
    reply.set_path(target_.Display(path));
    reply.set_size(info.size);
    reply.set_version(Printable(info.version));
    if (const auto object = cache_.Find(session::KeyOf(target_.volume->url(), path, info)); object != nullptr) {
      reply.set_cached_bytes(object->CachedBytes());
      reply.set_tier(object->TierKind());
    }
    return writer_.Write(reply) && !context_.IsCancelled();
  }

  void VisitDirectory(const std::string& /*path*/) override {}

  void VisitFailure(const std::string& path, const Error& error) override {
    control::CheckReply reply;
    reply.set_path(target_.Display(path));
    *reply.mutable_failure() = MakeFailure(target_.Display(path), error);
    writer_.Write(reply);
  }

 private:
  const ResolvedTarget& target_;
  cache::ObjectCache& cache_;
  grpc::ServerContext& context_;
  grpc::ServerWriter<control::CheckReply>& writer_;
};

class EvictVisitor final : public session::TreeVisitor {
 public:
  EvictVisitor(const ResolvedTarget& target, cache::ObjectCache& cache, grpc::ServerContext& context,
               control::EvictReply& reply)
      : target_(target), cache_(cache), context_(context), reply_(reply) {}

  bool VisitFile(const std::string& path, const store::ObjectInfo& info) override {
    const uint64_t bytes = cache_.Evict(session::KeyOf(target_.volume->url(), path, info));
    if (bytes > 0) reply_.set_files(reply_.files() + 1);
    reply_.set_bytes(reply_.bytes() + bytes);
    return !context_.IsCancelled();
  }

  void VisitDirectory(const std::string& /*path*/) override {}

  void VisitFailure(const std::string& path, const Error& error) override {
    *reply_.add_failures() = MakeFailure(target_.Display(path), error);
  }

 private:
  const ResolvedTarget& target_;
  cache::ObjectCache& cache_;
  grpc::ServerContext& context_;
  control::EvictReply& reply_;
};

grpc::Status CalledOff() { return {grpc::StatusCode::CANCELLED, "called off"}; }

}  // namespace

ControlService::ControlService(const ControlOptions& options, const ControlDependencies& dependencies)
    : options_(options),
      parts_(dependencies),
      started_(dependencies.clock.Now()),
      started_wall_(dependencies.clock.WallNow()) {}

grpc::Status ControlService::Status(grpc::ServerContext* /*context*/, const control::StatusRequest* /*request*/,
                                    control::StatusReply* reply) {
  reply->set_version(kVersion);
  reply->set_pid(getpid());
  reply->set_uptime_ns(static_cast<uint64_t>((parts_.clock.Now() - started_).count()));
  reply->set_started_ns(static_cast<uint64_t>(started_wall_.count()));
  reply->set_socket_dir(options_.socket_dir);
  reply->set_metrics_address(options_.metrics_address);
  reply->set_mounts(static_cast<uint32_t>(parts_.sessions.Mounts().size()));
  for (const cache::TierReport& tier : parts_.cache.Tiers()) {
    control::TierStatus& row = *reply->add_tiers();
    row.set_directory(tier.directory);
    row.set_kind(tier.kind);
    row.set_capacity_bytes(tier.capacity_bytes);
    row.set_used_bytes(tier.used_bytes);
    row.set_objects(tier.objects);
    row.set_state(tier.state);
    if (tier.state != kTierOk) reply->add_alarms("tier " + tier.directory + " is bypassed: " + tier.state);
  }
  return grpc::Status::OK;
}

grpc::Status ControlService::Stats(grpc::ServerContext* /*context*/, const control::StatsRequest* /*request*/,
                                   control::StatsReply* reply) {
  reply->set_json(parts_.metrics.Json());
  return grpc::Status::OK;
}

grpc::Status ControlService::Mounts(grpc::ServerContext* /*context*/, const control::MountsRequest* /*request*/,
                                    control::MountsReply* reply) {
  for (const session::MountReport& mount : parts_.sessions.Mounts()) {
    control::Mount& row = *reply->add_mounts();
    row.set_mountpoint(mount.mountpoint);
    row.set_store_url(mount.store_url);
    row.set_pid(mount.pid);
    row.set_uid(mount.uid);
    row.set_job(mount.job);
    row.set_read_only(mount.read_only);
    row.set_immutable(mount.immutable);
    row.set_connected_ns(static_cast<uint64_t>(mount.connected_at.count()));
    row.set_requests(mount.requests);
    row.set_mode(ModeOf(mount));
    if (parts_.sealer != nullptr) row.set_sealed(parts_.sealer->Describe(mount.mount_id));
  }
  return grpc::Status::OK;
}

grpc::Status ControlService::Warmup(grpc::ServerContext* context, const control::TargetRequest* request,
                                    grpc::ServerWriter<control::WarmupProgress>* writer) {
  const ResolvedTargets targets = ResolveAll(*request, parts_.sessions);
  StreamObserver observer(*context, *writer);
  const WarmupOptions options{.metadata_only = request->metadata_only(), .request_timeout = options_.request_timeout};
  const auto ended = RunWarmup(targets, options, parts_.fetcher, parts_.clock, observer);
  return ended ? grpc::Status::OK : CalledOff();
}

grpc::Status ControlService::Check(grpc::ServerContext* context, const control::TargetRequest* request,
                                   grpc::ServerWriter<control::CheckReply>* writer) {
  const ResolvedTargets targets = ResolveAll(*request, parts_.sessions);
  for (const control::Failure& failure : targets.failures) {
    control::CheckReply reply;
    reply.set_path(failure.path());
    *reply.mutable_failure() = failure;
    writer->Write(reply);
  }
  for (const ResolvedTarget& target : targets.targets) {
    CheckVisitor visitor(target, parts_.cache, *context, *writer);
    const session::WalkOptions walk{.request_timeout = options_.request_timeout, .priority = store::Priority::kDemand};
    if (!session::Walk(*target.volume, target.path, walk, parts_.clock, visitor)) return CalledOff();
  }
  return grpc::Status::OK;
}

grpc::Status ControlService::Evict(grpc::ServerContext* context, const control::TargetRequest* request,
                                   control::EvictReply* reply) {
  const ResolvedTargets targets = ResolveAll(*request, parts_.sessions);
  for (const control::Failure& failure : targets.failures) *reply->add_failures() = failure;
  for (const ResolvedTarget& target : targets.targets) {
    if (parts_.sealer != nullptr) parts_.sealer->Release(*target.volume, target.path);
    EvictVisitor visitor(target, parts_.cache, *context, *reply);
    // What is cached is of the version last seen, so the metadata at hand are the right ones, whatever the store has.
    const session::WalkOptions walk{
        .max_age = Nanos::max(), .request_timeout = options_.request_timeout, .priority = store::Priority::kDemand};
    if (!session::Walk(*target.volume, target.path, walk, parts_.clock, visitor)) return CalledOff();
  }
  return grpc::Status::OK;
}

grpc::Status ControlService::Invalidate(grpc::ServerContext* /*context*/, const control::TargetRequest* request,
                                        control::InvalidateReply* reply) {
  const ResolvedTargets targets = ResolveAll(*request, parts_.sessions);
  for (const control::Failure& failure : targets.failures) *reply->add_failures() = failure;
  for (const ResolvedTarget& target : targets.targets) {
    // First, for names under a view must not be taken from the kernel (docs/sealed.md).
    if (parts_.sealer != nullptr) parts_.sealer->Release(*target.volume, target.path);
    reply->set_entries(reply->entries() + target.volume->Invalidate(target.path));
    parts_.sessions.NotifyInvalidated(*target.volume, target.path);
  }
  return grpc::Status::OK;
}

grpc::Status ControlService::Plan(grpc::ServerContext* context, grpc::ServerReader<control::PlanPart>* reader,
                                  control::PlanReply* reply) {
  control::PlanPart part;
  if (!reader->Read(&part)) return CalledOff();
  PlanCall call(part, parts_.sessions);
  while (!part.last()) {
    call.Add(part);
    if (!reader->Read(&part) || context->IsCancelled()) return CalledOff();  // of half an order nothing is kept
  }
  call.Add(part);
  const mlcache::Status done = call.Run(*reply);
  if (done.has_value()) return grpc::Status::OK;
  return {static_cast<grpc::StatusCode>(done.error().code()), done.error().message()};
}

grpc::Status ControlService::Seal(grpc::ServerContext* /*context*/, const control::SealRequest* request,
                                  control::SealReply* reply) {
  const std::vector<session::MountReport> mounts = parts_.sessions.Mounts();
  std::set<std::string> done;
  for (const control::Target& target : request->targets()) {
    const std::string& mountpoint = target.mountpoint();
    const std::string name = mountpoint.empty() ? target.store_url() : mountpoint;
    const auto mount = std::ranges::find(mounts, mountpoint, &session::MountReport::mountpoint);
    if (mount == mounts.end() || parts_.sealer == nullptr) {
      const Error error(Code::kNotFound, "is no live mount; a view is what a mountpoint shows, so name one");
      *reply->add_failures() = MakeFailure(name, error);
      continue;
    }
    if (!done.insert(mountpoint).second) continue;
    Result<std::string> sealed = std::string("no: unsealed by order");
    if (request->off()) {
      const mlcache::Status unsealed = parts_.sealer->Unseal(mount->mount_id);
      if (!unsealed.has_value()) sealed = std::unexpected(unsealed.error());
    } else {
      sealed = parts_.sealer->Seal(mount->mount_id);
    }
    if (!sealed.has_value()) {
      *reply->add_failures() = MakeFailure(name, sealed.error());
      continue;
    }
    control::SealedMount& row = *reply->add_mounts();
    row.set_mountpoint(mountpoint);
    row.set_sealed(*sealed);
  }
  return grpc::Status::OK;
}

}  // namespace mlcache::rpc
