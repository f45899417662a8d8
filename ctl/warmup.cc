#include <grpcpp/grpcpp.h>

#include <chrono>

#include "ctl/progress.h"
#include "ctl/verb.h"

namespace mlcache::ctl {

int RunWarmup(Invocation& invocation) {
  Console& console = invocation.console;
  const bool metadata_only = invocation.arguments.Has("--meta");
  auto progress = MakeProgress(invocation.arguments.Value("--progress", "auto"), metadata_only, console);
  if (!progress) {
    console.err << "mlcachectl: warmup: " << progress.error().message() << '\n';
    return kExitUsage;
  }
  auto list = ResolveTargets(invocation, invocation.arguments.paths);
  if (!list) return Report(console, list.error());
  if (list->request.targets().empty()) return kExitFailure;
  list->request.set_metadata_only(metadata_only);

  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [start] { return std::chrono::steady_clock::now() - start; };
  uint64_t failures = list->failures;
  grpc::ClientContext context;
  const auto stream = invocation.client.stub().Warmup(&context, list->request);
  control::WarmupProgress last;
  while (stream->Read(&last)) {
    if (!last.failures().empty()) (*progress)->Clear();
    for (const control::Failure& failure : last.failures()) PrintFailure(console, failure.path(), failure.message());
    failures += static_cast<uint64_t>(last.failures().size());
    if (!last.done()) (*progress)->Show(last, elapsed());
  }
  const Status called = invocation.client.Check(stream->Finish());
  (*progress)->Clear();
  if (!called) return Report(console, called.error());
  (*progress)->Finish(last, failures, elapsed());
  return ExitCodeOf(metadata_only ? last.directories() + last.files_done() : last.files_done(), failures);
}

}  // namespace mlcache::ctl
