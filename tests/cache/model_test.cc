// Random fills, reads, evictions, restarts, boots, damage and failing disks against a plain picture of what may be
// read. Whatever happens: never a wrong byte, never more than the budget.
#include <fcntl.h>
#include <unistd.h>

#include <random>

#include "cached/policy/make_policy.h"
#include "common/unique_fd.h"
#include "tests/cache/cache_world.h"
#include "tests/cache/faulty_file_ops.h"

namespace mlcache::cache {
namespace {

constexpr uint64_t kCapacity = 40 * kMiB;

class Model {
 public:
  Model(uint32_t seed, policy::PolicyKind kind) : random_(seed), world_(Options(kind)) {
    for (int i = 0; i < 12; ++i) {
      const uint64_t size = i % 2 == 0 ? Below(3 * kBlockBytes) + 1 : Below(4 * kChunkBytes) + 1;
      keys_.push_back(KeyOf("object" + std::to_string(i), size));
    }
  }

  void Step() {
    const ObjectKey& key = keys_[Below(keys_.size())];
    const uint64_t action = Below(100);
    if (action < 45) {
      Fill(key);
    } else if (action < 85) {
      Read(key);
    } else if (action < 90) {
      world_.cache().Evict(key);
      EXPECT_EQ(world_.Get(key)->CachedBytes(), 0U);
    } else if (action < 94) {
      Try(world_.cache().Flush());
    } else if (action < 96) {
      Restart(false);
    } else if (action < 97) {
      Restart(true);
    } else if (action < 98) {
      Damage(key);
    } else {
      ops_.write_error = Below(2) == 0 ? ENOSPC : 0;
      ops_.read_error = Below(8) == 0 ? EIO : 0;
      world_.clock.Advance(std::chrono::seconds(31));
    }
    const TierReport tier = world_.cache().Tiers().front();
    EXPECT_LE(tier.used_bytes, kCapacity);
    EXPECT_LE(SpaceBelow(directory_.path()), kCapacity);
  }

 private:
  CacheOptions Options(policy::PolicyKind kind) {
    CacheOptions options{.tiers = {{directory_.path(), kCapacity}}, .commit_interval = std::chrono::hours(1)};
    options.file_ops = &ops_;
    options.boot_id = "boot0";
    options.make_eviction = [kind](uint64_t capacity) { return policy::MakePolicy(kind, capacity); };
    return options;
  }

  uint64_t Below(uint64_t limit) { return random_() % limit; }

  ByteRange SomeRange(const ObjectKey& key) {
    const uint64_t offset = Below(key.size);
    return {offset, std::min(key.size - offset, Below(2 * kChunkBytes) + 1)};
  }

  void Fill(const ObjectKey& key) {
    const auto object = world_.Get(key);
    const ByteRange range = SomeRange(key);
    for (const ByteRange& part : object->Missing(range.offset, range.length)) {
      const Status filled = FillRange(*object, part.offset, part.length);
      const bool healthy = ops_.write_error == 0 && ops_.read_error == 0 && world_.cache().Tiers()[0].state == "ok";
      EXPECT_TRUE(filled.has_value() || !healthy) << filled.error();
      EXPECT_TRUE(!filled.has_value() || object->Missing(part.offset, part.length).empty());
    }
  }

  void Read(const ObjectKey& key) {
    const auto object = world_.Get(key);
    const ByteRange range = SomeRange(key);
    const bool present = object->Missing(range.offset, range.length).empty();
    std::vector<std::byte> out(range.length);
    const Status read = object->Read(range.offset, out, Below(4) == 0 ? Wait::kNever : Wait::kMayBlock);
    AccessHints hints;
    hints.reader = 1 + range.offset % 2;
    object->Touch(range, hints);
    if (read.has_value()) {
      EXPECT_TRUE(present);
      EXPECT_TRUE(out == BytesOf(key, range.offset, range.length)) << key.path << " at " << range.offset;
      return;
    }
    if (!present) return;
    EXPECT_TRUE(read.error().code() == Code::kUnavailable || (read.error().code() == Code::kDataLoss && damaged_))
        << read.error();
  }

  void Restart(bool reboot) {
    world_.Close();
    if (reboot) world_.options().boot_id += "'";
    const int error = ops_.read_error.exchange(0);
    world_.Open();
    ops_.read_error = error;
  }

  void Damage(const ObjectKey& key) {
    world_.Close();
    const std::string path = FileOf(directory_.path(), key);
    struct stat info{};
    if (::stat(path.c_str(), &info) == 0) {
      ASSERT_EQ(::chmod(path.c_str(), 0600), 0);
      const UniqueFd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
      const uint64_t at = Below(key.size);
      const auto byte = static_cast<uint8_t>(std::to_integer<uint8_t>(BytesOf(key, at, 1)[0]) ^ 0xFF);
      ASSERT_EQ(::pwrite(file.get(), &byte, 1, static_cast<off_t>(at)), 1);
      damaged_ = true;
    }
    world_.Open();
  }

  std::mt19937 random_;
  TempDirectory directory_{"/dev/shm"};
  FaultyFileOps ops_;
  CacheWorld world_;
  std::vector<ObjectKey> keys_;
  bool damaged_ = false;
};

void RunModel(uint32_t seed, policy::PolicyKind kind = policy::PolicyKind::kLru) {
  Model model(seed, kind);
  for (int step = 0; step < 400 && !::testing::Test::HasFailure(); ++step) {
    SCOPED_TRACE(::testing::Message() << "seed " << seed << " step " << step);
    model.Step();
  }
}

TEST(CacheModelTest, NeverAWrongByteNeverMoreThanTheBudget) {
  const char* given = std::getenv("MLCACHE_SEED");
  const uint32_t seed = given != nullptr ? static_cast<uint32_t>(std::stoul(given)) : std::random_device()();
  std::cout << "MLCACHE_SEED=" << seed << "\n";
  for (const auto kind : {policy::PolicyKind::kLru, policy::PolicyKind::kAuto, policy::PolicyKind::kS3Fifo,
                          policy::PolicyKind::kPinned}) {
    SCOPED_TRACE(::testing::Message() << "policy " << static_cast<int>(kind));
    RunModel(seed, kind);
  }
}

// Making room for an object took away its own last chunk, and the room for its file's map was missing.
TEST(CacheModelTest, SeedsThatFoundMistakes) { RunModel(869522241); }

}  // namespace
}  // namespace mlcache::cache
