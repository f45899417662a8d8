// Names of files, each kept once: a path of millions costs its last name and some 25 bytes. Thread-compatible.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace mlcache::prefetch {

class PathTable {
 public:
  using Id = uint32_t;  // 0, 1, 2 … in the order of their first Intern
  static constexpr size_t kMaxFiles = 64'000'000;
  static constexpr size_t kMaxNameBytes = size_t{4} << 30;  // of the last names together

  // The id of `path` (as in object_store.h, not ""). Nothing when the table is full.
  std::optional<Id> Intern(std::string_view path);

  // Nothing for a path that was never interned.
  std::optional<Id> Find(std::string_view path) const;

  std::string Path(Id id) const;

  // A number of the directory that the file lies in: 0, 1, 2 … below directories().
  uint32_t Directory(Id id) const { return files_[id].directory; }
  size_t directories() const { return directory_names_.size(); }
  size_t size() const { return files_.size(); }

 private:
  struct File {
    uint32_t directory = 0;
    uint32_t name_at = 0;  // in names_: a byte with the length, then the name
  };
  struct Parts {
    std::string_view directory;
    std::string_view name;
  };

  static Parts Split(std::string_view path);
  std::string_view Name(const File& file) const;
  size_t SlotOf(uint32_t directory, std::string_view name) const;  // where it is, or would go
  void Grow();

  std::vector<File> files_;
  std::string names_;
  std::vector<uint32_t> slots_;  // open addressing: id + 1, 0 for none; a power of two, at most half full
  std::vector<std::string> directory_names_;
  std::unordered_map<std::string, uint32_t> directory_ids_;
};

}  // namespace mlcache::prefetch
