#include <grpcpp/grpcpp.h>

#include "common/units.h"
#include "ctl/verb.h"

namespace mlcache::ctl {
namespace {

struct Totals {
  uint64_t files = 0;
  uint64_t complete = 0;
  uint64_t absent = 0;
  uint64_t bytes = 0;
  uint64_t cached_bytes = 0;
};

void Count(const control::CheckReply& reply, Totals& totals) {
  ++totals.files;
  totals.bytes += reply.size();
  totals.cached_bytes += reply.cached_bytes();
  if (reply.cached_bytes() == reply.size()) {
    ++totals.complete;
  } else if (reply.cached_bytes() == 0) {
    ++totals.absent;
  }
}

// A line a file while they come: a dataset's list is too long to be kept for aligning it.
void PrintFile(const control::CheckReply& reply, std::ostream& out) {
  const std::string percent = FormatPercent(reply.cached_bytes(), reply.size());
  out << std::string(percent.size() < 7 ? 7 - percent.size() : 0, ' ') << percent << "  " << reply.cached_bytes()
      << " of " << reply.size() << "  " << (reply.tier().empty() ? "-" : reply.tier()) << "  " << Shown(reply.path())
      << '\n';
}

}  // namespace

int RunCheck(Invocation& invocation) {
  Console& console = invocation.console;
  auto list = ResolveTargets(invocation, invocation.arguments.paths);
  if (!list) return Report(console, list.error());
  if (list->request.targets().empty()) return kExitFailure;
  grpc::ClientContext context;
  const auto stream = invocation.client.stub().Check(&context, list->request);
  Totals totals;
  uint64_t failures = list->failures;
  for (control::CheckReply reply; stream->Read(&reply);) {
    if (reply.has_failure()) {
      PrintFailure(console, reply.failure().path(), reply.failure().message());
      ++failures;
    } else {
      Count(reply, totals);
      PrintFile(reply, console.out);
    }
  }
  const Status called = invocation.client.Check(stream->Finish());
  if (!called) return Report(console, called.error());
  console.out << WithCommas(totals.files) << " files: " << WithCommas(totals.complete) << " complete, "
              << WithCommas(totals.files - totals.complete - totals.absent) << " in part, " << WithCommas(totals.absent)
              << " not cached; " << WithCommas(totals.cached_bytes) << " of " << WithCommas(totals.bytes) << " bytes ("
              << FormatPercent(totals.cached_bytes, totals.bytes) << ")\n";
  return ExitCodeOf(totals.files, failures);
}

}  // namespace mlcache::ctl
