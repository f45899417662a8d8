#include "cached/session/metadata_cache.h"

#include <glog/logging.h>

#include <algorithm>
#include <utility>

#include "cached/session/codec.h"
#include "cached/session/path.h"

namespace mlcache::session {
namespace {

constexpr char kAboveRoot[] = "/";
constexpr uint64_t kStormMisses = 16;
constexpr uint64_t kNamesReadFactor = 16;
constexpr Nanos kStormWindow = std::chrono::seconds(1);
constexpr Nanos kPersistAgain = std::chrono::seconds(60);

std::string DirectoryOf(std::string_view path) { return path.empty() ? kAboveRoot : std::string(ParentOf(path)); }

bool SameThing(const store::ObjectInfo& a, const store::ObjectInfo& b) {
  return a.type == b.type && a.version == b.version && a.size == b.size && a.mtime_ns == b.mtime_ns &&
         a.mode == b.mode && a.symlink_target == b.symlink_target;
}

// Whether a listing's entry tells the same as a later answer about its name.
bool Agrees(const store::ListEntry* entry, const Known& known) {
  if (!known.exists || entry == nullptr) return !known.exists && entry == nullptr;
  return entry->described ? SameThing(entry->info, known.info) : entry->info.type == known.info.type;
}

}  // namespace

MetadataCache::MetadataCache(MetadataOptions options, store::ObjectStore& store, cache::KeyValue& persistent,
                             const Clock& clock)
    : options_(std::move(options)), store_(store), persistent_(persistent), clock_(clock) {}

MetadataCache::Threshold MetadataCache::ThresholdOf(Nanos max_age) const {
  if (max_age == Nanos::max()) return {Nanos::min(), Nanos::min()};
  const Nanos now = clock_.Now();
  const Nanos age = std::max(max_age, Nanos::zero());
  return {now - age, now - std::min(age, options_.negative_ttl)};
}

std::optional<Known> MetadataCache::Look(const Directory& directory, std::string_view name,
                                         const Threshold& threshold) {
  const auto single = directory.singles.find(name);
  if (single != directory.singles.end() &&
      (directory.listing == nullptr || single->second.fetched_at >= directory.listing->fetched_at)) {
    const Known& known = single->second;
    if (known.exists && !known.info.settled) return std::nullopt;
    if (known.fetched_at < (known.exists ? threshold.exists : threshold.absent)) return std::nullopt;
    return known;
  }
  if (directory.listing == nullptr || directory.listing->fetched_at < threshold.exists) return std::nullopt;
  if (const store::ListEntry* entry = FindEntry(*directory.listing, name)) {
    if (!entry->described || !entry->info.settled) return std::nullopt;
    return Known{.exists = true, .info = entry->info, .fetched_at = directory.listing->fetched_at};
  }
  if (directory.listing->fetched_at < threshold.absent) return std::nullopt;
  return Known{.exists = false, .info = {}, .fetched_at = directory.listing->fetched_at};
}

MetadataCache::Directory& MetadataCache::Touch(const std::string& path) {
  auto [found, fresh] = directories_.try_emplace(path);
  Directory& directory = found->second;
  if (fresh) {
    directory.used = used_.insert(used_.begin(), path);
    ++weight_;
  } else {
    used_.splice(used_.begin(), used_, directory.used);
  }
  return directory;
}

std::optional<Known> MetadataCache::Peek(std::string_view path, Nanos max_age) {
  const Threshold threshold = ThresholdOf(max_age);
  std::lock_guard lock(mutex_);
  const auto found = directories_.find(path.empty() ? std::string_view(kAboveRoot) : ParentOf(path));
  if (found == directories_.end()) return std::nullopt;
  used_.splice(used_.begin(), used_, found->second.used);
  return Look(found->second, NameOf(path), threshold);
}

std::shared_ptr<const Listing> MetadataCache::PeekListing(std::string_view path, Nanos max_age, ListDetail detail) {
  const Threshold threshold = ThresholdOf(max_age);
  std::lock_guard lock(mutex_);
  const auto found = directories_.find(path);
  if (found == directories_.end()) return nullptr;
  const Directory& directory = found->second;
  used_.splice(used_.begin(), used_, directory.used);
  return Serves(directory, threshold, detail) ? directory.listing : nullptr;
}

bool MetadataCache::Serves(const Directory& directory, const Threshold& threshold, ListDetail detail) {
  return directory.listing != nullptr && !directory.contradicted && directory.listing->fetched_at >= threshold.exists &&
         (directory.listing->described || detail == ListDetail::kNames);
}

// How many entries a listing may bring and still be worth the single requests that were made so far. Who has read the
// names and asks for one after the other is likely to ask for all of them.
uint64_t MetadataCache::StormLimit(const Directory& directory) const {
  const bool names_read = directory.listing != nullptr && !directory.listing->described;
  return directory.misses * options_.entries_per_request * (names_read ? kNamesReadFactor : 1);
}

MetadataCache::Kind MetadataCache::Choose(Directory& directory, const Threshold& threshold, Nanos max_age) {
  if (!directory.persistent_checked) return Kind::kLoad;
  const Nanos now = clock_.Now();
  if (directory.misses == 0 || now - directory.misses_since > kStormWindow) {
    directory.misses = 0;
    directory.misses_since = now;
  }
  ++directory.misses;
  // A fresh listing that could not tell (an unsettled entry) will not tell next time either, and one that is stale as
  // soon as it is made serves nobody.
  const bool listed =
      directory.listing != nullptr && directory.listing->described && directory.listing->fetched_at >= threshold.exists;
  const bool lasting = max_age >= kStormWindow;
  const bool worth = StormLimit(directory) > directory.known_size && directory.known_size < options_.max_entries;
  if (directory.misses >= kStormMisses && lasting && !listed && worth) return Kind::kListAttributes;
  return Kind::kStat;
}

void MetadataCache::Land(const Question& question, const FlightPtr& flight, Dropped* dropped) {
  flights_.Land(question, flight);
  Shrink();
  dropped->swap(dropped_);
}

Result<Known> MetadataCache::Stat(const std::string& path, Nanos max_age, const store::CallContext& context) {
  const Threshold threshold = ThresholdOf(max_age);
  const std::string parent = DirectoryOf(path);
  const bool above_root = path.empty();
  bool loaded = above_root;
  bool listed = above_root;
  while (true) {
    MLCACHE_RETURN_IF_ERROR(CheckContext(context, path));
    Dropped dropped;
    std::unique_lock lock(mutex_);
    Directory& directory = Touch(parent);
    if (auto known = Look(directory, NameOf(path), threshold)) return *std::move(known);
    if (loaded) directory.persistent_checked = true;
    Kind work = Choose(directory, threshold, max_age);
    if (work == Kind::kListAttributes && listed) work = Kind::kStat;
    const uint64_t limit = StormLimit(directory);
    const Question question{work, work == Kind::kStat ? path : parent};
    bool led = false;
    MLCACHE_ASSIGN_OR_RETURN(const FlightPtr flight, flights_.Board(lock, question, clock_.Now(), context, &led));
    if (led) {
      lock.unlock();
      if (work == Kind::kStat) RunStat(path, *flight, context);
      if (work == Kind::kLoad) RunLoad(parent, *flight);
      if (work == Kind::kListAttributes) RunList(parent, ListDetail::kAttributes, limit, *flight, context);
      lock.lock();
      if (work == Kind::kStat) KeepSingle(question, *flight);
      if (work != Kind::kStat) KeepListing(question, *flight);
      Land(question, flight, &dropped);
      lock.unlock();
      if (work == Kind::kListAttributes && flight->listing != nullptr)
        Persist(question, flight->invalidations, *flight->listing);
    }
    loaded = loaded || work == Kind::kLoad;
    listed = listed || (work == Kind::kListAttributes && (led || flight->error.has_value()));
    if (work != Kind::kStat || !flight->done || flight->started < threshold.exists) continue;
    if (!flight->error.has_value()) return flight->known;
    if (led || !MetadataFlights::IsLeadersOwn(*flight->error)) return std::unexpected(*flight->error);
  }
}

Result<std::shared_ptr<const Listing>> MetadataCache::List(const std::string& path, Nanos max_age, ListDetail detail,
                                                           const store::CallContext& context) {
  const Threshold threshold = ThresholdOf(max_age);
  bool loaded = false;
  while (true) {
    MLCACHE_RETURN_IF_ERROR(CheckContext(context, path));
    Dropped dropped;
    std::unique_lock lock(mutex_);
    Directory& directory = Touch(path);
    if (Serves(directory, threshold, detail)) return directory.listing;
    directory.wants_attributes = directory.wants_attributes || detail == ListDetail::kAttributes;
    const ListDetail asked = directory.wants_attributes ? ListDetail::kAttributes : ListDetail::kNames;
    const bool load = !loaded && !directory.persistent_checked;
    const Kind listing = asked == ListDetail::kAttributes ? Kind::kListAttributes : Kind::kListNames;
    const Question question{load ? Kind::kLoad : listing, path};
    bool led = false;
    MLCACHE_ASSIGN_OR_RETURN(const FlightPtr flight, flights_.Board(lock, question, clock_.Now(), context, &led));
    if (led) {
      lock.unlock();
      if (load) {
        RunLoad(path, *flight);
      } else {
        RunList(path, asked, UINT64_MAX, *flight, context);
      }
      lock.lock();
      KeepListing(question, *flight);
      Land(question, flight, &dropped);
      lock.unlock();
      if (!load && flight->listing != nullptr) Persist(question, flight->invalidations, *flight->listing);
    }
    loaded = loaded || load;
    if (load || !flight->done || flight->started < threshold.exists) continue;
    if (!flight->error.has_value()) return flight->listing;
    if (led || !MetadataFlights::IsLeadersOwn(*flight->error)) return std::unexpected(*flight->error);
  }
}

void MetadataCache::RunStat(const std::string& path, Flight& flight, const store::CallContext& context) {
  Result<store::ObjectInfo> info = store_.Stat(path, context);
  flight.known.fetched_at = flight.started;
  if (info.has_value()) {
    flight.known.exists = true;
    flight.known.info = *std::move(info);
  } else if (info.error().code() != Code::kNotFound) {
    flight.error = std::move(info.error());
  }
}

void MetadataCache::RunList(const std::string& path, ListDetail detail, uint64_t limit, Flight& flight,
                            const store::CallContext& context) {
  uint64_t seen = 0;
  Result<std::shared_ptr<Listing>> listing = FetchListing(store_, path, detail, limit, &seen, context);
  if (listing.has_value()) {
    (*listing)->fetched_at = flight.started;
    flight.listing = *std::move(listing);
    return;
  }
  flight.error = std::move(listing.error());
  if (flight.error->code() != Code::kOutOfRange) return;
  std::lock_guard lock(mutex_);
  Touch(path).known_size = 2 * seen;  // so that all that is listed in vain stays within twice this
}

void MetadataCache::RunLoad(const std::string& path, Flight& flight) {
  const Result<std::optional<std::string>> bytes = persistent_.Get(PersistentKey(path));
  if (!bytes.has_value()) {
    LOG_EVERY_N(WARNING, 1000) << "reading back a listing: " << bytes.error();
    return;
  }
  if (!bytes->has_value()) return;
  std::optional<DecodedListing> decoded = DecodeListing(**bytes);
  if (!decoded) return;
  // A wall clock that was set back makes the listing's age unknown: old enough for all but those who take any age.
  const Nanos age = clock_.WallNow() - decoded->fetched_wall;
  auto listing = std::make_shared<Listing>(std::move(decoded->listing));
  listing->fetched_at = age < Nanos::zero() ? Nanos::min() : clock_.Now() - age;
  flight.listing = std::move(listing);
}

void MetadataCache::KeepSingle(const Question& question, const Flight& flight) {
  if (flight.error.has_value() || !flights_.IsCurrent(question, flight.invalidations)) return;
  const std::string& path = question.path;
  Directory& directory = Touch(DirectoryOf(path));
  const std::string name(NameOf(path));
  const auto [single, fresh] = directory.singles.try_emplace(name, flight.known);
  if (fresh) {
    ++weight_;
  } else if (single->second.fetched_at <= flight.started) {
    single->second = flight.known;
  }
  if (directory.listing != nullptr && directory.listing->fetched_at <= flight.started) {
    const bool same = Agrees(FindEntry(*directory.listing, name), flight.known);
    directory.contradicted = directory.contradicted || !same;
  }
  Shrink();
}

void MetadataCache::KeepListing(const Question& question, const Flight& flight) {
  if (!flights_.IsCurrent(question, flight.invalidations)) return;
  Directory& directory = Touch(question.path);
  directory.persistent_checked = true;
  if (flight.listing == nullptr) return;
  if (directory.listing != nullptr && directory.listing->fetched_at > flight.listing->fetched_at) return;
  Drop(directory);
  directory.listing = flight.listing;
  directory.known_size = flight.listing->entries.size();
  directory.contradicted = false;
  if (flight.listing->described && !flight.listing->entries.empty()) directory.wants_attributes = true;
  directory.misses = 0;
  std::erase_if(directory.singles,
                [&](const auto& single) { return single.second.fetched_at <= flight.listing->fetched_at; });
  for (const auto& [name, known] : directory.singles) {
    const bool same = Agrees(FindEntry(*directory.listing, name), known);
    directory.contradicted = directory.contradicted || !same;
  }
  weight_ += 1 + directory.singles.size() + directory.listing->entries.size();
  Shrink();
}

void MetadataCache::Drop(Directory& directory) {
  weight_ -= 1 + directory.singles.size() + (directory.listing == nullptr ? 0 : directory.listing->entries.size());
  if (directory.listing != nullptr) dropped_.push_back(std::move(directory.listing));
  directory.listing = nullptr;
}

void MetadataCache::Shrink() {
  while (weight_ > options_.max_entries && used_.size() > 1) {
    const auto victim = directories_.find(used_.back());
    Drop(victim->second);
    directories_.erase(victim);
    used_.pop_back();
  }
  if (weight_ <= options_.max_entries || used_.empty()) return;
  // One directory is larger than all that may be kept.
  Directory& directory = directories_.find(used_.front())->second;
  Drop(directory);
  directory.singles.clear();
  directory.contradicted = false;
  ++weight_;
}

void MetadataCache::Persist(const Question& question, uint64_t invalidations, const Listing& listing) {
  const Nanos wall = clock_.WallNow() - (clock_.Now() - listing.fetched_at);
  std::string bytes = EncodeListing(listing, wall);
  const uint64_t hash = EntriesHash(bytes);
  {
    std::lock_guard lock(mutex_);
    Directory& directory = Touch(question.path);
    if (directory.listing.get() != &listing) return;
    if (directory.persisted_hash == hash && clock_.Now() - directory.persisted_at < kPersistAgain) return;
    directory.persisted_hash = hash;
    directory.persisted_at = clock_.Now();
  }
  const std::string key = PersistentKey(question.path);
  if (const Status status = persistent_.Write({{key, std::move(bytes)}}); !status.has_value()) {
    LOG_EVERY_N(WARNING, 1000) << "keeping a listing for the next start: " << status.error();
  }
  // An Invalidate that came in between has deleted what was there before this write.
  bool invalidated = false;
  {
    std::lock_guard lock(mutex_);
    invalidated = !flights_.IsCurrent(question, invalidations);
  }
  if (invalidated) static_cast<void>(persistent_.Write({{key, std::nullopt}}));
}

uint64_t MetadataCache::Invalidate(const std::string& path) {
  uint64_t dropped = 0;
  Dropped listings;
  {
    std::lock_guard lock(mutex_);
    flights_.Invalidate(path);
    Directory& parent = Touch(DirectoryOf(path));
    const auto [single, fresh] = parent.singles.try_emplace(std::string(NameOf(path)));
    if (fresh) ++weight_;
    const bool listed = parent.listing != nullptr && FindEntry(*parent.listing, NameOf(path)) != nullptr;
    if (!fresh || listed) ++dropped;
    // An unsettled answer is one that makes the next question go to the store.
    single->second = Known{.exists = true, .info = {}, .fetched_at = clock_.Now()};
    single->second.info.settled = false;
    parent.contradicted = parent.listing != nullptr;
    parent.persisted_hash = 0;
    const std::string below = path.empty() ? "" : path + "/";
    for (auto it = directories_.lower_bound(path.empty() ? std::string_view() : std::string_view(path));
         it != directories_.end() && it->first.starts_with(path);) {
      const bool inside = it->first != kAboveRoot && (it->first == path || it->first.starts_with(below));
      if (!inside) {
        ++it;
        continue;
      }
      dropped += it->second.singles.size() + (it->second.listing == nullptr ? 0 : it->second.listing->entries.size());
      Drop(it->second);
      used_.erase(it->second.used);
      it = directories_.erase(it);
    }
    Shrink();  // a change feed calls this for names that nobody ever asks for
    listings.swap(dropped_);
  }
  listings.clear();
  cache::WriteBatch batch;
  if (!path.empty()) batch.emplace_back(PersistentKey(ParentOf(path)), std::nullopt);
  batch.emplace_back(PersistentKey(path), std::nullopt);
  std::string below = PersistentKey(path);
  if (below.back() != '\0') below += '/';
  Status status = persistent_.Scan(below, [&](std::string_view key, std::string_view) {
    batch.emplace_back(std::string(key), std::nullopt);
    return true;
  });
  if (status.has_value()) status = persistent_.Write(batch);
  if (!status.has_value()) LOG(WARNING) << "forgetting listings kept on disk: " << status.error();
  return dropped;
}

std::string MetadataCache::PersistentKey(std::string_view path) const {
  std::string key = options_.persistent_prefix;
  key += '\0';
  key += JoinPath(options_.persistent_root, path);
  return key;
}

size_t MetadataCache::entries_in_memory() const {
  std::lock_guard lock(mutex_);
  return weight_;
}

}  // namespace mlcache::session
