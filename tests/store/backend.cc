#include "tests/store/backend.h"

#include <fcntl.h>
#include <glog/logging.h>
#include <unistd.h>

#include <climits>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <utility>

#include "cached/metrics/metrics.h"
#include "cached/store/file_store.h"
#include "cached/store/percent.h"
#include "cached/store/s3_store.h"
#include "cached/store/seaweed_store.h"
#include "common/clock.h"
#include "tests/fakes/fake_object_store.h"
#include "tests/fakes/fake_seaweed.h"
#include "tests/store/filer_http.h"
#include "tests/store/s3_server.h"

namespace mlcache::store {
namespace {

namespace fs = std::filesystem;

class FakeBackend : public Backend {
 public:
  ObjectStore& store() override { return store_; }
  void Put(const std::string& path, const std::string& bytes) override { store_.Put(path, bytes); }
  void Remove(const std::string& path) override { store_.Remove(path); }
  void PutDirectory(const std::string& path) override { store_.PutDirectory(path); }
  size_t many_entries() const override { return 2100; }
  bool can_name(std::string_view /*name*/) const override { return true; }

 private:
  testing::FakeObjectStore store_;
};

// The real time, an hour ahead on the wall: what a test has just written counts as settled.
class LateClock : public Clock {
 public:
  Nanos Now() const override { return SystemClock().Now(); }
  Nanos WallNow() const override { return SystemClock().WallNow() + std::chrono::hours(1); }
};

class FileBackend : public Backend {
 public:
  FileBackend() {
    Result<std::shared_ptr<FileStore>> store = FileStore::Open(directory_.Path(), clock_, 500);
    CHECK(store) << store.error();
    store_ = *std::move(store);
  }
  ObjectStore& store() override { return *store_; }
  void Put(const std::string& path, const std::string& bytes) override {
    const fs::path file = fs::path(directory_.Path()) / path;
    fs::create_directories(file.parent_path());
    std::ofstream(file, std::ios::binary) << bytes;
  }
  void Remove(const std::string& path) override { fs::remove_all(fs::path(directory_.Path()) / path); }
  void PutDirectory(const std::string& path) override { fs::create_directories(fs::path(directory_.Path()) / path); }
  size_t many_entries() const override { return 1100; }
  bool can_name(std::string_view /*name*/) const override { return true; }

 private:
  LateClock clock_;
  TempDir directory_;
  std::shared_ptr<FileStore> store_;
};

// All lies below a prefix, so that rooting is tested, too.
class S3Backend : public Backend {
 public:
  explicit S3Backend(S3Server& server) : server_(server) {
    Server().DeleteAll();
    Server().SetCredentials();
    Server().Put("outside", "not to be seen");
    Server().Put("root dir/", "");
    StoreUrl url{.scheme = "s3", .authority = Server().bucket(), .path = "root dir"};
    url.options["endpoint"] = Server().endpoint();
    store_ = std::make_unique<S3Store>(url, S3Options{}, SystemClock());
  }
  ObjectStore& store() override { return *store_; }
  void Put(const std::string& path, const std::string& bytes) override { Server().Put("root dir/" + path, bytes); }
  void Remove(const std::string& path) override { Server().Delete("root dir/" + path); }
  void PutDirectory(const std::string& path) override { Server().Put("root dir/" + path + "/", ""); }
  size_t many_entries() const override { return 1030; }
  // moto's URL routing takes no newline.
  bool can_name(std::string_view name) const override { return name.find('\n') == std::string_view::npos; }

 private:
  S3Server& Server() const { return server_; }

  S3Server& server_;
  std::unique_ptr<S3Store> store_;
};

class S3rverBackend : public S3Backend {
 public:
  using S3Backend::S3Backend;
  // It keeps each object in a file called after it, with a suffix.
  bool can_name(std::string_view name) const override {
    return name.size() <= NAME_MAX - std::string_view("._S3rver_metadata.json").size();
  }
  // It takes a range that ends with byte 0 for one without an end.
  bool can_read(uint64_t offset, uint64_t length) const override { return offset + length > 1; }
};

std::shared_ptr<SeaweedStore> OpenSeaweed(const std::string& filer, uint32_t page_entries) {
  const StoreUrl url{.scheme = "seaweedfs", .authority = filer, .path = "root dir"};
  Result<std::shared_ptr<SeaweedStore>> store =
      SeaweedStore::Open(url, SeaweedSecurity{}, {.page_entries = page_entries}, SystemClock());
  CHECK(store) << store.error();
  return *std::move(store);
}

class SeaweedBackend : public Backend {
 public:
  SeaweedBackend() : store_(OpenSeaweed(cluster_.filer(), 500)) {
    cluster_.Put("/outside", "not to be seen");
    cluster_.PutDirectory("/root dir");
  }
  ObjectStore& store() override { return *store_; }
  void Put(const std::string& path, const std::string& bytes) override { cluster_.Put("/root dir/" + path, bytes); }
  void Remove(const std::string& path) override { cluster_.Remove("/root dir/" + path); }
  void PutDirectory(const std::string& path) override { cluster_.PutDirectory("/root dir/" + path); }
  size_t many_entries() const override { return 1100; }
  bool can_name(std::string_view /*name*/) const override { return true; }
  bool has_change_feed() const override { return true; }

 private:
  testing::FakeSeaweed cluster_;
  std::shared_ptr<SeaweedStore> store_;
};

class RealSeaweedBackend : public Backend {
 public:
  RealSeaweedBackend() : filer_(Address()), store_(OpenSeaweed(Address(), 500)) {
    filer_.Delete("/root dir");
    filer_.Put("/outside", "not to be seen");
    filer_.Put("/root dir/", "");
  }
  ~RealSeaweedBackend() override { filer_.Delete("/root dir"); }
  ObjectStore& store() override { return *store_; }
  void Put(const std::string& path, const std::string& bytes) override { filer_.Put("/root dir/" + path, bytes); }
  void Remove(const std::string& path) override { filer_.Delete("/root dir/" + path); }
  void PutDirectory(const std::string& path) override { filer_.Put("/root dir/" + path + "/", ""); }
  size_t many_entries() const override { return 1100; }
  // Go's HTTP server cleans such paths; a mount of SeaweedFS could make the names.
  bool can_name(std::string_view name) const override { return name != "..."; }
  bool has_change_feed() const override { return true; }
  bool keeps_old_versions() const override { return true; }

 private:
  static std::string Address() {
    const char* const address = std::getenv("MLCACHE_TEST_SEAWEEDFS");
    return address == nullptr ? "" : address;
  }

  testing::FilerHttp filer_;
  std::shared_ptr<SeaweedStore> store_;
};

}  // namespace

TempDir::TempDir() {
  std::string path = (fs::canonical(fs::temp_directory_path()) / "mlcache-store-XXXXXX").string();
  CHECK(mkdtemp(path.data()) != nullptr);
  path_ = path;
}

TempDir::~TempDir() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

std::unique_ptr<Backend> MakeFakeBackend() { return std::make_unique<FakeBackend>(); }
std::unique_ptr<Backend> MakeFileBackend() { return std::make_unique<FileBackend>(); }
std::unique_ptr<Backend> MakeS3Backend() {
  static S3Server server(S3Server::Kind::kMoto);
  return std::make_unique<S3Backend>(server);
}

std::unique_ptr<Backend> MakeS3rverBackend() {
  static S3Server server(S3Server::Kind::kS3rver);
  return std::make_unique<S3rverBackend>(server);
}
std::unique_ptr<Backend> MakeSeaweedBackend() { return std::make_unique<SeaweedBackend>(); }
std::unique_ptr<Backend> MakeRealSeaweedBackend() { return std::make_unique<RealSeaweedBackend>(); }
bool HasRealSeaweed() { return std::getenv("MLCACHE_TEST_SEAWEEDFS") != nullptr; }

}  // namespace mlcache::store
