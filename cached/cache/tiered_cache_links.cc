// The part of TieredCache that implements ObjectLinks.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "cached/cache/reservation.h"
#include "cached/cache/tiered_cache.h"

namespace mlcache::cache {
namespace {

constexpr uint64_t kVerifyBytes = kMiB;
constexpr uint64_t kStatBlockBytes = 512;
constexpr uint64_t kDisplacedPart = 4;  // of a tier's capacity

// Reading verifies.
Status ReadThrough(CachedObject& object) {
  std::vector<std::byte> buffer(kVerifyBytes);
  const uint64_t size = object.key().size;
  for (uint64_t offset = 0; offset < size; offset += kVerifyBytes) {
    const auto part = std::span(buffer).first(std::min(kVerifyBytes, size - offset));
    MLCACHE_RETURN_IF_ERROR(object.Read(offset, part, Wait::kMayBlock));
  }
  return {};
}

}  // namespace

std::shared_ptr<FilePin> TieredCache::Pin(const ObjectId& id, Tier& tier) {
  const std::scoped_lock lock(mutex_);
  Record& record = records_[id];
  if (record.pin == nullptr) {
    record.pin = std::make_shared<FilePin>(tier.budget());
    record.links = 0;
    ++linked_;
    LevelOf(&tier).eviction->Forget({id, kWholeObject});
  }
  ++record.links;
  return record.pin;
}

void TieredCache::Unpin(const ObjectLink& link) {
  const std::scoped_lock lock(mutex_);
  const auto found = records_.find(link.id);
  if (found == records_.end()) return;
  Record& record = found->second;
  if (record.pin != link.pin || --record.links > 0) return;
  record.pin.reset();
  --linked_;
  if (record.tier == nullptr || record.state.cached_bytes == 0) return;
  const AccessHints hints{.job = {}, .object_class = record.state.object_class};
  LevelOf(record.tier).eviction->Track({link.id, kWholeObject}, record.state.charged_bytes, hints);
}

Result<ObjectLink> TieredCache::Link(const ObjectKey& key, std::span<const int> directories) {
  const ObjectId id = IdOf(key);
  MLCACHE_ASSIGN_OR_RETURN(const std::shared_ptr<CachedObject> object, Acquire(key));
  const std::shared_ptr<Entry> entry = EntryOf(id);
  for (bool verified = false;; verified = true) {
    size_t tier = levels_.size();
    {
      const std::scoped_lock lock(mutex_);
      const Tier* const wanted = records_[id].tier;
      for (size_t i = 0; i < levels_.size(); ++i) {
        if (levels_[i].tier.get() == wanted) tier = i;
      }
    }
    if (tier >= directories.size()) return Fail(Code::kNotFound, key.path + ": not cached");
    ObjectLink link{.id = id, .tier = tier, .pin = nullptr};
    const Status linked = entry->LinkTo(directories[tier], [&](Tier& where) { link.pin = Pin(id, where); });
    if (linked.has_value()) return link;
    if (link.pin != nullptr) Unpin(link);
    if (linked.error().code() != Code::kFailedPrecondition || verified) return std::unexpected(linked.error());
    MLCACHE_RETURN_IF_ERROR(ReadThrough(*object));
  }
}

Result<ObjectLink> TieredCache::Adopt(const ObjectId& id, size_t tier, int directory) {
  struct stat info{};
  if (::fstatat(directory, ToHex(id).c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0)
    return FailErrno(errno, "a link of a view: " + ToHex(id));
  if (const std::shared_ptr<Entry> entry = EntryOf(id); entry != nullptr) {
    ObjectLink link{.id = id, .tier = tier, .pin = nullptr};
    if (entry->AdoptLink(info.st_ino, [&](Tier& where) { link.pin = Pin(id, where); }).has_value()) return link;
  }
  // Its object is gone; the space is taken all the same.
  Budget& budget = levels_[tier].tier->budget();
  ObjectLink link{.id = id, .tier = tier, .pin = std::make_shared<FilePin>(budget)};
  const uint64_t bytes = static_cast<uint64_t>(info.st_blocks) * kStatBlockBytes;
  budget.ForceCharge(bytes);
  link.pin->Keep(bytes);
  return link;
}

void TieredCache::Unlink(ObjectLink link, int directory) {
  std::shared_ptr<Entry> entry;
  {
    const std::scoped_lock lock(mutex_);
    const auto found = records_.find(link.id);
    if (found != records_.end() && found->second.pin == link.pin) entry = Open(link.id, found->second);
  }
  if (entry == nullptr) {
    ::unlinkat(directory, ToHex(link.id).c_str(), 0);
    return;
  }
  entry->RemoveLink(directory);
  Unpin(link);
}

Result<std::unique_ptr<Reservation>> TieredCache::Hold(size_t tier, uint64_t bytes) {
  Level& level = levels_[tier];
  if (level.tier->health() != TierHealth::kOk || !MakeRoom(level, bytes, true))
    return Fail(Code::kResourceExhausted, level.tier->directory() + ": no room for " + FormatSize(bytes));
  return std::make_unique<Room>(*level.tier, bytes, AccessHints());
}

// What stands in the way is perhaps linked: whoever made the links is told. Always false.
bool TieredCache::NoRoom() {
  bool linked = false;
  {
    const std::scoped_lock lock(mutex_);
    linked = linked_ > 0;
  }
  if (linked && contention_) contention_();
  return false;
}

// Others make do with what the linked objects leave them. Once that has cost them a good part of the tier, it is time
// that all compete again.
void TieredCache::Displaced(const Level& level, uint64_t bytes) {
  {
    const std::scoped_lock lock(mutex_);
    displaced_bytes_ = linked_ == 0 ? 0 : displaced_bytes_ + bytes;
    if (displaced_bytes_ < level.tier->budget().capacity_bytes() / kDisplacedPart) return;
    displaced_bytes_ = 0;
  }
  if (contention_) contention_();
}

}  // namespace mlcache::cache
