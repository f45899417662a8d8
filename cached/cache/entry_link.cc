// The part of Entry that knows of hard links to its file. A link changes the file's ctime and with it what verification
// rests on: each change of ours is framed by a look before, which compares, and one after, which records.
#include <sys/stat.h>
#include <unistd.h>

#include <mutex>

#include "cached/cache/entry.h"

namespace mlcache::cache {

// state_mutex_ held.
Status Entry::KeepIdentity(const ObjectFile& file) {
  MLCACHE_ASSIGN_OR_RETURN(const ObjectFile::Facts facts, file.Look());
  state_.identity = facts.identity;
  host_.Changed(id_, state_, tier_, {}, {});
  MarkDirty(0);
  return {};
}

// By the file itself, so that it is true before the links of an earlier run are adopted.
bool Entry::HasLinks() const {
  const std::scoped_lock lock(state_mutex_);
  if (tier_ == nullptr) return false;
  const auto file = tier_->OpenObject(id_, false);
  if (!file.has_value()) return false;
  const auto facts = (*file)->Look();
  return facts.has_value() && facts->links > 1;
}

Status Entry::LinkTo(int directory, const std::function<void(Tier&)>& pin) {
  const std::shared_lock io(io_mutex_);
  const std::scoped_lock lock(state_mutex_);
  if (tier_ == nullptr || tier_->health() == TierHealth::kFailed || !state_.complete)
    return Fail(Code::kNotFound, key_.path + ": not completely cached");
  MLCACHE_ASSIGN_OR_RETURN(const std::shared_ptr<ObjectFile> file, File());
  if (!state_.all_verified) return Fail(Code::kFailedPrecondition, key_.path + ": to be verified first");
  // The other way round an eviction between the two would not know of the link.
  pin(*tier_);
  MLCACHE_RETURN_IF_ERROR(tier_->LinkObject(id_, directory));
  return KeepIdentity(*file);
}

Status Entry::AdoptLink(uint64_t inode, const std::function<void(Tier&)>& pin) {
  const std::shared_lock io(io_mutex_);
  const std::scoped_lock lock(state_mutex_);
  if (tier_ == nullptr) return Fail(Code::kNotFound, "not cached");
  MLCACHE_ASSIGN_OR_RETURN(const std::shared_ptr<ObjectFile> file, File());
  MLCACHE_ASSIGN_OR_RETURN(const ObjectFile::Facts facts, file->Look());
  if (facts.identity.inode != inode) return Fail(Code::kNotFound, "a link to an earlier file");
  pin(*tier_);
  return {};
}

void Entry::RemoveLink(int directory) {
  const std::shared_lock io(io_mutex_);
  const std::scoped_lock lock(state_mutex_);
  Result<std::shared_ptr<ObjectFile>> file = Fail(Code::kNotFound, "");
  if (tier_ != nullptr) file = File();
  ::unlinkat(directory, ToHex(id_).c_str(), 0);
  // On a failure the next read takes it for a stranger's change, and verifies again.
  if (file.has_value()) static_cast<void>(KeepIdentity(**file));
}

}  // namespace mlcache::cache
