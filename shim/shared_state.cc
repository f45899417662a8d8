#include "shim/shared_state.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <tuple>

#include "common/unique_fd.h"

namespace mlcache::shim {

static_assert(std::atomic<uint64_t>::is_always_lock_free && std::atomic<uint32_t>::is_always_lock_free);

void SharedStateDeleter::operator()(SharedState* state) const { ::munmap(state, sizeof(SharedState)); }

Result<SharedStatePointer> CreateSharedState() {
  const UniqueFd memory(::memfd_create("mlcache-keeper", MFD_CLOEXEC));
  if (!memory.valid()) return FailErrno(errno, "memfd_create");
  if (::ftruncate(memory.get(), sizeof(SharedState)) != 0) return FailErrno(errno, "size the keeper's memory");
  void* const address = ::mmap(nullptr, sizeof(SharedState), PROT_READ | PROT_WRITE, MAP_SHARED, memory.get(), 0);
  if (address == MAP_FAILED) return FailErrno(errno, "map the keeper's memory");
  // A new memfd is all zeros, and so is a new SharedState: to write them would only make its pages real.
  return SharedStatePointer(static_cast<SharedState*>(address));
}

void ChargeDeath(SharedState& state, uint32_t points) {
  for (WorkerBeat& beat : state.beats) {
    const uint64_t unique = beat.unique.exchange(0) & ~kResendBit;
    if (unique == 0) continue;
    auto* suspect = std::ranges::find_if(state.suspects, [&](const Suspect& s) { return s.unique == unique; });
    if (suspect == state.suspects.end()) {
      suspect = std::ranges::min_element(state.suspects, {}, [](const Suspect& s) { return s.points.load(); });
      suspect->points = 0;
      suspect->unique = unique;
    }
    suspect->points += points;
  }
}

void RememberRoot(SharedState& state, const ring::NodeAttributes& attributes) {
  const auto words = std::bit_cast<std::array<uint64_t, sizeof(attributes) / 8>>(attributes);
  for (size_t i = 0; i < words.size(); ++i) state.root.at(i).store(words.at(i), std::memory_order_relaxed);
}

std::optional<ring::NodeAttributes> LastRoot(const SharedState& state) {
  std::array<uint64_t, sizeof(ring::NodeAttributes) / 8> words{};
  for (size_t i = 0; i < words.size(); ++i) words.at(i) = state.root.at(i).load(std::memory_order_relaxed);
  const auto attributes = std::bit_cast<ring::NodeAttributes>(words);
  if (attributes.node != ring::kRootNode) return {};
  return attributes;
}

void RememberView(SharedState& state, const ShownView& view) {
  std::array<uint64_t, std::tuple_size_v<decltype(state.view_reason)>> words{};
  std::string text = view.reason.substr(0, sizeof(words) - 1);
  std::ranges::replace_if(text, [](char c) { return static_cast<unsigned char>(c) >= 0x80; }, '?');
  std::memcpy(words.data(), text.data(), text.size());
  ++state.view_turn;
  state.view_shown = view.shown;
  state.view_failed = view.failed;
  for (size_t i = 0; i < words.size(); ++i) state.view_reason.at(i) = words.at(i);
  ++state.view_turn;
}

std::optional<ShownView> LastView(const SharedState& state, uint32_t* turn) {
  const uint32_t before = state.view_turn;
  ShownView view{.shown = state.view_shown, .failed = state.view_failed, .reason = {}};
  std::array<uint64_t, std::tuple_size_v<decltype(state.view_reason)>> words{};
  for (size_t i = 0; i < words.size(); ++i) words.at(i) = state.view_reason.at(i);
  if (before % 2 != 0 || state.view_turn != before) return std::nullopt;
  const std::string_view text(reinterpret_cast<const char*>(words.data()), sizeof(words));
  view.reason = text.substr(0, text.find('\0'));
  *turn = before;
  return view;
}

bool IsPoison(const SharedState& state, uint64_t unique) {
  return std::ranges::any_of(state.suspects, [&](const Suspect& suspect) {
    return suspect.points >= kPoisonPoints && suspect.unique == (unique & ~kResendBit);
  });
}

}  // namespace mlcache::shim
