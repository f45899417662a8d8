#include <grpcpp/grpcpp.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string_view>

#include "ctl/target.h"
#include "ctl/verb.h"

namespace mlcache::ctl {
namespace {

constexpr int kPathsPerPart = 4096;
constexpr uint64_t kMostNamed = 1000;  // files of a list that are refused here

int UsageError(Console& console, const std::string& message) {
  console.err << "mlcachectl: plan: " << message << " (see 'mlcachectl plan --help')\n";
  return kExitUsage;
}

// What is wrong with the options, "" when nothing is.
std::string Misuse(const Arguments& arguments) {
  const bool list = arguments.Has("-f");
  if (arguments.paths.size() != 1) return "name one MOUNTPOINT";
  if (list + arguments.Has("--clear") + arguments.Has("--show") > 1) return "-f, --clear and --show exclude each other";
  if (!list && (arguments.Has("-0") || arguments.Has("--append"))) return "-0 and --append belong to -f LIST";
  if (arguments.Has("--json") && (list || arguments.Has("--clear"))) return "--json belongs to --show";
  return "";
}

// Paths of a list, as the daemon takes them: below the mountpoint.
class ListReader {
 public:
  ListReader(std::istream& in, char end, std::vector<std::string> prefixes)
      : in_(in), end_(end), prefixes_(std::move(prefixes)) {}

  // False at the end of the list. An absolute path that lies elsewhere is refused: `refused` is set.
  bool Next(std::string& path, bool& refused) {
    do {
      if (!std::getline(in_, path, end_)) return false;
    } while (path.empty());
    refused = false;
    if (!path.starts_with('/')) return true;
    for (const std::string& prefix : prefixes_) {
      if (!path.starts_with(prefix)) continue;
      path.erase(0, prefix.size());
      return true;
    }
    refused = true;
    return true;
  }

 private:
  std::istream& in_;
  const char end_;
  const std::vector<std::string> prefixes_;  // with a slash at the end
};

nlohmann::json ToJson(const control::PlanStream& stream) {
  nlohmann::json unknown = nlohmann::json::array();
  for (const control::Failure& failure : stream.named()) {
    unknown.push_back({{"path", failure.path()}, {"message", failure.message()}});
  }
  return {{"stream", stream.stream()},
          {"files", stream.files()},
          {"position", stream.position()},
          {"left", stream.left()},
          {"ahead_files", stream.ahead_files()},
          {"ahead_bytes", stream.ahead_bytes()},
          {"prefetched", stream.prefetched()},
          {"present", stream.present()},
          {"late", stream.late()},
          {"unread", stream.unread()},
          {"failed", stream.failed()},
          {"unknown", stream.unknown()},
          {"unknown_files", std::move(unknown)}};
}

void Show(const control::PlanReply& reply, bool as_json, Console& console) {
  if (as_json) {
    nlohmann::json streams = nlohmann::json::array();
    for (const control::PlanStream& stream : reply.streams()) streams.push_back(ToJson(stream));
    const nlohmann::json all = {{"streams", std::move(streams)}};
    // Names of files need not be UTF-8.
    console.out << all.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << '\n';
    return;
  }
  if (reply.streams().empty()) {
    console.out << "no plan\n";
    return;
  }
  Table table({"STREAM", "FILES", "POSITION", "LEFT", "AHEAD", "AHEAD BYTES", "PREFETCHED", "PRESENT", "LATE", "UNREAD",
               "FAILED", "UNKNOWN"});
  for (const control::PlanStream& stream : reply.streams()) {
    table.Add({stream.stream().empty() ? "-" : Shown(stream.stream()), WithCommas(stream.files()),
               WithCommas(stream.position()), WithCommas(stream.left()), WithCommas(stream.ahead_files()),
               WithCommas(stream.ahead_bytes()), WithCommas(stream.prefetched()), WithCommas(stream.present()),
               WithCommas(stream.late()), WithCommas(stream.unread()), WithCommas(stream.failed()),
               WithCommas(stream.unknown())});
  }
  table.Print(console.out);
  for (const control::PlanStream& stream : reply.streams()) {
    for (const control::Failure& failure : stream.named()) PrintFailure(console, failure.path(), failure.message());
  }
}

using Writer = grpc::ClientWriterInterface<control::PlanPart>;

// Sends the list; how many of its paths lie elsewhere.
uint64_t Send(ListReader& list, Writer& writer, control::PlanPart part, uint64_t* sent, Console& console) {
  uint64_t refused_here = 0;
  std::string path;
  bool refused = false;
  while (list.Next(path, refused)) {
    if (refused) {
      if (++refused_here <= kMostNamed) PrintFailure(console, path, "is not below the mountpoint");
      continue;
    }
    part.add_paths(path);
    ++*sent;
    if (part.paths_size() < kPathsPerPart) continue;
    if (!writer.Write(part)) return refused_here;  // Finish tells why
    part.Clear();
  }
  part.set_last(true);
  writer.Write(part);
  writer.WritesDone();
  return refused_here;
}

int Declare(Invocation& invocation, control::PlanPart first, std::vector<std::string> prefixes) {
  Console& console = invocation.console;
  const std::string name = invocation.arguments.Value("-f", "");
  std::ifstream file;
  if (name != "-") {
    file.open(name);
    if (!file || std::filesystem::is_directory(name)) {
      console.err << "mlcachectl: plan: cannot read the list -f " << Shown(name) << '\n';
      return kExitFailure;
    }
  }
  std::istream& in = name == "-" ? std::cin : file;
  ListReader list(in, invocation.arguments.Has("-0") ? '\0' : '\n', std::move(prefixes));
  if (in.peek() == std::char_traits<char>::eof()) {
    console.err << "mlcachectl: plan: the list -f " << Shown(name) << " is empty; --clear takes a plan away\n";
    return kExitFailure;
  }
  first.set_verb(invocation.arguments.Has("--append") ? control::PLAN_APPEND : control::PLAN_REPLACE);
  grpc::ClientContext context;
  control::PlanReply reply;
  const auto writer = invocation.client.stub().Plan(&context, &reply);
  uint64_t sent = 0;
  const uint64_t elsewhere = Send(list, *writer, std::move(first), &sent, console);
  const Status called = invocation.client.Check(writer->Finish());
  if (!called) return Report(console, called.error());
  for (const control::Failure& failure : reply.failures()) PrintFailure(console, failure.path(), failure.message());
  const uint64_t wrong = elsewhere + reply.refused() + reply.unknown();
  const uint64_t named = std::min(elsewhere, kMostNamed) + static_cast<uint64_t>(reply.failures().size());
  if (wrong > named) console.err << "mlcachectl: and " << WithCommas(wrong - named) << " more\n";
  console.out << WithCommas(reply.accepted()) << " files accepted";
  if (wrong > 0) console.out << ", " << WithCommas(wrong) << " unknown";
  console.out << '\n';
  return ExitCodeOf(reply.accepted() - std::min(reply.accepted(), reply.unknown()), wrong);
}

}  // namespace

int RunPlan(Invocation& invocation) {
  Console& console = invocation.console;
  const Arguments& arguments = invocation.arguments;
  if (const std::string misuse = Misuse(arguments); !misuse.empty()) return UsageError(console, misuse);
  control::MountsReply mounts;
  const auto short_call = Client::ShortCall();
  const Status listed =
      invocation.client.Check(invocation.client.stub().Mounts(short_call.get(), control::MountsRequest(), &mounts));
  if (!listed) return Report(console, listed.error());
  std::vector<std::string> mountpoints;
  for (const control::Mount& mount : mounts.mounts()) mountpoints.push_back(mount.mountpoint());
  const std::string& argument = arguments.paths.front();
  const auto target = ResolveTarget(argument, mountpoints);
  if (!target) {
    PrintFailure(console, argument, target.error().message());
    return kExitFailure;
  }
  if (target->mountpoint().empty() || !target->path().empty()) {
    PrintFailure(console, argument, "is no mountpoint: a plan is of a whole mount, its paths are relative to it");
    return kExitFailure;
  }
  control::PlanPart part;
  part.set_mountpoint(target->mountpoint());
  part.set_stream(arguments.Value("--stream", ""));
  part.set_all_streams(!arguments.Has("--stream"));
  if (arguments.Has("-f")) {
    std::vector<std::string> prefixes = {target->mountpoint() + "/"};
    std::error_code error;
    // As the caller spells it, which may go through a symbolic link.
    std::string spelled = std::filesystem::absolute(argument, error).lexically_normal().string();
    if (!spelled.ends_with('/')) spelled += '/';
    if (!error && spelled != prefixes.front()) prefixes.push_back(std::move(spelled));
    return Declare(invocation, std::move(part), std::move(prefixes));
  }
  part.set_verb(arguments.Has("--clear") ? control::PLAN_CLEAR : control::PLAN_SHOW);
  part.set_last(true);
  const auto context = Client::ShortCall();
  control::PlanReply reply;
  const auto writer = invocation.client.stub().Plan(context.get(), &reply);
  writer->Write(part);
  writer->WritesDone();
  const Status called = invocation.client.Check(writer->Finish());
  if (!called) return Report(console, called.error());
  if (!arguments.Has("--clear")) Show(reply, arguments.Has("--json"), console);
  return kExitOk;
}

}  // namespace mlcache::ctl
