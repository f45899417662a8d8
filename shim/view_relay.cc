#include "shim/view_relay.h"

#include <glog/logging.h>

#include <utility>

#include "common/ring/socket.h"

namespace mlcache::shim {
namespace {

constexpr int kSoonMs = 20;
constexpr int kSeldomMs = 1000;
constexpr int kLooksWhileWaiting = 6000;  // two minutes

}  // namespace

void ViewRelay::Heard(const session::FromDaemon& message, const std::vector<UniqueFd>& descriptors) {
  keeper::Request request;
  std::vector<int> passed;
  if (message.has_show_view()) {
    keeper::ShowView& wanted = *request.mutable_show_view();
    wanted.set_view(message.show_view().view());
    for (const std::string& layer : message.show_view().layers()) wanted.add_layers(layer);
    wanted.set_over_mount(message.show_view().over_mount());
    for (const UniqueFd& descriptor : descriptors) passed.push_back(descriptor.get());
  } else if (message.has_withdraw_view()) {
    request.mutable_withdraw_view();
  } else {
    return;
  }
  const Result<KeeperAnswer> answer = keeper_.Call(std::move(request), passed);
  waiting_looks_ = kLooksWhileWaiting;
  if (answer.has_value() || !message.has_show_view()) return;
  refused_ = message.show_view().view();
  refusal_ = answer.error().message();
  told_.reset();
}

int ViewRelay::Tick(const DaemonSession& session) {
  uint32_t turn = 0;
  const std::optional<ShownView> view = LastView(state_, &turn);
  if (!view.has_value()) return kSoonMs;
  if (told_ != turn) {
    session::FromShim message;
    session::ViewState& told = *message.mutable_view_state();
    told.set_shown(view->shown);
    told.set_failed(refused_ != 0 ? refused_ : view->failed);
    told.set_reason(refused_ != 0 ? refusal_ : view->reason);
    const Status sent = ring::Send(session.socket.get(), message.SerializeAsString(), {});
    LOG_IF(WARNING, !sent) << "tell mlcached of the view: " << sent.error();
    told_ = turn;
    waiting_looks_ = 0;
    refused_ = 0;
  }
  if (waiting_looks_ == 0) return kSeldomMs;
  --waiting_looks_;
  return kSoonMs;
}

}  // namespace mlcache::shim
