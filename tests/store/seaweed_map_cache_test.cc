#include "cached/store/seaweed_map_cache.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>

namespace mlcache::store {
namespace {

SeaweedMapCache::MapPtr MapOf(size_t chunks, size_t content_bytes = 0) {
  auto layout = std::make_shared<SeaweedLayout>();
  layout->content.assign(content_bytes, 'x');
  auto map = std::make_shared<SeaweedMap>();
  map->layout = std::move(layout);
  map->chunks.resize(chunks);
  return map;
}

TEST(SeaweedMapCache, TheOneUsedLeastLatelyGoes) {
  SeaweedMapCache cache(30);
  const auto first = MapOf(9);
  cache.Insert("a", first);
  cache.Insert("b", MapOf(9));
  cache.Insert("c", MapOf(9));
  EXPECT_EQ(cache.cost(), 30U);
  EXPECT_EQ(cache.Find("a"), first);
  cache.Insert("d", MapOf(9));
  EXPECT_EQ(cache.Find("b"), nullptr);
  EXPECT_EQ(cache.Find("a"), first);
  EXPECT_NE(cache.Find("c"), nullptr);
  EXPECT_NE(cache.Find("d"), nullptr);
  EXPECT_EQ(cache.cost(), 30U);
}

TEST(SeaweedMapCache, ContentIsCountedToo) {
  SeaweedMapCache cache(1'000);
  for (int i = 0; i < 100; ++i) cache.Insert(std::to_string(i), MapOf(0, 8'000));  // 800 kB in all
  EXPECT_LE(cache.cost(), 1'000U);
  EXPECT_EQ(cache.Find("0"), nullptr);
  EXPECT_EQ(cache.Find("90"), nullptr);
  EXPECT_NE(cache.Find("91"), nullptr);
}

TEST(SeaweedMapCache, TwoWhoMakeAMapAtOnceShareTheFirst) {
  SeaweedMapCache cache(100);
  const auto first = MapOf(9);
  EXPECT_EQ(cache.Insert("a", first), first);
  EXPECT_EQ(cache.Insert("a", MapOf(9)), first);
  EXPECT_EQ(cache.cost(), 10U);
}

TEST(SeaweedMapCache, AMapThatIsTooLargeIsKeptWhileItIsTheLast) {
  SeaweedMapCache cache(10);
  const auto large = MapOf(1'000);
  cache.Insert("a", MapOf(1));
  cache.Insert("large", large);
  EXPECT_EQ(cache.Find("a"), nullptr);
  EXPECT_EQ(cache.Find("large"), large);
  cache.Insert("b", MapOf(1));
  EXPECT_EQ(cache.Find("large"), nullptr);
  EXPECT_EQ(cache.cost(), 2U);
}

}  // namespace
}  // namespace mlcache::store
