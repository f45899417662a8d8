#include <fstream>
#include <iostream>
#include <utility>

#include "ctl/target.h"
#include "ctl/verb.h"

namespace mlcache::ctl {
namespace {

Status ReadList(const std::string& list, std::vector<std::string>& paths) {
  std::ifstream file;
  if (list != "-") {
    file.open(list);
    if (!file) return FailErrno(errno, "read the list -f " + list);
  }
  std::istream& in = list == "-" ? std::cin : file;
  for (std::string line; std::getline(in, line);) {
    if (!line.empty()) paths.push_back(line);
  }
  return in.bad() ? Status(Fail(Code::kUnavailable, "read the list -f " + list + ": failed")) : Status();
}

}  // namespace

int Report(Console& console, const Error& error) {
  console.err << "mlcachectl: " << Shown(error.message()) << '\n';
  if (error.code() == Code::kUnavailable) return kExitUnreachable;
  return kExitFailure;
}

Result<TargetList> ResolveTargets(Invocation& invocation, const std::vector<std::string>& paths) {
  std::vector<std::string> all = paths;
  if (invocation.arguments.Has("-f")) {
    const std::string list = invocation.arguments.Value("-f", "");
    if (const Status read = ReadList(list, all); !read) {
      // Not the daemon's absence, whatever errno says.
      return Fail(Code::kInvalidArgument, read.error().message());
    }
  }
  control::MountsReply mounts;
  const auto context = Client::ShortCall();
  MLCACHE_RETURN_IF_ERROR(
      invocation.client.Check(invocation.client.stub().Mounts(context.get(), control::MountsRequest(), &mounts)));
  std::vector<std::string> mountpoints;
  for (const control::Mount& mount : mounts.mounts()) mountpoints.push_back(mount.mountpoint());
  TargetList list;
  for (const std::string& path : all) {
    auto target = ResolveTarget(path, mountpoints);
    if (target) {
      *list.request.add_targets() = *std::move(target);
    } else {
      PrintFailure(invocation.console, path, target.error().message());
      ++list.failures;
    }
  }
  return list;
}

void PrintFailure(Console& console, const std::string& path, const std::string& message) {
  console.err << "mlcachectl: " << Shown(path) << ": " << Shown(message) << '\n';
}

int ExitCodeOf(uint64_t succeeded, uint64_t failed) {
  if (failed == 0) return kExitOk;
  return succeeded > 0 ? kExitPartly : kExitFailure;
}

}  // namespace mlcache::ctl
