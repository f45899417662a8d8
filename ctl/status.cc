#include "common/units.h"
#include "ctl/verb.h"

namespace mlcache::ctl {

int RunStatus(Invocation& invocation) {
  constexpr uint64_t kNanosPerSecond = 1'000'000'000;
  control::StatusReply reply;
  const auto context = Client::ShortCall();
  const Status called =
      invocation.client.Check(invocation.client.stub().Status(context.get(), control::StatusRequest(), &reply));
  if (!called) return Report(invocation.console, called.error());
  std::ostream& out = invocation.console.out;
  out << "mlcached " << reply.version() << ", process " << reply.pid() << ", up "
      << FormatSeconds(reply.uptime_ns() / kNanosPerSecond) << '\n'
      << "sockets  " << Shown(reply.socket_dir()) << '\n'
      << "metrics  "
      << (reply.metrics_address().empty() ? "no endpoint" : "http://" + reply.metrics_address() + "/metrics") << '\n'
      << "mounts   " << reply.mounts() << "\n\n";
  Table table({"TIER", "KIND", "USED", "CAPACITY", "FULL", "OBJECTS", "STATE"});
  for (const control::TierStatus& tier : reply.tiers()) {
    table.Add({Shown(tier.directory()), tier.kind(), FormatSize(tier.used_bytes()), FormatSize(tier.capacity_bytes()),
               FormatPercent(tier.used_bytes(), tier.capacity_bytes()), WithCommas(tier.objects()),
               Shown(tier.state())});
  }
  table.Print(out);
  for (const std::string& alarm : reply.alarms()) out << "ALARM: " << Shown(alarm) << '\n';
  return kExitOk;
}

}  // namespace mlcache::ctl
