#include "cached/store/fault_store.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <optional>
#include <utility>

#include "common/units.h"

namespace mlcache::store {
namespace {

using Op = FaultRule::Op;
using Action = FaultRule::Action;

template <typename T, size_t N>
std::optional<T> Named(const std::array<std::pair<std::string_view, T>, N>& names, std::string_view name) {
  const auto* found = std::ranges::find(names, name, [](const auto& item) { return item.first; });
  return found == names.end() ? std::nullopt : std::optional<T>(found->second);
}

constexpr std::array<std::pair<std::string_view, Op>, 4> kOps = {
    {{"stat", Op::kStat}, {"list", Op::kList}, {"read", Op::kRead}, {"any", Op::kAny}}};
constexpr std::array<std::pair<std::string_view, Action>, 5> kActions = {{{"fail", Action::kFail},
                                                                          {"truncate", Action::kTruncate},
                                                                          {"change", Action::kChange},
                                                                          {"corrupt", Action::kCorrupt},
                                                                          {"delay", Action::kDelay}}};

std::optional<uint64_t> Number(std::string_view text) {
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return {};
  return number;
}

bool ParseWhen(std::string_view text, FaultRule& rule) {
  if (text == "*") {
    rule.step = 1;
    return true;
  }
  const bool every = text.starts_with('%');
  const bool onwards = !every && text.ends_with('+');
  if (every) text.remove_prefix(1);
  if (onwards) text.remove_suffix(1);
  const std::optional<uint64_t> number = Number(text);
  if (!number || *number == 0) return false;
  rule.first = *number;
  rule.step = every ? *number : (onwards ? 1 : 0);
  return true;
}

std::optional<Code> ParseCode(std::string_view text) {
  for (int number = 1; number <= static_cast<int>(Code::kUnauthenticated); ++number) {
    if (CodeName(static_cast<Code>(number)) == text) return static_cast<Code>(number);
  }
  return {};
}

bool ParseAction(std::string_view text, FaultRule& rule) {
  const size_t equals = text.find('=');
  if (equals == std::string_view::npos) return false;
  const std::optional<Action> action = Named(kActions, text.substr(0, equals));
  const std::string_view value = text.substr(equals + 1);
  if (!action) return false;
  rule.action = *action;
  if (rule.action == Action::kFail) {
    const std::optional<Code> code = ParseCode(value);
    rule.code = code.value_or(Code::kUnknown);
    return code.has_value();
  }
  if (rule.action == Action::kDelay) {
    const Result<Nanos> delay = ParseDuration(value);
    rule.delay = delay.value_or(Nanos(0));
    return delay.has_value();
  }
  const Result<uint64_t> bytes = ParseSize(value);
  rule.bytes = bytes.value_or(0);
  return bytes.has_value() && (rule.op == Op::kRead || rule.op == Op::kAny);
}

bool Matches(const FaultRule& rule, uint64_t call) {
  if (rule.step == 0) return call == rule.first;
  return call >= rule.first && (call - rule.first) % rule.step == 0;
}

}  // namespace

Result<std::vector<FaultRule>> ParseFaultScript(std::string_view script) {
  std::vector<FaultRule> rules;
  while (!script.empty()) {
    const size_t end = std::min(script.find(','), script.size());
    const std::string_view text = script.substr(0, end);
    script.remove_prefix(std::min(end + 1, script.size()));
    const size_t first = text.find(':');
    const size_t second = first == std::string_view::npos ? first : text.find(':', first + 1);
    FaultRule rule;
    bool sound = second != std::string_view::npos;
    if (sound) {
      const std::optional<Op> op = Named(kOps, text.substr(0, first));
      rule.op = op.value_or(Op::kAny);
      sound = op && ParseWhen(text.substr(first + 1, second - first - 1), rule) &&
              ParseAction(text.substr(second + 1), rule);
    }
    if (!sound) {
      return Fail(Code::kInvalidArgument,
                  "fault rule '" + std::string(text) +
                      "': write OP:WHEN:ACTION with OP stat, list, read or any; WHEN N, N+, %K or *; ACTION fail=CODE, "
                      "delay=DURATION, or of a read truncate=BYTES, change=BYTES, corrupt=BYTE");
    }
    rules.push_back(rule);
  }
  return rules;
}

FaultStore::FaultStore(std::shared_ptr<ObjectStore> inner, std::vector<FaultRule> rules, PauseFunction pause)
    : ForwardingStore(std::move(inner)), rules_(std::move(rules)), pause_(std::move(pause)) {}

Result<std::vector<FaultRule>> FaultStore::Begin(Op op, const std::string& path, const CallContext& context) {
  const uint64_t call = ++calls_[static_cast<size_t>(op)];
  const uint64_t call_of_all = ++calls_[static_cast<size_t>(Op::kAny)];
  std::vector<FaultRule> left;
  for (const FaultRule& rule : rules_) {
    if (rule.op != op && rule.op != Op::kAny) continue;
    if (!Matches(rule, rule.op == Op::kAny ? call_of_all : call)) continue;
    if (rule.action == Action::kFail) return Fail(rule.code, path + ": injected fault");
    if (rule.action == Action::kDelay) {
      MLCACHE_RETURN_IF_ERROR(pause_(rule.delay, context));
    } else {
      left.push_back(rule);
    }
  }
  return left;
}

Result<ObjectInfo> FaultStore::Stat(const std::string& path, const CallContext& context) {
  MLCACHE_RETURN_IF_ERROR(Begin(Op::kStat, path, context));
  return inner_->Stat(path, context);
}

Result<ListPage> FaultStore::List(const std::string& path, const std::string& token, const CallContext& context) {
  MLCACHE_RETURN_IF_ERROR(Begin(Op::kList, path, context));
  return inner_->List(path, token, context);
}

Status FaultStore::ReadRange(const ObjectRef& ref, uint64_t offset, uint64_t length, const ByteSink& sink,
                             const CallContext& context) {
  MLCACHE_ASSIGN_OR_RETURN(const std::vector<FaultRule> rules, Begin(Op::kRead, ref.path, context));
  if (rules.empty()) return inner_->ReadRange(ref, offset, length, sink, context);
  uint64_t done = 0;
  const auto cut_at = [&](const FaultRule& rule) {
    return rule.action == Action::kCorrupt ? length : std::min(rule.bytes, length);
  };
  const FaultRule& cut = *std::ranges::min_element(rules, {}, cut_at);
  const uint64_t limit = cut_at(cut);
  const auto cut_error = [&] {
    return Fail(cut.action == Action::kChange ? Code::kFailedPrecondition : Code::kDataLoss,
                ref.path + ": injected fault after " + std::to_string(limit) + " bytes");
  };
  const ByteSink faulty = [&](std::span<const std::byte> bytes) -> Status {
    std::vector<std::byte> piece(
        bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(std::min<uint64_t>(bytes.size(), limit - done)));
    for (const FaultRule& rule : rules) {
      const bool here = rule.action == Action::kCorrupt && rule.bytes >= done && rule.bytes - done < piece.size();
      if (here) piece[rule.bytes - done] = ~piece[rule.bytes - done];
    }
    done += piece.size();
    if (!piece.empty()) MLCACHE_RETURN_IF_ERROR(sink(piece));
    if (piece.size() < bytes.size()) return cut_error();
    return {};
  };
  MLCACHE_RETURN_IF_ERROR(inner_->ReadRange(ref, offset, length, faulty, context));
  if (cut.action != Action::kCorrupt) return cut_error();
  return {};
}

}  // namespace mlcache::store
