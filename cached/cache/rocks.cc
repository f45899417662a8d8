#include "cached/cache/rocks.h"

#include <glog/logging.h>
#include <rocksdb/cache.h>
#include <rocksdb/convenience.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/table.h>

#include <algorithm>
#include <array>
#include <cstdarg>
#include <cstdio>

#include "common/units.h"

namespace mlcache::cache {
namespace {

// RocksDB's own log files would grow in the tier; what matters of them goes to ours.
class LogToGlog final : public rocksdb::Logger {
 public:
  LogToGlog() : Logger(rocksdb::InfoLogLevel::ERROR_LEVEL) {}
  void Logv(const char* format, va_list arguments) override {
    std::array<char, 512> text{};
    static_cast<void>(std::vsnprintf(text.data(), text.size(), format, arguments));
    LOG(WARNING) << "index: " << text.data();
  }
  using Logger::Logv;
};

rocksdb::Options DatabaseOptions() {
  rocksdb::Options options;
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  options.info_log = std::make_shared<LogToGlog>();
  options.max_background_jobs = 2;
  options.max_open_files = 64;
  options.allow_fallocate = false;
  options.max_total_wal_size = 2 * kMiB;
  options.max_manifest_file_size = 256 * kKiB;
  options.manifest_preallocation_size = 0;
  options.stats_dump_period_sec = 0;
  options.stats_persist_period_sec = 0;
  options.skip_stats_update_on_db_open = true;
  options.skip_checking_sst_file_sizes_on_db_open = true;
  return options;
}

rocksdb::ColumnFamilyOptions FamilyOptions() {
  rocksdb::ColumnFamilyOptions options;
  options.write_buffer_size = kMiB;
  options.max_write_buffer_number = 2;
  options.target_file_size_base = 4 * kMiB;
  options.max_bytes_for_level_base = 16 * kMiB;
  const auto supported = rocksdb::GetSupportedCompressions();
  const bool has_lz4 = std::ranges::find(supported, rocksdb::kLZ4Compression) != supported.end();
  options.compression = has_lz4 ? rocksdb::kLZ4Compression : rocksdb::kNoCompression;
  rocksdb::BlockBasedTableOptions table;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  table.block_cache = rocksdb::NewLRUCache(8 * kMiB);
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  return options;
}

}  // namespace

Status FromRocks(const rocksdb::Status& status, std::string_view what) {
  if (status.ok()) return {};
  Code code = Code::kInternal;
  if (status.IsNoSpace()) {
    code = Code::kResourceExhausted;
  } else if (status.IsCorruption()) {
    code = Code::kDataLoss;
  } else if (status.IsIOError()) {
    code = Code::kUnavailable;
  }
  return Fail(code, std::string(what) + ": " + status.ToString());
}

Result<Rocks> Rocks::Open(const std::string& directory, const std::vector<std::string>& families) {
  const rocksdb::DBOptions options(DatabaseOptions());
  Rocks rocks;
  rocks.family_options_ = FamilyOptions();
  std::vector<rocksdb::ColumnFamilyDescriptor> descriptors;
  descriptors.reserve(families.size());
  for (const std::string& family : families) descriptors.emplace_back(family, rocks.family_options_);
  rocksdb::DB* db = nullptr;
  rocksdb::Status status = rocksdb::DB::Open(options, directory, descriptors, &rocks.families_, &db);
  if (status.IsCorruption() || status.IsInvalidArgument()) {
    LOG(ERROR) << directory << ": damaged (" << status.ToString() << "); starting anew with what it held forgotten";
    MLCACHE_RETURN_IF_ERROR(FromRocks(rocksdb::DestroyDB(directory, DatabaseOptions(), descriptors), directory));
    status = rocksdb::DB::Open(options, directory, descriptors, &rocks.families_, &db);
  }
  MLCACHE_RETURN_IF_ERROR(FromRocks(status, directory));
  rocks.db_.reset(db);
  return rocks;
}

Rocks::~Rocks() {
  if (db_ == nullptr) return;
  for (rocksdb::ColumnFamilyHandle* family : families_) {
    static_cast<void>(db_->DestroyColumnFamilyHandle(family));
  }
  const rocksdb::Status closed = db_->Close();
  if (!closed.ok()) LOG(WARNING) << db_->GetName() << ": close: " << closed.ToString();
}

Status Rocks::Clear(size_t index, const std::string& name) {
  MLCACHE_RETURN_IF_ERROR(FromRocks(db_->DropColumnFamily(families_[index]), name));
  static_cast<void>(db_->DestroyColumnFamilyHandle(families_[index]));
  families_[index] = nullptr;
  return FromRocks(db_->CreateColumnFamily(family_options_, name, &families_[index]), name);
}

}  // namespace mlcache::cache
