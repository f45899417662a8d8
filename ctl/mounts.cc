#include <array>
#include <ctime>

#include "ctl/verb.h"

namespace mlcache::ctl {
namespace {

std::string LocalTime(uint64_t nanos_since_1970) {
  const auto seconds = static_cast<time_t>(nanos_since_1970 / 1'000'000'000);
  tm local{};
  localtime_r(&seconds, &local);
  std::array<char, 32> text{};
  strftime(text.data(), text.size(), "%Y-%m-%d %H:%M:%S", &local);
  return text.data();
}

}  // namespace

int RunMounts(Invocation& invocation) {
  control::MountsReply reply;
  const auto context = Client::ShortCall();
  const Status called =
      invocation.client.Check(invocation.client.stub().Mounts(context.get(), control::MountsRequest(), &reply));
  if (!called) return Report(invocation.console, called.error());
  Table table({"MOUNTPOINT", "STORE", "JOB", "PID", "UID", "MODE", "FLAGS", "REQUESTS", "SINCE", "SEALED"});
  for (const control::Mount& mount : reply.mounts()) {
    const std::string flags = std::string(mount.read_only() ? "ro" : "rw") + (mount.immutable() ? ",immutable" : "");
    table.Add({Shown(mount.mountpoint()), Shown(mount.store_url()), mount.job().empty() ? "-" : Shown(mount.job()),
               std::to_string(mount.pid()), std::to_string(mount.uid()),
               mount.mode().empty() ? "-" : Shown(mount.mode()), flags, WithCommas(mount.requests()),
               LocalTime(mount.connected_ns()), mount.sealed().empty() ? "-" : Shown(mount.sealed())});
  }
  table.Print(invocation.console.out);
  return kExitOk;
}

}  // namespace mlcache::ctl
