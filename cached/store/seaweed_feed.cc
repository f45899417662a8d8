#include "cached/store/seaweed_feed.h"

#include <glog/logging.h>

#include <algorithm>
#include <random>
#include <string_view>
#include <utility>

namespace mlcache::store {
namespace {

// A filer that can be asked but refuses the position so often has lost that part of its log.
constexpr int kRefusalsUntilLost = 3;

std::string Join(const std::string& directory, const std::string& name) {
  return directory.ends_with('/') ? directory + name : directory + "/" + name;
}

void Add(const std::string& full, bool directory, const std::string& root, std::vector<ChangeEvent>& events) {
  // A change of the root itself or of a directory above it changes everything below.
  const std::string self = root.empty() ? "/" : root;
  const bool above = full == self || full == "/" || self.starts_with(full + "/");
  if (above && directory) {
    events.push_back({.path = "", .subtree = true});
  } else if (full.starts_with(root + "/") && full.size() > root.size() + 1) {
    events.push_back({.path = full.substr(root.size() + 1), .subtree = directory});
  }
}

void AddChanges(const filer_pb::SubscribeMetadataResponse& reply, const std::string& root,
                std::vector<ChangeEvent>& events) {
  const filer_pb::EventNotification& event = reply.event_notification();
  std::string old_path;
  if (event.has_old_entry()) {
    old_path = Join(reply.directory(), event.old_entry().name());
    Add(old_path, event.old_entry().is_directory(), root, events);
  }
  if (event.has_new_entry()) {
    const std::string& parent = event.new_parent_path().empty() ? reply.directory() : event.new_parent_path();
    const std::string new_path = Join(parent, event.new_entry().name());
    if (new_path != old_path) Add(new_path, event.new_entry().is_directory(), root, events);
  }
}

int32_t RandomId() {
  std::random_device random;
  return std::uniform_int_distribution<int32_t>(1, INT32_MAX)(random);
}

}  // namespace

std::vector<ChangeEvent> ChangesOf(const filer_pb::SubscribeMetadataResponse& reply, const std::string& root) {
  std::vector<ChangeEvent> events;
  AddChanges(reply, root, events);
  for (const filer_pb::SubscribeMetadataResponse& one : reply.events()) AddChanges(one, root, events);
  return events;
}

SeaweedFeed::SeaweedFeed(SeaweedFiler& filer, std::string root, const SeaweedFeedOptions& options, const Clock& clock,
                         PauseFunction pause)
    : filer_(filer),
      root_(std::move(root)),
      options_(options),
      clock_(clock),
      pause_(std::move(pause)),
      client_id_(RandomId()) {}

Status SeaweedFeed::Position(const CallContext& context) {
  MLCACHE_ASSIGN_OR_RETURN(const filer_pb::LookupDirectoryEntryResponse root, filer_.Lookup("/", context));
  // An older filer does not tell its position.
  since_ns_ = root.log_ts_ns() != 0 ? root.log_ts_ns() : clock_.WallNow().count();
  since_ns_ -= (clock_.Now() - heard_at_ + options_.overlap).count();
  return {};
}

Status SeaweedFeed::FollowOnce(const ChangeSink& sink, const CallContext& context) {
  filer_pb::SubscribeMetadataRequest request;
  request.set_client_name("mlcache");
  request.set_path_prefix(root_.empty() ? "/" : root_);
  request.set_since_ns(since_ns_ - (epoch_ == 0 ? 0 : options_.overlap.count()));
  request.set_client_id(client_id_);
  request.set_client_epoch(++epoch_);
  request.set_client_supports_batching(true);
  request.set_client_supports_idle_heartbeat(true);
  const auto take = [&](const filer_pb::SubscribeMetadataResponse& reply) {
    heard_at_ = clock_.Now();
    failures_ = 0;
    for (const ChangeEvent& event : ChangesOf(reply, root_)) sink(event);
    // A heartbeat's time is the filer's clock, not a place in its log.
    if (reply.has_event_notification()) since_ns_ = std::max(since_ns_, reply.ts_ns());
    for (const filer_pb::SubscribeMetadataResponse& one : reply.events()) since_ns_ = std::max(since_ns_, one.ts_ns());
    return !context.stop.stop_requested();
  };
  return filer_.Subscribe(request, take, context);
}

Status SeaweedFeed::Run(const ChangeSink& sink, const CallContext& context) {
  Nanos backoff = options_.first_backoff;
  bool positioned = false;
  bool lost = false;
  heard_at_ = clock_.Now();
  while (!context.stop.stop_requested()) {
    Status status;
    if (!positioned) {
      lost = lost || clock_.Now() - heard_at_ > options_.longest_gap;
      if (lost) heard_at_ = clock_.Now();
      status = Position(context);
      positioned = status.has_value();
      if (positioned && lost) sink({.path = "", .subtree = true});
      if (positioned) lost = false;
    }
    if (positioned) {
      const Nanos began = clock_.Now();
      status = FollowOnce(sink, context);
      if (context.stop.stop_requested()) break;
      if (heard_at_ >= began) backoff = options_.first_backoff;
      if (!status && status.error().code() == Code::kUnimplemented) return status;
      ++failures_;
      const bool refused = failures_ >= kRefusalsUntilLost && filer_.Lookup("/", context).has_value();
      lost = refused || clock_.Now() - heard_at_ > options_.longest_gap;
      positioned = !lost;
      if (lost) failures_ = 0;
      LOG_IF(WARNING, lost) << "SeaweedFS change feed of " << (root_.empty() ? "/" : root_)
                            << ": cannot go on where it stopped; all metadata is asked for again";
    }
    LOG_IF_EVERY_N(INFO, !status, 10) << "SeaweedFS change feed: " << status.error() << "; trying again";
    if (!pause_(backoff, context)) break;
    backoff = std::min(backoff * 2, options_.longest_backoff);
  }
  return {};
}

}  // namespace mlcache::store
