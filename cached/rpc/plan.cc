#include "cached/rpc/plan.h"

#include <algorithm>
#include <map>
#include <string_view>
#include <utility>

#include "cached/rpc/targets.h"
#include "cached/session/path.h"

namespace mlcache::rpc {
namespace {

void SetOutcomes(const prefetch::PlanReport& report, control::PlanStream& row) {
  const auto of = [&](prefetch::PlanOutcome outcome) { return report.outcomes[static_cast<size_t>(outcome)]; };
  row.set_prefetched(of(prefetch::PlanOutcome::kPrefetched));
  row.set_present(of(prefetch::PlanOutcome::kPresent));
  row.set_late(of(prefetch::PlanOutcome::kLate));
  row.set_unread(of(prefetch::PlanOutcome::kUnread));
  row.set_failed(of(prefetch::PlanOutcome::kFailed));
}

}  // namespace

PlanCall::PlanCall(const control::PlanPart& first, session::SessionServer& sessions)
    : mountpoint_(first.mountpoint()),
      verb_(first.verb()),
      stream_(first.stream()),
      all_streams_(first.all_streams()),
      plan_(sessions.PlanOfMount(mountpoint_)) {
  if (plan_.has_value()) order_ = prefetch::PlanOrder((*plan_)->order_options());
}

void PlanCall::Refuse(const std::string& path, const Error& error) {
  if (reply_.failures_size() >= kMostFailures) return;
  *reply_.add_failures() = MakeFailure(mountpoint_ + "/" + path, error);
}

void PlanCall::Add(const control::PlanPart& part) {
  if (!plan_.has_value() || full_) return;
  for (const std::string& path : part.paths()) {
    Result<std::string> clean = session::CleanPath(path);
    if (clean.has_value() && clean->empty()) clean = Fail(Code::kInvalidArgument, "names the mount itself, no file");
    if (clean.has_value() && !session::IsValidPath(*clean)) {
      clean = Fail(Code::kInvalidArgument, "holds a NUL, or a name of more than 255 bytes");
    }
    if (!clean.has_value()) {
      reply_.set_refused(reply_.refused() + 1);
      Refuse(path, clean.error());
      continue;
    }
    if (head_.size() < kCheckedFiles) head_.push_back(*clean);
    if (verb_ == control::PLAN_APPEND) {
      appended_.push_back(*std::move(clean));
    } else if (verb_ == control::PLAN_REPLACE && !order_.Append(*clean)) {
      full_ = true;
      return;
    }
    reply_.set_accepted(reply_.accepted() + 1);
  }
}

Status PlanCall::Run(control::PlanReply& reply) {
  if (!plan_.has_value()) return std::unexpected(plan_.error());
  if (stream_.size() > kMaxStreamBytes) return Fail(Code::kInvalidArgument, "the name of a stream has up to 255 bytes");
  MLCACHE_RETURN_IF_ERROR(Change());
  Report();
  reply = std::move(reply_);
  return {};
}

Status PlanCall::Change() {
  prefetch::PlanPrefetcher& plan = **plan_;
  switch (verb_) {
    case control::PLAN_SHOW:
      return {};
    case control::PLAN_CLEAR:
      if (all_streams_) {
        plan.ClearAll();
      } else {
        plan.Clear(stream_);
      }
      return {};
    case control::PLAN_REPLACE:
      if (full_) return Fail(Code::kResourceExhausted, "a plan cannot hold so many files: declare it in parts");
      // A list of nothing but mistakes must not take the plan away that is there.
      if (order_.size() == 0 && reply_.refused() > 0) return {};
      MLCACHE_RETURN_IF_ERROR(plan.Replace(stream_, std::move(order_)));
      break;
    case control::PLAN_APPEND:
      MLCACHE_RETURN_IF_ERROR(plan.Append(stream_, appended_));
      break;
    default:
      return Fail(Code::kInvalidArgument, "mlcachectl is of a later release than mlcached: no such plan verb");
  }
  Check();
  return {};
}

void PlanCall::Check() {
  const Nanos deadline = SystemClock().Now() + kCheckPatience;
  std::ranges::sort(head_);
  const auto doubles = std::ranges::unique(head_);
  head_.erase(doubles.begin(), doubles.end());
  std::map<std::string_view, size_t> together;
  for (const std::string& path : head_) ++together[session::ParentOf(path)];
  for (const std::string& path : head_) {
    if (SystemClock().Now() >= deadline) return;
    const store::CallContext context{.priority = store::Priority::kPlan, .job = "control", .deadline = deadline};
    const auto found = (*plan_)->files().Find(path, together[session::ParentOf(path)], context);
    if (found.has_value()) continue;
    const Code code = found.error().code();
    if (code != Code::kNotFound && code != Code::kInvalidArgument) continue;  // the store's trouble, not the list's
    reply_.set_unknown(reply_.unknown() + 1);
    Refuse(path, found.error());
  }
}

void PlanCall::Report() {
  for (const prefetch::PlanReport& report : (*plan_)->Reports()) {
    if (!all_streams_ && report.stream != stream_) continue;
    control::PlanStream& row = *reply_.add_streams();
    row.set_stream(report.stream);
    row.set_files(report.files);
    row.set_position(report.position);
    row.set_left(report.left);
    row.set_ahead_files(report.ahead_files);
    row.set_ahead_bytes(report.ahead_bytes);
    SetOutcomes(report, row);
    row.set_unknown(report.unknown);
    for (const auto& [path, error] : report.named) *row.add_named() = MakeFailure(mountpoint_ + "/" + path, error);
  }
}

}  // namespace mlcache::rpc
