#include "cached/store/window_store.h"

#include <algorithm>
#include <utility>

namespace mlcache::store {

CongestionWindow::CongestionWindow(const WindowOptions& options, const Clock& clock)
    : options_(options), clock_(clock), gate_(options.initial), window_(static_cast<double>(options.initial)) {}

Result<RequestGate::Permit> CongestionWindow::Enter(const CallContext& context, std::string_view what) {
  return gate_.Enter(context, what);
}

void CongestionWindow::Succeeded() {
  const std::lock_guard lock(mutex_);
  const auto before = static_cast<size_t>(window_);
  if (gate_.inside() < before) return;
  window_ = std::min(static_cast<double>(options_.max), window_ + (slow_start_ ? 1 : 1 / window_));
  if (static_cast<size_t>(window_) != before) gate_.SetLimit(static_cast<size_t>(window_));
}

void CongestionWindow::Refused(Nanos sent_at) {
  const std::lock_guard lock(mutex_);
  if (sent_at < halved_at_) return;
  slow_start_ = false;
  halved_at_ = clock_.Now();
  window_ = std::max(1.0, std::min(window_, static_cast<double>(gate_.inside())) / 2);
  gate_.SetLimit(static_cast<size_t>(window_));
}

size_t CongestionWindow::size() const {
  const std::lock_guard lock(mutex_);
  return static_cast<size_t>(window_);
}

WindowStore::WindowStore(std::shared_ptr<ObjectStore> inner, std::shared_ptr<CongestionWindow> window,
                         const Clock& clock)
    : ForwardingStore(std::move(inner)), window_(std::move(window)), clock_(clock) {}

template <typename Call>
auto WindowStore::Passed(const std::string& path, const CallContext& context, const Call& call) -> decltype(call()) {
  MLCACHE_ASSIGN_OR_RETURN(const RequestGate::Permit permit, window_->Enter(context, path));
  const Nanos sent_at = clock_.Now();
  auto result = call();
  if (result) {
    window_->Succeeded();
  } else if (result.error().code() == Code::kUnavailable) {
    window_->Refused(sent_at);
  }
  return result;
}

Result<ObjectInfo> WindowStore::Stat(const std::string& path, const CallContext& context) {
  return Passed(path, context, [&] { return inner_->Stat(path, context); });
}

Result<ListPage> WindowStore::List(const std::string& path, const std::string& token, const CallContext& context) {
  return Passed(path, context, [&] { return inner_->List(path, token, context); });
}

Status WindowStore::ReadRange(const ObjectRef& ref, uint64_t offset, uint64_t length, const ByteSink& sink,
                              const CallContext& context) {
  return Passed(ref.path, context, [&] { return inner_->ReadRange(ref, offset, length, sink, context); });
}

}  // namespace mlcache::store
