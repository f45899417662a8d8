// A control service with canned answers, on a socket of its own. What was asked is kept. Thread-safe.
#pragma once

#include <grpcpp/grpcpp.h>

#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "proto/control.grpc.pb.h"
#include "proto/control_address.h"

namespace mlcache::testing {

class FakeControlServer final : public control::Control::Service {
 public:
  explicit FakeControlServer(const std::string& socket_dir) {
    std::filesystem::create_directories(socket_dir);
    grpc::ServerBuilder builder;
    builder.AddListeningPort(GrpcUnixAddress(ControlSocketPath(socket_dir)), grpc::InsecureServerCredentials());
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~FakeControlServer() override { server_->Shutdown(); }

  // The answers, and how every call but Mounts ends; set before a call.
  control::StatusReply status;
  control::StatsReply stats;
  control::MountsReply mounts;
  std::vector<control::WarmupProgress> warmup;
  std::vector<control::CheckReply> check;
  control::EvictReply evict;
  control::InvalidateReply invalidate;
  control::SealReply seal;
  control::PlanReply plan;
  grpc::Status end = grpc::Status::OK;

  void AddMount(const std::string& mountpoint) {
    control::Mount& mount = *mounts.add_mounts();
    mount.set_mountpoint(mountpoint);
    mount.set_store_url("file:///data");
  }

  bool seal_off() const {
    const std::lock_guard lock(mutex_);
    return seal_off_;
  }

  // Of the last call of Plan.
  std::vector<control::PlanPart> plan_parts() const {
    const std::lock_guard lock(mutex_);
    return plan_parts_;
  }

  // Of the last call with targets.
  control::TargetRequest request() const {
    const std::lock_guard lock(mutex_);
    return request_;
  }

  grpc::Status Status(grpc::ServerContext* /*context*/, const control::StatusRequest* /*request*/,
                      control::StatusReply* reply) override {
    *reply = status;
    return end;
  }
  grpc::Status Stats(grpc::ServerContext* /*context*/, const control::StatsRequest* /*request*/,
                     control::StatsReply* reply) override {
    *reply = stats;
    return end;
  }
  grpc::Status Mounts(grpc::ServerContext* /*context*/, const control::MountsRequest* /*request*/,
                      control::MountsReply* reply) override {
    *reply = mounts;
    return grpc::Status::OK;
  }
  grpc::Status Warmup(grpc::ServerContext* /*context*/, const control::TargetRequest* request,
                      grpc::ServerWriter<control::WarmupProgress>* writer) override {
    Keep(*request);
    for (const control::WarmupProgress& progress : warmup) writer->Write(progress);
    return end;
  }
  grpc::Status Check(grpc::ServerContext* /*context*/, const control::TargetRequest* request,
                     grpc::ServerWriter<control::CheckReply>* writer) override {
    Keep(*request);
    for (const control::CheckReply& reply : check) writer->Write(reply);
    return end;
  }
  grpc::Status Evict(grpc::ServerContext* /*context*/, const control::TargetRequest* request,
                     control::EvictReply* reply) override {
    Keep(*request);
    *reply = evict;
    return end;
  }
  grpc::Status Invalidate(grpc::ServerContext* /*context*/, const control::TargetRequest* request,
                          control::InvalidateReply* reply) override {
    Keep(*request);
    *reply = invalidate;
    return end;
  }

  grpc::Status Seal(grpc::ServerContext* /*context*/, const control::SealRequest* request,
                    control::SealReply* reply) override {
    control::TargetRequest targets;
    *targets.mutable_targets() = request->targets();
    Keep(targets);
    const std::lock_guard lock(mutex_);
    seal_off_ = request->off();
    *reply = seal;
    return end;
  }

  grpc::Status Plan(grpc::ServerContext* /*context*/, grpc::ServerReader<control::PlanPart>* reader,
                    control::PlanReply* reply) override {
    std::vector<control::PlanPart> parts;
    for (control::PlanPart part; reader->Read(&part);) parts.push_back(part);
    const std::lock_guard lock(mutex_);
    plan_parts_ = std::move(parts);
    *reply = plan;
    return end;
  }

 private:
  void Keep(const control::TargetRequest& request) {
    const std::lock_guard lock(mutex_);
    request_ = request;
  }

  mutable std::mutex mutex_;
  control::TargetRequest request_;
  std::vector<control::PlanPart> plan_parts_;
  bool seal_off_ = false;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace mlcache::testing
