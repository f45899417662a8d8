#include "cached/cache/state_store.h"

#include <rocksdb/write_batch.h>

#include <utility>

#include "cached/cache/rocks.h"

namespace mlcache::cache {
namespace {

constexpr size_t kDefaultFamily = 0;
constexpr size_t kMetadataFamily = 1;
constexpr size_t kNodesFamily = 2;
constexpr const char* kBootKey = "boot";

// What the families share.
struct State {
  State(Rocks opened, std::string path, OverheadMeter& overhead, std::function<void()> make_room)
      : rocks(std::move(opened)), name(std::move(path)), meter(overhead), relieve(std::move(make_room)) {}
  Rocks rocks;
  const std::string name;
  OverheadMeter& meter;
  const std::function<void()> relieve;
};

class Family final : public KeyValue {
 public:
  Family(std::shared_ptr<State> state, size_t family) : state_(std::move(state)), family_(family) {}

  Result<std::optional<std::string>> Get(std::string_view key) const override {
    std::string value;
    const rocksdb::Status found = db().Get(rocksdb::ReadOptions(), handle(), rocksdb::Slice(key), &value);
    if (found.IsNotFound()) return std::nullopt;
    MLCACHE_RETURN_IF_ERROR(FromRocks(found, state_->name));
    return value;
  }

  Status Write(const WriteBatch& batch) override {
    rocksdb::WriteBatch rows;
    for (const auto& [key, value] : batch) {
      static_cast<void>(value.has_value() ? rows.Put(handle(), key, *value) : rows.Delete(handle(), key));
    }
    state_->meter.Writing(rows.GetDataSize());
    state_->relieve();
    rocksdb::Status written = db().Write(rocksdb::WriteOptions(), &rows);
    // The disk may have room again.
    if (!written.ok() && db().Resume().ok()) written = db().Write(rocksdb::WriteOptions(), &rows);
    return FromRocks(written, state_->name);
  }

  Status Scan(std::string_view prefix,
              const std::function<bool(std::string_view key, std::string_view value)>& visit) const override {
    const std::unique_ptr<rocksdb::Iterator> row(db().NewIterator(rocksdb::ReadOptions(), handle()));
    for (row->Seek(rocksdb::Slice(prefix)); row->Valid(); row->Next()) {
      const std::string_view key(row->key().data(), row->key().size());
      if (!key.starts_with(prefix) || !visit(key, {row->value().data(), row->value().size()})) break;
    }
    return FromRocks(row->status(), state_->name);
  }

 private:
  rocksdb::DB& db() const { return state_->rocks.db(); }
  rocksdb::ColumnFamilyHandle* handle() const { return state_->rocks.family(family_); }

  const std::shared_ptr<State> state_;
  const size_t family_;
};

}  // namespace

Result<StateStores> OpenState(const std::string& directory, const std::string& boot, OverheadMeter& meter,
                              std::function<void()> relieve) {
  MLCACHE_ASSIGN_OR_RETURN(Rocks rocks,
                           Rocks::Open(directory, {rocksdb::kDefaultColumnFamilyName, "metadata", "nodes"}));
  std::string last_boot;
  const rocksdb::Status found =
      rocks.db().Get(rocksdb::ReadOptions(), rocks.family(kDefaultFamily), kBootKey, &last_boot);
  if (!found.ok() && !found.IsNotFound()) return std::unexpected(FromRocks(found, directory).error());
  if (last_boot != boot) {
    if (found.ok()) MLCACHE_RETURN_IF_ERROR(rocks.Clear(kNodesFamily, "nodes"));
    rocksdb::WriteOptions durable;
    durable.sync = true;
    MLCACHE_RETURN_IF_ERROR(
        FromRocks(rocks.db().Put(durable, rocks.family(kDefaultFamily), kBootKey, boot), directory));
  }
  const auto state = std::make_shared<State>(std::move(rocks), directory, meter, std::move(relieve));
  return StateStores{.metadata = std::make_unique<Family>(state, kMetadataFamily),
                     .nodes = std::make_unique<Family>(state, kNodesFamily)};
}

}  // namespace mlcache::cache
