// The contract of ObjectCache, over the real one on disk, the real one on tmpfs, and the fake.
#include <atomic>
#include <thread>

#include "tests/cache/cache_world.h"
#include "tests/fakes/fake_object_cache.h"

namespace mlcache::cache {
namespace {

constexpr uint64_t kCapacity = 48 * kMiB;

struct Subject {
  virtual ~Subject() = default;
  virtual ObjectCache& cache() = 0;
};
struct RealSubject final : Subject {
  explicit RealSubject(const std::string& parent) : directory(parent), world(directory.path(), kCapacity) {}
  ObjectCache& cache() override { return world.cache(); }
  TempDirectory directory;
  CacheWorld world;
};
struct FakeSubject final : Subject {
  ObjectCache& cache() override { return fake; }
  FakeObjectCache fake{kCapacity};
};

class ObjectCacheContract : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (GetParam() == "disk") subject_ = std::make_unique<RealSubject>(::testing::TempDir());
    if (GetParam() == "memory") subject_ = std::make_unique<RealSubject>("/dev/shm");
    if (GetParam() == "fake") subject_ = std::make_unique<FakeSubject>();
  }
  ObjectCache& cache() { return subject_->cache(); }
  std::shared_ptr<CachedObject> Get(const ObjectKey& key) { return cache().Acquire(key).value(); }

 private:
  std::unique_ptr<Subject> subject_;
};

TEST_P(ObjectCacheContract, NothingIsThereAtFirst) {
  const ObjectKey key = KeyOf("a", 3 * kBlockBytes + 5);
  EXPECT_EQ(cache().Find(key), nullptr);
  const auto object = Get(key);
  EXPECT_EQ(object->key(), key);
  EXPECT_EQ(object->CachedBytes(), 0U);
  EXPECT_EQ(object->TierKind(), "");
  EXPECT_THAT(object->Missing(0, key.size), ::testing::ElementsAre(ByteRange{0, key.size}));
  EXPECT_THAT(object->Missing(10, 0), ::testing::IsEmpty());
  std::vector<std::byte> out(1);
  EXPECT_EQ(object->Read(0, out, Wait::kMayBlock).error().code(), Code::kNotFound);
  EXPECT_EQ(cache().Find(key), nullptr);
}

TEST_P(ObjectCacheContract, OneEntryForAKeyAndAnotherForEachVersion) {
  const auto object = Get(KeyOf("a", 10));
  EXPECT_EQ(Get(KeyOf("a", 10)), object);
  EXPECT_NE(Get(KeyOf("a", 10, "v2")), object);
}

TEST_P(ObjectCacheContract, WhatWasFilledIsReadBackOfEverySize) {
  for (const uint64_t size : {uint64_t{0}, uint64_t{1}, kBlockBytes - 1, kBlockBytes, kBlockBytes + 1, kChunkBytes - 1,
                              kChunkBytes, kChunkBytes + 1, 2 * kChunkBytes + 7}) {
    const auto object = Get(KeyOf("size" + std::to_string(size), size));
    ASSERT_TRUE(FillRange(*object, 0, size).has_value()) << size;
    EXPECT_THAT(object->Missing(0, size), ::testing::IsEmpty());
    EXPECT_EQ(object->CachedBytes(), size);
    EXPECT_TRUE(ReadsBack(*object, 0, size)) << size;
    if (size > 3) {
      EXPECT_TRUE(ReadsBack(*object, size / 2, size - size / 2));
      EXPECT_NE(cache().Find(object->key()), nullptr);
      EXPECT_NE(object->TierKind(), "");
    }
  }
}

TEST_P(ObjectCacheContract, PresenceIsByBlock) {
  const auto object = Get(KeyOf("parts", 5 * kBlockBytes + 100));
  ASSERT_TRUE(FillRange(*object, kBlockBytes, kBlockBytes).has_value());
  ASSERT_TRUE(FillRange(*object, 5 * kBlockBytes, 100).has_value());
  EXPECT_THAT(object->Missing(0, object->key().size),
              ::testing::ElementsAre(ByteRange{0, kBlockBytes}, ByteRange{2 * kBlockBytes, 3 * kBlockBytes}));
  EXPECT_THAT(object->Missing(kBlockBytes + 1, 5), ::testing::IsEmpty());
  EXPECT_THAT(object->Missing(3 * kBlockBytes + 9, 1), ::testing::ElementsAre(ByteRange{3 * kBlockBytes, kBlockBytes}));
  EXPECT_TRUE(ReadsBack(*object, kBlockBytes + 7, 1000));
  std::vector<std::byte> out(2 * kBlockBytes);
  EXPECT_EQ(object->Read(kBlockBytes, out, Wait::kMayBlock).error().code(), Code::kNotFound);
}

TEST_P(ObjectCacheContract, BadArgumentsAreErrors) {
  const auto object = Get(KeyOf("bad", 2 * kBlockBytes + 1));
  const auto room = object->Reserve({0, object->key().size}, {}).value();
  const std::vector<std::byte> bytes(kBlockBytes);
  EXPECT_EQ(object->Fill(*room, 1, bytes).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(object->Fill(*room, 0, std::span(bytes).first(5)).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(object->Fill(*room, 2 * kBlockBytes, bytes).error().code(), Code::kInvalidArgument);
  std::vector<std::byte> out(2);
  EXPECT_EQ(object->Read(2 * kBlockBytes, out, Wait::kMayBlock).error().code(), Code::kOutOfRange);
  EXPECT_EQ(object->CachedBytes(), 0U);
}

TEST_P(ObjectCacheContract, FillingMoreThanReservedIsRefused) {
  const auto object = Get(KeyOf("room", 4 * kBlockBytes));
  const auto room = object->Reserve({0, kBlockBytes}, {}).value();
  EXPECT_EQ(object->Fill(*room, 0, BytesOf(object->key(), 0, 4 * kBlockBytes)).error().code(),
            Code::kResourceExhausted);
  EXPECT_EQ(object->CachedBytes(), 0U);
}

TEST_P(ObjectCacheContract, WhatIsNotToBeKeptIsNotAdmitted) {
  const auto object = Get(KeyOf("transient", 100));
  EXPECT_EQ(object->Reserve({0, 100}, {.job = {}, .keep = false}).error().code(), Code::kResourceExhausted);
}

TEST_P(ObjectCacheContract, EvictDropsEverythingAndTheEntryGoesOn) {
  const auto object = Get(KeyOf("evicted", kChunkBytes + 1));
  ASSERT_TRUE(FillRange(*object, 0, kChunkBytes + 1).has_value());
  EXPECT_EQ(cache().Evict(object->key()), kChunkBytes + 1);
  EXPECT_EQ(cache().Evict(object->key()), 0U);
  EXPECT_EQ(object->CachedBytes(), 0U);
  EXPECT_EQ(cache().Find(object->key()), nullptr);
  ASSERT_TRUE(FillRange(*object, 0, kChunkBytes + 1).has_value());
  EXPECT_TRUE(ReadsBack(*object, 0, kChunkBytes + 1));
}

TEST_P(ObjectCacheContract, OthersMakeRoomAndTheBudgetHolds) {
  for (int i = 0; i < 40; ++i) {
    const auto object = Get(KeyOf("many" + std::to_string(i), 2 * kMiB));
    ASSERT_TRUE(FillRange(*object, 0, 2 * kMiB).has_value()) << i;
    object->Touch({0, 1}, {});
    for (const TierReport& tier : cache().Tiers()) EXPECT_LE(tier.used_bytes, tier.capacity_bytes);
  }
  EXPECT_NE(cache().Find(KeyOf("many39", 2 * kMiB)), nullptr);
  const auto huge = Get(KeyOf("huge", 2 * kCapacity));
  EXPECT_EQ(huge->Reserve({0, 2 * kCapacity}, {}).error().code(), Code::kResourceExhausted);
}

TEST_P(ObjectCacheContract, AReservationNotUsedIsGivenBack) {
  const uint64_t before = cache().Tiers().front().used_bytes;
  const auto object = Get(KeyOf("unused", kMiB));
  {
    const auto room = object->Reserve({0, kMiB}, {}).value();
    EXPECT_GE(cache().Tiers().front().used_bytes, before + kMiB);
  }
  EXPECT_EQ(cache().Tiers().front().used_bytes, before);
}

TEST_P(ObjectCacheContract, ConcurrentReadersFillersAndEvictionsSeeNoWrongByte) {
  constexpr uint64_t kSize = 3 * kChunkBytes;
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (uint64_t worker = 0; worker < 4; ++worker) {
    threads.emplace_back([&, worker] {
      for (uint64_t round = 0; round < 60; ++round) {
        const auto object = Get(KeyOf("shared" + std::to_string(round % 3), kSize));
        const uint64_t offset = (worker * 7 + round * 13) % 48 * kBlockBytes;
        const uint64_t length = std::min(4 * kBlockBytes, kSize - offset);
        if (worker == 0 && round % 5 == 0) cache().Evict(object->key());
        Try(FillRange(*object, offset, length));
        std::vector<std::byte> out(length);
        const Status read = object->Read(offset, out, round % 2 == 0 ? Wait::kMayBlock : Wait::kNever);
        if (read.has_value() && out != BytesOf(object->key(), offset, length)) ++wrong;
        if (!read.has_value() && read.error().code() == Code::kDataLoss) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_TRUE(cache().Flush().has_value());
}

INSTANTIATE_TEST_SUITE_P(Caches, ObjectCacheContract, ::testing::Values("disk", "memory", "fake"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace mlcache::cache
