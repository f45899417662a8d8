#include <grpcpp/grpcpp.h>

#include "ctl/verb.h"

namespace mlcache::ctl {

// No deadline: a large dataset is verified first where this boot has not seen it.
int RunSeal(Invocation& invocation) {
  Console& console = invocation.console;
  auto list = ResolveTargets(invocation, invocation.arguments.paths);
  if (!list) return Report(console, list.error());
  if (list->request.targets().empty()) return kExitFailure;
  control::SealRequest request;
  *request.mutable_targets() = list->request.targets();
  request.set_off(invocation.arguments.Has("--off"));
  grpc::ClientContext context;
  control::SealReply reply;
  const Status called = invocation.client.Check(invocation.client.stub().Seal(&context, request, &reply));
  if (!called) return Report(console, called.error());
  for (const control::Failure& failure : reply.failures()) PrintFailure(console, failure.path(), failure.message());
  for (const control::SealedMount& mount : reply.mounts()) {
    console.out << Shown(mount.mountpoint()) << ": sealed: " << Shown(mount.sealed()) << '\n';
  }
  return ExitCodeOf(static_cast<uint64_t>(reply.mounts().size()),
                    list->failures + static_cast<uint64_t>(reply.failures().size()));
}

}  // namespace mlcache::ctl
