#include <grpcpp/grpcpp.h>

#include "ctl/verb.h"

namespace mlcache::ctl {
namespace {

// Evict and Invalidate differ in the call and in what it counts. Both may walk a large tree: no deadline.
template <typename Reply, typename Call, typename Print>
int RunOverTargets(Invocation& invocation, Call call, Print print) {
  Console& console = invocation.console;
  auto list = ResolveTargets(invocation, invocation.arguments.paths);
  if (!list) return Report(console, list.error());
  if (list->request.targets().empty()) return kExitFailure;
  grpc::ClientContext context;
  Reply reply;
  const Status called = invocation.client.Check(call(invocation.client.stub(), &context, list->request, &reply));
  if (!called) return Report(console, called.error());
  for (const control::Failure& failure : reply.failures()) PrintFailure(console, failure.path(), failure.message());
  print(reply, console.out);
  const uint64_t failures = list->failures + static_cast<uint64_t>(reply.failures().size());
  const auto targets = static_cast<uint64_t>(list->request.targets().size());
  const bool all_failed = failures >= targets + list->failures;
  return ExitCodeOf(all_failed ? 0 : targets, failures);
}

}  // namespace

int RunEvict(Invocation& invocation) {
  return RunOverTargets<control::EvictReply>(
      invocation,
      [](auto& stub, auto* context, const auto& request, auto* reply) { return stub.Evict(context, request, reply); },
      [](const control::EvictReply& reply, std::ostream& out) {
        out << "evicted " << WithCommas(reply.bytes()) << " bytes of " << WithCommas(reply.files()) << " files\n";
      });
}

int RunInvalidate(Invocation& invocation) {
  return RunOverTargets<control::InvalidateReply>(
      invocation,
      [](auto& stub, auto* context, const auto& request, auto* reply) {
        return stub.Invalidate(context, request, reply);
      },
      [](const control::InvalidateReply& reply, std::ostream& out) {
        out << "invalidated " << WithCommas(reply.entries()) << " entries\n";
      });
}

}  // namespace mlcache::ctl
