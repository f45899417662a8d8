#include "shim/view_service.h"

#include <glog/logging.h>

#include <utility>

namespace mlcache::shim {

ViewService::ViewService(ViewOptions options, std::string device, std::string allowed, SharedState& state)
    : options_(std::move(options)), device_(std::move(device)), allowed_(std::move(allowed)), state_(state) {}

void ViewService::Tell(uint64_t shown, uint64_t failed, const std::string& reason) {
  RememberView(state_, {.shown = shown, .failed = failed, .reason = reason});
}

void ViewService::Failed(const Error& error) {
  LOG(INFO) << options_.mountpoint << " is not sealed: " << error.message();
  build_.reset();
  if (view_ == nullptr) image_.Reset();
  Tell(view_ == nullptr ? 0 : view_->id(), std::exchange(building_, 0), error.message());
}

Status ViewService::Show(const keeper::ShowView& wanted, std::vector<UniqueFd> descriptors) {
  if (!allowed_.empty()) return Fail(Code::kFailedPrecondition, allowed_);
  if (view_ != nullptr || build_ != nullptr) return Fail(Code::kAlreadyExists, "a view is shown already");
  const auto layers = static_cast<size_t>(wanted.layers().size());
  if (wanted.view() == 0 || layers == 0 || descriptors.size() != layers + 1)
    return Fail(Code::kInvalidArgument, "a view without an id, layers or descriptors");
  ViewParts parts;
  parts.id = wanted.view();
  parts.metadata = std::move(descriptors[0]);
  parts.over_mount = wanted.over_mount();
  for (size_t i = 0; i < layers; ++i) {
    parts.layers.push_back({std::move(descriptors[i + 1]), wanted.layers(static_cast<int>(i))});
  }
  MLCACHE_ASSIGN_OR_RETURN(build_, ViewBuild::Start(parts, options_, device_));
  building_ = wanted.view();
  image_ = std::move(parts.metadata);
  return {};
}

void ViewService::Progress() {
  if (build_ == nullptr) return;
  std::optional<Result<UniqueFd>> mount = build_->Take();
  if (!mount.has_value()) return;
  if (!mount->has_value()) return Failed(mount->error());
  // Only now, for whoever has it open keeps a user from unmounting it.
  Result<UniqueFd> fuse = FuseRoot(options_.mountpoint, device_);
  if (!fuse.has_value()) return Failed(fuse.error());
  Result<std::unique_ptr<SealedView>> view =
      SealedView::Show(building_, std::move(**mount), *std::move(fuse), options_.mountpoint);
  if (!view.has_value()) return Failed(view.error());
  view_ = *std::move(view);
  build_.reset();
  building_ = 0;
  LOG(INFO) << options_.mountpoint << " is sealed";
  Tell(view_->id(), 0, "");
}

Status ViewService::Withdraw() {
  if (build_ != nullptr) Failed(Error(Code::kCancelled, "called off before it was shown"));
  if (view_ == nullptr) return {};
  const Status withdrawn = view_->Withdraw();
  if (!withdrawn.has_value()) {
    Tell(view_->id(), view_->id(), withdrawn.error().message());
    return withdrawn;
  }
  view_.reset();
  image_.Reset();
  LOG(INFO) << options_.mountpoint << " is unsealed";
  Tell(0, 0, "");
  return {};
}

void ViewService::LookAtMounts() {
  if (view_ == nullptr || view_->IsShown()) return;
  view_.reset();
  image_.Reset();
  Tell(0, 0, "");
}

void ViewService::Unmount() {
  build_.reset();
  if (view_ != nullptr) view_->Unmount();
  view_.reset();
  image_.Reset();
}

}  // namespace mlcache::shim
