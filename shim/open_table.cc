#include "shim/open_table.h"

#include <utility>

namespace mlcache::shim {
namespace {

uint64_t Mix(uint64_t value) {
  value ^= value >> 33;
  value *= 0xff51afd7ed558ccdULL;
  value ^= value >> 33;
  return value;
}

}  // namespace

OpenTable::OpenTable(SharedState& state, size_t most_idle) : state_(state), most_idle_(most_idle) {
  for (uint32_t i = 0; i < kMaxBackings; ++i) {
    BackingRecord& backing = state_.backings[i];
    const uint64_t node = backing.node;
    if (node == 0) continue;
    // Claimed by a server that died before the keeper heard of it: the keeper has let go of that server's link.
    if (backing.id == 0) {
      backing.node = 0;
    } else {
      nodes_[node].record = i;
    }
  }
  for (uint32_t i = 0; i < state_.opens_touched; ++i) {
    OpenRecord& open = state_.opens[i];
    const uint64_t node = open.node;
    if (node == 0) {
      free_opens_.push_back(i);
      continue;
    }
    Node& entry = nodes_[node];
    if (open.backing != 0) {
      ++entry.passthrough_opens;
      ++passthrough_opens_;
    } else {
      ++entry.cached_opens;
    }
    inherited_[open.unique] = i;
  }
  for (auto& [node, entry] : nodes_) {
    if (entry.record.has_value() && entry.passthrough_opens == 0) entry.idle = idle_.insert(idle_.begin(), node);
  }
}

uint64_t OpenTable::NodeFor(uint64_t base) const {
  const uint64_t preferred = state_.moved[Mix(base) % kMaxMoved].load(std::memory_order_relaxed);
  return preferred == (base | 1) && HasAlias(base) ? preferred : base;
}

uint64_t OpenTable::HandleFor(uint32_t index) const {
  return uint64_t{state_.opens[index].turn.load(std::memory_order_relaxed)} << 32 | (index + 1);
}

OpenRecord* OpenTable::RecordOf(uint64_t file_handle) const {
  const uint64_t index = (file_handle & 0xffffffff) - 1;
  if (index >= state_.opens_touched) return nullptr;
  OpenRecord& record = state_.opens[index];
  const bool ours = record.turn == file_handle >> 32 && record.node != 0;
  return ours ? &record : nullptr;
}

uint64_t OpenTable::HandleOf(uint64_t file_handle) const {
  const OpenRecord* const record = RecordOf(file_handle);
  return record == nullptr ? 0 : record->handle.load(std::memory_order_relaxed);
}

std::optional<OpenTable::Decision> OpenTable::Repeated(const Open& open) const {
  if (inherited_.empty() || (open.unique & kResendBit) == 0) return std::nullopt;
  const auto found = inherited_.find(open.unique & ~kResendBit);
  if (found == inherited_.end()) return std::nullopt;
  const OpenRecord& record = state_.opens[found->second];
  if (record.node != open.node || record.unique != (open.unique & ~kResendBit)) return std::nullopt;
  const uint32_t backing = record.backing;
  return Decision{.verdict = Verdict::kOpened,
                  .file_handle = HandleFor(found->second),
                  .backing_id = backing == 0 ? 0 : state_.backings[backing - 1].id.load()};
}

OpenTable::Decision OpenTable::Enter(uint64_t node, Node& state, const Open& open, bool passthrough) {
  uint32_t index = 0;
  if (!free_opens_.empty()) {
    index = free_opens_.back();
    free_opens_.pop_back();
  } else if (state_.opens_touched < kMaxOpens) {
    index = state_.opens_touched++;
  } else {
    return {.verdict = Verdict::kFull};
  }
  OpenRecord& record = state_.opens[index];
  record.turn.fetch_add(1, std::memory_order_relaxed);
  record.unique = open.unique & ~kResendBit;
  record.handle = passthrough ? 0 : open.handle;
  record.backing = passthrough ? *state.record + 1 : 0;
  record.node.store(node, std::memory_order_release);  // last: what counts is whole
  Decision decision{.verdict = Verdict::kOpened, .file_handle = HandleFor(index)};
  if (passthrough) {
    decision.backing_id = state_.backings[*state.record].id;
    ++state.passthrough_opens;
    ++passthrough_opens_;
    if (state.idle.has_value()) idle_.erase(*std::exchange(state.idle, std::nullopt));
  } else {
    ++state.cached_opens;
  }
  return decision;
}

std::optional<OpenTable::Decision> OpenTable::Reopen(const Open& open) {
  const std::lock_guard lock(mutex_);
  if (auto repeated = Repeated(open)) return repeated;
  const auto found = nodes_.find(open.node);
  if (found == nodes_.end() || !found->second.record.has_value() || found->second.registering) return std::nullopt;
  return Enter(open.node, found->second, open, true);
}

OpenTable::Decision OpenTable::OpenCached(const Open& open) {
  const std::lock_guard lock(mutex_);
  Node& node = nodes_[open.node];
  if (node.registering) {
    node.waiters.push_back(open.waiter);
    return {.verdict = Verdict::kWait};
  }
  return Enter(open.node, node, open, node.record.has_value());
}

OpenTable::Decision OpenTable::OpenLent(const Open& open) {
  const std::lock_guard lock(mutex_);
  Node& node = nodes_[open.node];
  if (node.registering) {
    node.waiters.push_back(open.waiter);
    return {.verdict = Verdict::kWait};
  }
  if (node.record.has_value()) return Enter(open.node, node, open, true);
  if (node.cached_opens > 0) {
    return MayAnswerStale(open) ? Decision{.verdict = Verdict::kStale} : Enter(open.node, node, open, false);
  }
  const std::optional<uint32_t> record = ClaimRecord(open.node);
  if (!record.has_value()) return Enter(open.node, node, open, false);
  node.record = record;
  node.registering = true;
  return {.verdict = Verdict::kRegister, .record = *record};
}

// Not when the other nodeid is taken by the same mode, and not twice in a row to one caller: an open that no LOOKUP
// precedes (by /proc/self/fd) would see the error itself. And not below a sealed view: overlayfs holds on to the nodeid
// that it has found, and would give its users ESTALE from then on.
bool OpenTable::MayAnswerStale(const Open& open) {
  if (!HasAlias(open.node) || state_.view_shown != 0) return false;
  const auto other = nodes_.find(open.node ^ 1);
  if (other != nodes_.end() && other->second.cached_opens > 0) return false;
  const uint64_t mark = Mix(open.node * 31 + open.pid) | 1;
  std::atomic<uint64_t>& last = state_.stale_answers[mark % kMaxStaleAnswers];
  if (last.load() == mark) {
    last = 0;
    return false;
  }
  last = mark;
  const uint64_t base = BaseOf(open.node);
  state_.moved[Mix(base) % kMaxMoved] = open.node ^ 1;
  return true;
}

std::optional<uint32_t> OpenTable::ClaimRecord(uint64_t node) {
  for (uint32_t tried = 0; tried < kMaxBackings; ++tried) {
    const uint32_t index = next_backing_++ % kMaxBackings;
    BackingRecord& record = state_.backings[index];
    if (record.node != 0) continue;
    record.id = 0;
    record.node = node;
    return index;
  }
  return std::nullopt;
}

std::vector<OpenTable::Waiter> OpenTable::Registered(uint64_t node, uint32_t record, bool done) {
  const std::lock_guard lock(mutex_);
  const auto found = nodes_.find(node);
  if (found == nodes_.end() || !found->second.registering) return {};
  Node& state = found->second;
  state.registering = false;
  std::vector<Waiter> waiters = std::exchange(state.waiters, {});
  if (done) {
    state.idle = idle_.insert(idle_.begin(), node);  // until the one who asked has opened it
  } else {
    state.record.reset();
    state_.backings[record].node = 0;
    if (state.cached_opens == 0) nodes_.erase(found);
  }
  return waiters;
}

OpenTable::Released OpenTable::Release(uint64_t file_handle) {
  const std::lock_guard lock(mutex_);
  OpenRecord* const record = RecordOf(file_handle);
  if (record == nullptr) return {};
  Released released{.handle = record->handle, .closing = {}};
  const uint64_t node = record->node;
  const bool passthrough = record->backing != 0;
  if (!inherited_.empty()) inherited_.erase(record->unique);
  record->node = 0;
  free_opens_.push_back(static_cast<uint32_t>((file_handle & 0xffffffff) - 1));
  const auto found = nodes_.find(node);
  if (found == nodes_.end()) return released;
  Node& state = found->second;
  if (passthrough) {
    --passthrough_opens_;
    --state.passthrough_opens;
  } else {
    --state.cached_opens;
  }
  Settle(node, released.closing);
  return released;
}

// After an open has gone: what it leaves behind is idle, or nothing.
void OpenTable::Settle(uint64_t node, Closing& closing) {
  const auto found = nodes_.find(node);
  Node& state = found->second;
  if (state.passthrough_opens == 0 && state.record.has_value() && !state.registering) {
    if (state.revoked) {
      Drop(state, closing);
    } else if (!state.idle.has_value()) {
      state.idle = idle_.insert(idle_.begin(), node);
    }
  }
  const bool empty = !state.record.has_value() && state.cached_opens == 0 && state.passthrough_opens == 0;
  if (empty) nodes_.erase(found);
  while (idle_.size() > most_idle_) {
    const uint64_t oldest = idle_.back();
    Node& last = nodes_.at(oldest);
    Drop(last, closing);
    if (last.cached_opens == 0) nodes_.erase(oldest);
  }
}

void OpenTable::Drop(Node& state, Closing& closing) {
  if (state.idle.has_value()) idle_.erase(*std::exchange(state.idle, std::nullopt));
  closing.push_back(*std::exchange(state.record, std::nullopt));
  state.revoked = false;
}

OpenTable::Closing OpenTable::Revoke(uint64_t base) {
  Closing closing;
  const std::lock_guard lock(mutex_);
  for (const uint64_t node : {base, base | 1}) {
    const auto found = nodes_.find(node);
    if (found == nodes_.end() || !found->second.record.has_value()) continue;
    found->second.revoked = true;
    if (found->second.passthrough_opens == 0 && !found->second.registering) Settle(node, closing);
  }
  return closing;
}

size_t OpenTable::passthrough_opens() const {
  const std::lock_guard lock(mutex_);
  return passthrough_opens_;
}

size_t OpenTable::registered() const {
  const std::lock_guard lock(mutex_);
  size_t count = 0;
  for (const auto& [node, state] : nodes_) count += state.record.has_value() && !state.registering ? 1 : 0;
  return count;
}

}  // namespace mlcache::shim
