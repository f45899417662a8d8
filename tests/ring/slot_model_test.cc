// Random acquiring, sending, giving back and releasing, against sets that a child could keep.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <vector>

#include "common/ring/slot_table.h"

namespace mlcache::ring {
namespace {

enum class Holder { kDaemon, kShim };

TEST(SlotModel, AgreesWithAMap) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  for (int table_number = 0; table_number < 50 && !HasFailure(); ++table_number) {
    const Geometry geometry = {.small_slots = static_cast<uint32_t>(random() % 5),
                               .large_slots = 1 + static_cast<uint32_t>(random() % 4)};
    const Layout layout(geometry);
    SlotTable slots(layout);
    std::map<uint32_t, Holder> held;
    const auto held_small = [&] {
      return static_cast<uint32_t>(
          std::ranges::count_if(held, [&](const auto& entry) { return layout.IsSmall(entry.first); }));
    };
    for (int step = 0; step < 2000 && !HasFailure(); ++step) {
      const auto slot = static_cast<uint32_t>(random() % (layout.SlotCount() + 2));
      const bool daemons = held.contains(slot) && held[slot] == Holder::kDaemon;
      switch (random() % 4) {
        case 0: {
          const bool small = random() % 2 == 0;
          const bool small_left = held_small() < geometry.small_slots;
          const bool large_left = held.size() - held_small() < geometry.large_slots;
          const auto got = slots.Acquire(small ? kSmallSlotBytes : kSmallSlotBytes + 1);
          ASSERT_EQ(got.has_value(), (small && small_left) || large_left);
          if (!got.has_value()) break;
          ASSERT_EQ(layout.IsSmall(*got), small && small_left);
          ASSERT_LT(*got, layout.SlotCount());
          ASSERT_TRUE(held.emplace(*got, Holder::kDaemon).second) << "given out twice";
          break;
        }
        case 1:
          if (!daemons) break;
          slots.Send(slot);
          held[slot] = Holder::kShim;
          break;
        case 2:
          if (!daemons) break;
          slots.Release(slot);
          held.erase(slot);
          break;
        default: {
          const bool shims = held.contains(slot) && held[slot] == Holder::kShim;
          ASSERT_EQ(slots.TakeBack(slot), shims);
          if (shims) held.erase(slot);
        }
      }
      ASSERT_EQ(slots.InUse(), held.size());
    }
  }
}

}  // namespace
}  // namespace mlcache::ring
