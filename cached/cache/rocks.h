// RocksDB as the cache uses it: small, honest about the disk it takes, silent unless something is wrong.
#pragma once

#include <rocksdb/db.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "common/units.h"

namespace mlcache::cache {

// Room to set aside for each database beyond what it is measured to take: memtables not yet flushed, logs, manifests.
inline constexpr uint64_t kDatabaseMarginBytes = 4 * kMiB;

// A database with its column families, closed in order on destruction.
class Rocks {
 public:
  // Makes what is missing. A database that is damaged is removed and made anew (its users hold nothing that cannot be
  // fetched again).
  static Result<Rocks> Open(const std::string& directory, const std::vector<std::string>& families);

  Rocks(Rocks&&) noexcept = default;
  Rocks& operator=(Rocks&&) = delete;
  ~Rocks();

  rocksdb::DB& db() const { return *db_; }
  rocksdb::ColumnFamilyHandle* family(size_t index) const { return families_[index]; }

  // Empties one family.
  Status Clear(size_t index, const std::string& name);

 private:
  Rocks() = default;

  std::unique_ptr<rocksdb::DB> db_;
  std::vector<rocksdb::ColumnFamilyHandle*> families_;
  rocksdb::ColumnFamilyOptions family_options_;
};

// A RocksDB status as ours; `what` names the database.
Status FromRocks(const rocksdb::Status& status, std::string_view what);

}  // namespace mlcache::cache
