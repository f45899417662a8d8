// The table under the policies, against a plain map.
#include "cached/policy/unit_table.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "bench/policy/traces.h"

namespace mlcache::policy {
namespace {

TEST(UnitTableTest, AgreesWithAMap) {
  const auto seed = std::random_device()();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  UnitTable<int> table;
  std::map<uint32_t, int> model;
  for (int step = 0; step < 50'000; ++step) {
    const auto number = static_cast<uint32_t>(random() % 300);
    const auto unit = bench::UnitOf(number);
    const auto index = table.Find(unit);
    ASSERT_EQ(index != UnitTable<int>::kNone, model.contains(number)) << "step " << step;
    if (index == UnitTable<int>::kNone) {
      table[table.Insert(unit)] = step;
      model[number] = step;
    } else if (random() % 2 == 0) {
      table.Erase(index);
      model.erase(number);
    } else {
      ASSERT_EQ(table[index], model[number]);
      ASSERT_EQ(table.UnitOf(index), unit);
    }
    ASSERT_EQ(table.size(), model.size());
  }
}

TEST(UnitTableTest, ListsKeepTheirOrder) {
  UnitTable<int> table;
  UnitTable<int>::List list;
  for (uint32_t i = 0; i < 5; ++i) table.PushBack(list, table.Insert(bench::UnitOf(i)));
  table.Remove(list, table.Find(bench::UnitOf(0)));
  table.Remove(list, table.Find(bench::UnitOf(2)));
  table.Remove(list, table.Find(bench::UnitOf(4)));
  EXPECT_EQ(list.count, 2U);
  EXPECT_EQ(table.UnitOf(list.head), bench::UnitOf(1));
  EXPECT_EQ(table.UnitOf(table.NextOf(list.head)), bench::UnitOf(3));
  EXPECT_EQ(table.UnitOf(list.tail), bench::UnitOf(3));
}

TEST(UnitTableTest, ChunksOfAnObjectDiffer) {
  UnitTable<int> table;
  EvictionUnit unit = bench::UnitOf(7);
  table[table.Insert(unit)] = -1;
  for (int chunk = 0; chunk < 1000; ++chunk) {
    unit.chunk = chunk;
    table[table.Insert(unit)] = chunk;
  }
  for (int chunk = -1; chunk < 1000; ++chunk) {
    unit.chunk = chunk;
    EXPECT_EQ(table[table.Find(unit)], chunk);
  }
}

}  // namespace
}  // namespace mlcache::policy
