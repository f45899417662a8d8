// The wake-up protocol of common/ring/doorbell.h as a state machine, with every interleaving of its steps tried: two
// producers that share one consumer's `asleep` word and doorbell, as the shim's workers share the daemon's. The real
// code runs the steps as sequentially consistent operations, so their interleavings are all that can happen.
#include <gtest/gtest.h>

#include <array>
#include <compare>
#include <set>
#include <vector>

namespace mlcache::ring {
namespace {

// What one can get wrong; the model must find each.
enum class Mistake { kNone, kLookBeforeAnnouncing, kLookAtAsleepBeforePushing, kRingBeforeClearing };

constexpr int kPushes = 3;

struct State {
  // Producers: next step (0 push, 1 load asleep, 2 exchange, 3 ring) and pushes to go.
  std::array<int, 2> step{};
  std::array<int, 2> left = {kPushes, kPushes};
  // Shared: entries in each queue, the announcement, an edge of the doorbell not yet waited for.
  std::array<int, 2> queued{};
  bool asleep = false;
  bool edge = false;
  // Consumer: 0 withdraw, 1..2 pop a queue, 3 announce, 4..5 look again, 6 wait.
  int consumer = 0;

  auto operator<=>(const State&) const = default;
};

class Explorer {
 public:
  explicit Explorer(Mistake mistake) : mistake_(mistake) {}

  // Whether some interleaving ends with the consumer asleep for ever beside a queue that is not empty.
  bool FindsLostWakeUp() {
    std::vector<State> open = {State{}};
    while (!open.empty()) {
      const State state = open.back();
      open.pop_back();
      if (!seen_.insert(state).second) continue;
      const size_t before = open.size();
      for (int producer = 0; producer < 2; ++producer) StepProducer(state, producer, &open);
      StepConsumer(state, &open);
      if (open.size() == before && state.queued[0] + state.queued[1] > 0) return true;
    }
    return false;
  }

  size_t states() const { return seen_.size(); }

 private:
  void StepProducer(State state, int producer, std::vector<State>* next) const {
    int& step = state.step[producer];
    if (step == 0 && state.left[producer] == 0) return;
    const bool reversed = mistake_ == Mistake::kLookAtAsleepBeforePushing;
    const auto push = [&] {
      ++state.queued[producer];
      --state.left[producer];
    };
    switch (step) {
      case 0:
        if (reversed) {
          step = state.asleep ? 2 : 1;
        } else {
          push();
          step = 1;
        }
        break;
      case 1:
        if (reversed) push();
        step = !reversed && state.asleep ? 2 : 0;
        break;
      case 2:
        if (reversed) push();
        if (mistake_ == Mistake::kRingBeforeClearing) {
          state.edge = true;
          step = 3;
          break;
        }
        step = state.asleep ? 3 : 0;
        state.asleep = false;
        break;
      default:
        if (mistake_ == Mistake::kRingBeforeClearing) {
          state.asleep = false;
        } else {
          state.edge = true;
        }
        step = 0;
    }
    next->push_back(state);
  }

  void StepConsumer(State state, std::vector<State>* next) const {
    const bool reversed = mistake_ == Mistake::kLookBeforeAnnouncing;
    const auto look = [&](int queue) { state.consumer = state.queued[queue] > 0 ? 0 : state.consumer + 1; };
    switch (state.consumer) {
      case 0:
        state.asleep = false;
        state.consumer = 1;
        break;
      case 1:
      case 2: {
        int& queued = state.queued[state.consumer - 1];
        state.consumer = queued > 0 ? 0 : state.consumer + 1;
        if (queued > 0) --queued;
        break;
      }
      case 3:
        if (reversed) {
          look(0);
        } else {
          state.asleep = true;
          ++state.consumer;
        }
        break;
      case 4:
        look(reversed ? 1 : 0);
        break;
      case 5:
        if (reversed) {
          state.asleep = true;
          ++state.consumer;
        } else {
          look(1);
        }
        break;
      default:
        if (!state.edge) return;
        state.edge = false;
        state.consumer = 0;
    }
    next->push_back(state);
  }

  Mistake mistake_;
  std::set<State> seen_;
};

TEST(WakeModel, NoInterleavingLosesAWakeUp) {
  Explorer explorer(Mistake::kNone);
  EXPECT_FALSE(explorer.FindsLostWakeUp());
  EXPECT_GT(explorer.states(), 1000U);
}

TEST(WakeModel, FindsTheMistakesThatOneCouldMake) {
  EXPECT_TRUE(Explorer(Mistake::kLookBeforeAnnouncing).FindsLostWakeUp());
  EXPECT_TRUE(Explorer(Mistake::kLookAtAsleepBeforePushing).FindsLostWakeUp());
  EXPECT_TRUE(Explorer(Mistake::kRingBeforeClearing).FindsLostWakeUp());
}

}  // namespace
}  // namespace mlcache::ring
