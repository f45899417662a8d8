#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "ctl/verb.h"

namespace mlcache::ctl {
namespace {

using nlohmann::json;

constexpr auto kWatchInterval = std::chrono::seconds(1);
constexpr char kClearScreen[] = "\033[H\033[2J";

bool IsHistogram(const json& value) {
  return value.is_object() && value.contains("buckets") && value.contains("count");
}

std::string Number(const json& value) {
  return value.is_number_unsigned() ? WithCommas(value.get<uint64_t>()) : value.dump();
}

// One row a value; the labels, whose names the JSON form leaves out, in their order.
void AddRows(const std::string& name, const std::string& labels, const json& value, Table& table) {
  const std::string shown = labels.empty() ? name : name + "{" + labels + "}";
  if (IsHistogram(value)) {
    const double count = value["count"].get<double>();
    const double mean = count > 0 ? value["sum"].get<double>() / count : 0;
    table.Add({shown, Number(value["count"]) + " times, mean " + json(mean).dump()});
  } else if (value.is_object()) {
    for (const auto& [label, inner] : value.items())
      AddRows(name, labels.empty() ? Shown(label) : labels + "," + Shown(label), inner, table);
  } else if (!value.is_null()) {
    table.Add({shown, Number(value)});
  }
}

int PrintOnce(Invocation& invocation) {
  control::StatsReply reply;
  const auto context = Client::ShortCall();
  const Status called =
      invocation.client.Check(invocation.client.stub().Stats(context.get(), control::StatsRequest(), &reply));
  if (!called) return Report(invocation.console, called.error());
  Console& console = invocation.console;
  const bool watched = invocation.arguments.Has("--watch");
  if (invocation.arguments.Has("--json")) {
    console.out << reply.json() << std::endl;
    return kExitOk;
  }
  const json stats = json::parse(reply.json(), nullptr, /*allow_exceptions=*/false);
  if (!stats.is_object()) return Report(console, Error(Code::kInternal, "the daemon's figures are no JSON object"));
  if (watched && console.out_is_terminal) console.out << kClearScreen;
  Table table({"METRIC", "VALUE"});
  for (const auto& [name, value] : stats.items()) AddRows(name, "", value, table);
  table.Print(console.out);
  console.out << std::flush;
  return kExitOk;
}

}  // namespace

int RunStats(Invocation& invocation) {
  while (true) {
    const int code = PrintOnce(invocation);
    if (code != kExitOk || !invocation.arguments.Has("--watch") || !invocation.console.out) return code;
    std::this_thread::sleep_for(kWatchInterval);
  }
}

}  // namespace mlcache::ctl
