// The calls of control.proto. Thread-safe.
#pragma once

#include "cached/rpc/control_server.h"
#include "proto/control.grpc.pb.h"

namespace mlcache::rpc {

class ControlService final : public control::Control::Service {
 public:
  ControlService(const ControlOptions& options, const ControlDependencies& dependencies);

  grpc::Status Status(grpc::ServerContext* context, const control::StatusRequest* request,
                      control::StatusReply* reply) override;
  grpc::Status Stats(grpc::ServerContext* context, const control::StatsRequest* request,
                     control::StatsReply* reply) override;
  grpc::Status Mounts(grpc::ServerContext* context, const control::MountsRequest* request,
                      control::MountsReply* reply) override;
  grpc::Status Warmup(grpc::ServerContext* context, const control::TargetRequest* request,
                      grpc::ServerWriter<control::WarmupProgress>* writer) override;
  grpc::Status Check(grpc::ServerContext* context, const control::TargetRequest* request,
                     grpc::ServerWriter<control::CheckReply>* writer) override;
  grpc::Status Evict(grpc::ServerContext* context, const control::TargetRequest* request,
                     control::EvictReply* reply) override;
  grpc::Status Invalidate(grpc::ServerContext* context, const control::TargetRequest* request,
                          control::InvalidateReply* reply) override;
  grpc::Status Seal(grpc::ServerContext* context, const control::SealRequest* request,
                    control::SealReply* reply) override;
  grpc::Status Plan(grpc::ServerContext* context, grpc::ServerReader<control::PlanPart>* reader,
                    control::PlanReply* reply) override;

 private:
  const ControlOptions options_;
  const ControlDependencies parts_;
  const Nanos started_;       // on Clock::Now
  const Nanos started_wall_;  // since 1970
};

}  // namespace mlcache::rpc
