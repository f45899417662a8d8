#include "cached/cache/entry.h"

#include <sys/stat.h>

#include "cached/cache/block_sum.h"
#include "cached/cache/reservation.h"

namespace mlcache::cache {

Entry::Entry(EntryHost& host, const ObjectId& id, const ObjectState& state, Tier* tier)
    : host_(host),
      id_(id),
      size_(state.size),
      fingerprint_(state.fingerprint),
      state_(state),
      tier_(tier),
      wanted_tier_(tier),
      blocks_(state.size),
      loaded_(tier == nullptr),
      key_row_(tier != nullptr),
      read_only_(state.complete) {}

Entry::~Entry() { host_.Closed(id_); }

void Entry::SetKey(const ObjectKey& key) {
  key_ = key;
  has_key_ = true;
}

Status Entry::Load() const {
  if (loaded_ || tier_ == nullptr) return {};
  auto chunks = tier_->index().LoadChunks(id_, state_.epoch, size_);
  if (!chunks.has_value()) return std::unexpected(tier_->Failed(chunks.error()));
  blocks_.Load(std::move(*chunks));
  loaded_ = true;
  return {};
}

bool Entry::Present(uint64_t offset, uint64_t length) const {
  if (tier_ == nullptr || tier_->health() == TierHealth::kFailed) return false;
  if (state_.complete) return true;
  return Load().has_value() && blocks_.AllOf(offset, length, &ChunkBlocks::present);
}

std::vector<ByteRange> Entry::Missing(uint64_t offset, uint64_t length) const {
  const std::scoped_lock lock(state_mutex_);
  const bool nothing = tier_ == nullptr || tier_->health() == TierHealth::kFailed || !Load().has_value();
  if (!nothing && state_.complete) return {};
  return nothing ? BlockMap(size_).Missing(offset, length) : blocks_.Missing(offset, length);
}

uint64_t Entry::CachedBytes() const {
  const std::scoped_lock lock(state_mutex_);
  return tier_ == nullptr || tier_->health() == TierHealth::kFailed ? 0 : state_.cached_bytes;
}

std::string Entry::TierKind() const {
  const std::scoped_lock lock(state_mutex_);
  return tier_ == nullptr || state_.cached_bytes == 0 ? "" : tier_->kind();
}

void Entry::Touch(ByteRange range, const AccessHints& hints) {
  if (size_ == 0) return;
  const uint64_t last = std::min(range.offset + std::max<uint64_t>(range.length, 1), size_) - 1;
  host_.Accessed(id_, ChunkOf(std::min(range.offset, last) / kBlockBytes), ChunkOf(last / kBlockBytes), hints);
}

Result<std::shared_ptr<ObjectFile>> Entry::File() {
  std::shared_ptr<ObjectFile> file = tier_->descriptors().Find(id_);
  const bool opened = file == nullptr || (!state_.complete && !file->writable());
  if (opened) {
    MLCACHE_ASSIGN_OR_RETURN(file, tier_->OpenObject(id_, !state_.complete));
  }
  // While fills or punches of ours are not committed, the recorded identity is an old one.
  if ((checked_ && !opened) || dirty_ || filling_ > 0) return file;
  MLCACHE_ASSIGN_OR_RETURN(const ObjectFile::Facts facts, file->Look());
  if (facts.identity != state_.identity || facts.size != size_ || state_.boot != host_.Boot()) {
    Distrust(facts.identity);
  }
  checked_ = true;
  return file;
}

void Entry::Distrust(const FileIdentity& identity) {
  ++state_.epoch;
  state_.identity = identity;
  state_.boot = host_.Boot();
  state_.all_verified = false;
  if (loaded_) blocks_.Distrust();
}

void Entry::MarkDirty(uint64_t bytes) {
  if (dirty_ && bytes == 0) return;
  std::shared_ptr<Entry> first;
  if (!dirty_) first = shared_from_this();
  dirty_ = true;
  host_.Dirty(std::move(first), tier_, bytes);
}

void Entry::Reset() {
  ObjectState empty;
  empty.fingerprint = fingerprint_;
  empty.size = size_;
  empty.object_class = state_.object_class;
  // Rows of an earlier file, should any survive a power loss, must never match those of the next.
  empty.epoch = state_.epoch + 1;
  state_ = empty;
  tier_ = nullptr;
  wanted_tier_ = nullptr;
  blocks_.Clear();
  loaded_ = true;
  checked_ = key_row_ = read_only_ = false;
  ++generation_;
}

Result<std::unique_ptr<Reservation>> Entry::Reserve(ByteRange range, const AccessHints& hints) {
  if (range.offset > size_ || range.length > size_ - range.offset) {
    return Fail(Code::kOutOfRange, key_.path + ": a reservation beyond the object's end");
  }
  bool failed = false;
  {
    const std::scoped_lock lock(state_mutex_);
    failed = tier_ != nullptr && tier_->health() == TierHealth::kFailed;
  }
  // Its bytes are out of reach; another tier may keep new ones.
  if (failed) EvictAll();
  uint64_t bytes = 0;
  Tier* wanted = nullptr;
  {
    const std::scoped_lock lock(state_mutex_);
    wanted = tier_ != nullptr ? tier_ : wanted_tier_;
    if (wanted != nullptr && wanted != tier_ && wanted->health() != TierHealth::kOk) wanted = nullptr;
    if (!state_.complete) {
      // Also for a file that is there: making room may take this very object's last chunk, and then its file, away.
      bytes = SpaceOfExtents(size_);
      MLCACHE_RETURN_IF_ERROR(Load());
      for (const ByteRange& part : blocks_.Missing(range.offset, range.length)) bytes += RoundToFileBlocks(part.length);
    }
  }
  MLCACHE_ASSIGN_OR_RETURN(Tier * tier, host_.ChargeRoom(key_, wanted, bytes, hints));
  const std::scoped_lock lock(state_mutex_);
  if (tier_ == nullptr) wanted_tier_ = tier;
  return std::make_unique<Room>(*tier, bytes, hints);
}

uint64_t Entry::EvictAll() {
  const std::unique_lock io(io_mutex_);
  return TakeAll();
}

uint64_t Entry::EvictChunk(uint32_t chunk) {
  const std::unique_lock io(io_mutex_);
  {
    const std::scoped_lock lock(state_mutex_);
    if (state_.complete) return 0;
  }
  return Take(chunk, ~uint64_t{0}, Taken::kEvicted);
}

// Rows first, then bytes: a crash between them leaves a file without a row, which the next start removes.
uint64_t Entry::TakeAll() {
  Tier* tier = nullptr;
  uint64_t cached_bytes = 0;
  uint64_t charged_bytes = 0;
  bool may_be_lent = false;
  std::shared_ptr<FilePin> pin;
  {
    const std::scoped_lock lock(state_mutex_);
    if (tier_ == nullptr) return 0;
    tier = tier_;
    may_be_lent = state_.complete;
    cached_bytes = state_.cached_bytes;
    charged_bytes = state_.charged_bytes;
    Reset();
    pin = host_.Changed(id_, state_, nullptr, {}, {});
  }
  {
    IndexBatch batch;
    batch.RemoveObject(id_, size_);
    const auto lock = tier->index().Lock();
    if (auto removed = tier->index().Write(batch); !removed.has_value()) {
      static_cast<void>(tier->Failed(removed.error()));
    }
  }
  tier->ops().Reach("evict.after_rows");
  if (may_be_lent) host_.Left(id_);
  // Links keep the bytes, and their pin the charge.
  if (pin != nullptr) pin->Keep(charged_bytes);
  tier->RemoveObject(id_, pin == nullptr ? charged_bytes : 0, may_be_lent);
  tier->ops().Reach("evict.after_unlink");
  tier->counters().evicted_bytes.Increment(static_cast<double>(cached_bytes));
  return cached_bytes;
}

uint64_t Entry::Take(uint32_t chunk, uint64_t mask, Taken why) {
  if (HasLinks()) return TakeAll();  // who reads through a link must never see a hole
  Tier* tier = nullptr;
  uint64_t gone = 0;
  uint64_t space = 0;
  IndexBatch batch;
  {
    const std::scoped_lock lock(state_mutex_);
    if (tier_ == nullptr || !Load().has_value()) return 0;
    const auto found = blocks_.chunks().find(chunk);
    if (found == blocks_.chunks().end()) return 0;
    ChunkBlocks& blocks = found->second;
    gone = blocks.present & mask;
    space = SpaceOfBlocks(size_, chunk, gone);
    // The commit after this records the file's identity anew: it has to be compared before.
    const bool known = File().has_value();
    const bool others_remain = state_.cached_bytes > BytesOfBlocks(size_, chunk, gone);
    if (gone != 0 && known && others_remain && !MayBeLent()) {
      tier = tier_;
      const bool was_complete = std::exchange(state_.complete, false);
      state_.all_verified = false;
      state_.cached_bytes -= BytesOfBlocks(size_, chunk, gone);
      state_.charged_bytes -= space;
      blocks.present &= ~gone;
      blocks.verified &= ~gone;
      std::vector<ChunkSpace> changed;
      for (const auto& [number, other] : blocks_.chunks()) {
        if (number == chunk || was_complete) {
          changed.push_back({number, SpaceOfBlocks(size_, number, other.present)});
        }
      }
      if (blocks.present == 0) {
        batch.RemoveChunk(id_, chunk);
      } else {
        batch.PutChunk(id_, chunk, blocks, blocks.present, state_.epoch);
      }
      batch.PutState(id_, state_);
      if (blocks.present == 0) blocks_.chunks().erase(found);
      host_.Changed(id_, state_, tier, changed, {});
      MarkDirty(0);
    }
  }
  if (gone == 0) return 0;
  if (tier == nullptr) return TakeAll();  // nothing would be left, or others may be reading the file
  {
    const auto lock = tier->index().Lock();
    if (auto written = tier->index().Write(batch); !written.has_value()) {
      static_cast<void>(tier->Failed(written.error()));
    }
  }
  tier->ops().Reach("drop.after_rows");
  const uint64_t bytes = BytesOfBlocks(size_, chunk, gone);
  if (!PunchBlocks(*tier, chunk, gone).has_value()) {
    // Not every file system can punch, and each can unlink.
    {
      const std::scoped_lock lock(state_mutex_);
      state_.charged_bytes += space;
    }
    return bytes + TakeAll();
  }
  tier->budget().Release(space);
  tier->ops().Reach("drop.after_punch");
  if (why == Taken::kEvicted) tier->counters().evicted_bytes.Increment(static_cast<double>(bytes));
  return bytes;
}

Status Entry::PunchBlocks(Tier& tier, uint32_t chunk, uint64_t mask) {
  MLCACHE_ASSIGN_OR_RETURN(std::shared_ptr<ObjectFile> file, tier.OpenObject(id_, false));
  if (!file->writable()) {
    static_cast<void>(::fchmod(file->fd(), 0600));
    MLCACHE_ASSIGN_OR_RETURN(file, tier.OpenObject(id_, true));
  }
  {
    const std::scoped_lock lock(state_mutex_);
    read_only_ = false;
  }
  for (const BlockRun& run : RunsOf(mask)) {
    const uint64_t offset = chunk * kChunkBytes + run.first * kBlockBytes;
    const uint64_t length = std::min(run.count * kBlockBytes, size_ - offset);
    const int error = tier.ops().Punch(file->fd(), offset, RoundToFileBlocks(length));
    if (error != 0) return FailErrno(error, key_.path + ": punch");
  }
  return {};
}

}  // namespace mlcache::cache
