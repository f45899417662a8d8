// The stores that the contract suite runs over, each with a hand that changes what it holds.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <string_view>

#include "cached/store/object_store.h"

namespace mlcache::store {

class Backend {
 public:
  virtual ~Backend() = default;

  virtual ObjectStore& store() = 0;
  virtual void Put(const std::string& path, const std::string& bytes) = 0;
  virtual void Remove(const std::string& path) = 0;
  virtual void PutDirectory(const std::string& path) = 0;
  // Entries that take more than one page.
  virtual size_t many_entries() const = 0;
  virtual bool can_name(std::string_view name) const = 0;
  // False for a range that the server behind it answers wrongly.
  virtual bool can_read(uint64_t /*offset*/, uint64_t /*length*/) const { return true; }
  virtual bool has_change_feed() const { return false; }
  // Whether the bytes of a replaced or removed object can still be read through an old ObjectRef.
  virtual bool keeps_old_versions() const { return false; }
};

// A directory that goes with the object. `Path()` is free of symbolic links.
class TempDir {
 public:
  TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir();
  const std::string& Path() const { return path_; }

 private:
  std::string path_;
};

std::unique_ptr<Backend> MakeFakeBackend();
std::unique_ptr<Backend> MakeFileBackend();

// Over moto, or the server at MLCACHE_TEST_S3_ENDPOINT; started once for the whole program.
std::unique_ptr<Backend> MakeS3Backend();

// Over s3rver, which is another implementation in another language; started once for the whole program.
std::unique_ptr<Backend> MakeS3rverBackend();

// Over the fake cluster.
std::unique_ptr<Backend> MakeSeaweedBackend();

// Over the real filer at MLCACHE_TEST_SEAWEEDFS ("HOST:PORT"), where one is named.
std::unique_ptr<Backend> MakeRealSeaweedBackend();
bool HasRealSeaweed();

struct BackendKind {
  std::string name;
  std::unique_ptr<Backend> (*make)();
  friend void PrintTo(const BackendKind& kind, std::ostream* out) { *out << kind.name; }
};

}  // namespace mlcache::store
