#include "cached/cache/object_index.h"

#include <bit>
#include <cstring>
#include <optional>
#include <string_view>

#include "cached/cache/eviction_policy.h"

namespace mlcache::cache {
namespace {

constexpr char kKeyRow = 'k';
constexpr char kStateRow = 's';
constexpr char kAccessRow = 'a';
constexpr char kChunkRow = 'c';
constexpr std::string_view kFormatKey = "format";
constexpr std::string_view kFormat = "mlcache 1";

void PutU32(std::string& out, uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>(value >> shift);
}
void PutU64(std::string& out, uint64_t value) {
  for (int shift = 56; shift >= 0; shift -= 8) out += static_cast<char>(value >> shift);
}

// Takes values from the front of a row; `ok` turns false when it is too short.
struct Reader {
  std::string_view rest;
  bool ok = true;

  uint64_t Number(size_t bytes) {
    if (rest.size() < bytes) {
      ok = false;
      return 0;
    }
    uint64_t value = 0;
    for (size_t i = 0; i < bytes; ++i) value = value << 8 | static_cast<uint8_t>(rest[i]);
    rest.remove_prefix(bytes);
    return value;
  }
  uint64_t U64() { return Number(8); }
  uint32_t U32() { return static_cast<uint32_t>(Number(4)); }
  uint8_t U8() { return static_cast<uint8_t>(Number(1)); }
};

std::string RowKey(char row, const ObjectId& id) {
  std::string key(1, row);
  key.append(reinterpret_cast<const char*>(id.data()), id.size());
  return key;
}

std::string ChunkKey(const ObjectId& id, uint32_t chunk) {
  std::string key = RowKey(kChunkRow, id);
  PutU32(key, chunk);
  return key;
}

std::string_view View(const rocksdb::Slice& slice) { return {slice.data(), slice.size()}; }

enum StateFlag : uint8_t { kComplete = 1, kAllVerified = 2 };

std::optional<ObjectState> ParseState(std::string_view row) {
  Reader reader{row};
  ObjectState state;
  state.fingerprint = reader.U64();
  state.size = reader.U64();
  state.cached_bytes = reader.U64();
  state.charged_bytes = reader.U64();
  state.boot = reader.U64();
  state.identity.inode = reader.U64();
  state.identity.ctime_ns = static_cast<int64_t>(reader.U64());
  state.epoch = reader.U32();
  state.object_class = static_cast<ObjectClass>(reader.U8());
  const uint8_t flags = reader.U8();
  state.complete = (flags & kComplete) != 0;
  state.all_verified = (flags & kAllVerified) != 0;
  if (!reader.ok) return std::nullopt;
  return state;
}

}  // namespace

void IndexBatch::PutKey(const ObjectId& id, const ObjectKey& key) {
  std::string row;
  PutU64(row, key.size);
  for (const std::string* part : {&key.store, &key.path, &key.version}) {
    PutU32(row, static_cast<uint32_t>(part->size()));
    row += *part;
  }
  static_cast<void>(rows_.Put(RowKey(kKeyRow, id), row));
}

void IndexBatch::PutState(const ObjectId& id, const ObjectState& state) {
  std::string row;
  row.reserve(80);
  PutU64(row, state.fingerprint);
  PutU64(row, state.size);
  PutU64(row, state.cached_bytes);
  PutU64(row, state.charged_bytes);
  PutU64(row, state.boot);
  PutU64(row, state.identity.inode);
  PutU64(row, static_cast<uint64_t>(state.identity.ctime_ns));
  PutU32(row, state.epoch);
  row += static_cast<char>(state.object_class);
  row += static_cast<char>((state.complete ? kComplete : 0) | (state.all_verified ? kAllVerified : 0));
  static_cast<void>(rows_.Put(RowKey(kStateRow, id), row));
}

void IndexBatch::PutChunk(const ObjectId& id, uint32_t chunk, const ChunkBlocks& blocks, uint64_t present,
                          uint32_t epoch) {
  std::string row;
  row.reserve(20 + blocks.sums.size() * 8);
  PutU64(row, present);
  PutU64(row, blocks.verified & present);
  PutU32(row, epoch);
  for (size_t i = 0; i < blocks.sums.size(); ++i) {
    if ((present >> i & 1) != 0) PutU64(row, blocks.sums[i]);
  }
  static_cast<void>(rows_.Put(ChunkKey(id, chunk), row));
}

void IndexBatch::PutAccess(const ObjectId& id, int64_t last_access_ns) {
  std::string row;
  PutU64(row, static_cast<uint64_t>(last_access_ns));
  static_cast<void>(rows_.Put(RowKey(kAccessRow, id), row));
}

void IndexBatch::RemoveChunk(const ObjectId& id, uint32_t chunk) {
  static_cast<void>(rows_.Delete(ChunkKey(id, chunk)));
}

void IndexBatch::RemoveObject(const ObjectId& id, uint64_t size) {
  static_cast<void>(rows_.Delete(RowKey(kStateRow, id)));
  static_cast<void>(rows_.Delete(RowKey(kKeyRow, id)));
  static_cast<void>(rows_.Delete(RowKey(kAccessRow, id)));
  const auto chunks = static_cast<uint32_t>(ChunkCount(size));
  // Range tombstones slow every later scan down; they are worth it only for many rows.
  constexpr uint32_t kOneByOne = 64;
  if (chunks <= kOneByOne) {
    for (uint32_t chunk = 0; chunk < chunks; ++chunk) RemoveChunk(id, chunk);
  } else {
    static_cast<void>(rows_.DeleteRange(ChunkKey(id, 0), ChunkKey(id, chunks)));
  }
}

Result<std::unique_ptr<ObjectIndex>> ObjectIndex::Open(const std::string& directory) {
  MLCACHE_ASSIGN_OR_RETURN(Rocks rocks, Rocks::Open(directory, {rocksdb::kDefaultColumnFamilyName}));
  std::string format;
  const rocksdb::Status found = rocks.db().Get(rocksdb::ReadOptions(), rocksdb::Slice(kFormatKey), &format);
  if (found.ok() && format != kFormat) {
    return Fail(Code::kFailedPrecondition, directory + ": written by another release (format \"" + format +
                                               "\"); remove the tier's contents to start with an empty cache");
  }
  if (!found.ok() && !found.IsNotFound()) return std::unexpected(FromRocks(found, directory).error());
  const rocksdb::Status put =
      rocks.db().Put(rocksdb::WriteOptions(), rocksdb::Slice(kFormatKey), rocksdb::Slice(kFormat));
  MLCACHE_RETURN_IF_ERROR(FromRocks(put, directory));
  return std::unique_ptr<ObjectIndex>(new ObjectIndex(std::move(rocks), directory));
}

Status ObjectIndex::Write(IndexBatch& batch) {
  if (batch.empty()) return {};
  if (meter_ != nullptr) meter_->Writing(batch.bytes());
  return FromRocks(rocks_.db().Write(rocksdb::WriteOptions(), &batch.rows_), name_);
}

Status ObjectIndex::Sync() { return FromRocks(rocks_.db().SyncWAL(), name_); }

Status ObjectIndex::Resume() { return FromRocks(rocks_.db().Resume(), name_); }

Status ObjectIndex::ForEachRow(char row_kind,
                               const std::function<void(const ObjectId& id, std::string_view value)>& visit) const {
  rocksdb::ReadOptions options;
  options.fill_cache = false;
  options.readahead_size = kMiB;
  const std::unique_ptr<rocksdb::Iterator> row(rocks_.db().NewIterator(options));
  const std::string prefix(1, row_kind);
  for (row->Seek(prefix); row->Valid() && View(row->key()).starts_with(prefix); row->Next()) {
    ObjectId id{};
    if (row->key().size() != prefix.size() + id.size()) continue;
    std::memcpy(id.data(), row->key().data() + prefix.size(), id.size());
    visit(id, View(row->value()));
  }
  return FromRocks(row->status(), name_);
}

Status ObjectIndex::ForEach(const std::function<void(const ObjectId& id, const ObjectState& state)>& visit) const {
  return ForEachRow(kStateRow, [&](const ObjectId& id, std::string_view value) {
    if (const auto state = ParseState(value); state.has_value()) visit(id, *state);
  });
}

Status ObjectIndex::ForEachAccess(const std::function<void(const ObjectId& id, int64_t last_access_ns)>& visit) const {
  return ForEachRow(kAccessRow, [&](const ObjectId& id, std::string_view value) {
    Reader reader{value};
    visit(id, static_cast<int64_t>(reader.U64()));
  });
}

Result<ChunkMap> ObjectIndex::LoadChunks(const ObjectId& id, uint32_t epoch, uint64_t object_size) const {
  ChunkMap chunks;
  const std::string prefix = RowKey(kChunkRow, id);
  const std::unique_ptr<rocksdb::Iterator> row(rocks_.db().NewIterator(rocksdb::ReadOptions()));
  for (row->Seek(prefix); row->Valid() && View(row->key()).starts_with(prefix); row->Next()) {
    Reader key{View(row->key()).substr(prefix.size())};
    const uint32_t chunk = key.U32();
    Reader reader{View(row->value())};
    ChunkBlocks blocks;
    blocks.present = reader.U64();
    const uint64_t verified = reader.U64();
    blocks.verified = reader.U32() == epoch ? verified : 0;
    if (chunk >= ChunkCount(object_size)) continue;
    blocks.sums.resize(std::min(kBlocksPerChunk, BlockCount(object_size) - chunk * kBlocksPerChunk));
    if (static_cast<size_t>(std::bit_width(blocks.present)) > blocks.sums.size()) continue;
    for (size_t i = 0; i < blocks.sums.size(); ++i) {
      if ((blocks.present >> i & 1) != 0) blocks.sums[i] = reader.U64();
    }
    if (key.ok && reader.ok) chunks.emplace(chunk, std::move(blocks));
  }
  MLCACHE_RETURN_IF_ERROR(FromRocks(row->status(), name_));
  return chunks;
}

}  // namespace mlcache::cache
