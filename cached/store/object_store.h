// A remote namespace of files, read through one seam: a directory tree, S3, SeaweedFS, a fake.
//
// Paths are relative to the store's root, without leading, trailing or doubled slashes; "" is the root. Names are
// bytes, not text: anything but '/' and NUL. Every call may block, is bounded by its CallContext, and is thread-safe.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "common/clock.h"
#include "common/status.h"

namespace mlcache::store {

// Lower is sooner. Demand never waits behind the others.
enum class Priority : uint8_t { kDemand, kPlan, kSequential, kNeighbour, kWarmup };

// What every call carries beside its arguments: why it is made, for whom, until when, and how to call it off.
struct CallContext {
  Priority priority = Priority::kDemand;
  std::string_view job;                      // the mount's job name; for accounting, may be empty
  Nanos deadline = Nanos::max();             // on SystemClock().Now(); past it the call fails kDeadlineExceeded
  std::stop_token stop = std::stop_token();  // once requested the call fails kCancelled within 100 ms
  // Of a List: its entries may be left undescribed where their attributes cost the store more than their names.
  bool names_suffice = false;
};

enum class FileType : uint8_t { kRegular, kDirectory, kSymlink };

// Where a store keeps an object's bytes, if it tells (SeaweedFS chunk lists). Opaque outside the store that made it.
class ObjectLayout {
 public:
  virtual ~ObjectLayout() = default;
};

// One file, directory or link, as it is now.
struct ObjectInfo {
  FileType type = FileType::kRegular;
  uint64_t size = 0;     // bytes; of a symlink the length of its target
  uint32_t mode = 0644;  // permission bits, as in st_mode & 07777
  uid_t uid = 0;
  gid_t gid = 0;
  uint32_t nlink = 1;
  int64_t mtime_ns = 0;  // since 1970
  int64_t ctime_ns = 0;
  std::string version;  // regular files: equal exactly when the bytes are; never empty, at most 255 bytes, binary
  bool settled = true;  // false: too young for `version` to be trusted; serve it, keep neither bytes nor attributes
  std::string symlink_target;                  // links only
  std::optional<std::string> inline_content;   // the whole object, when the store's metadata carries it
  std::shared_ptr<const ObjectLayout> layout;  // null unless the store has one; handed back to ReadRange
};

struct ListEntry {
  std::string name;  // one component
  ObjectInfo info;
  bool described = true;  // false: of `info` the type alone is known; only where names_suffice
};

struct ListPage {
  std::vector<ListEntry> entries;
  std::string next;  // the token of the next page; empty at the end
};

// One version of one object, for reading.
struct ObjectRef {
  std::string path;
  std::string version;
  uint64_t size = 0;
  std::shared_ptr<const ObjectLayout> layout;
};

// Takes bytes in order as they arrive. Called on the thread that called ReadRange. An error ends the read with that
// error.
using ByteSink = std::function<Status(std::span<const std::byte>)>;

// Bytes and files of the whole store, where it knows; zeros where it does not.
struct StoreCapacity {
  uint64_t total_bytes = 0;
  uint64_t free_bytes = 0;
  uint64_t total_files = 0;
  uint64_t free_files = 0;
};

// A hint that `path` (or, with `subtree`, anything below it) changed. Hints may be lost, doubled or reordered.
struct ChangeEvent {
  std::string path;
  bool subtree = false;
};
using ChangeSink = std::function<void(const ChangeEvent&)>;

class ObjectStore {
 public:
  virtual ~ObjectStore() = default;

  // The thing at `path` now. kNotFound if there is none.
  virtual Result<ObjectInfo> Stat(const std::string& path, const CallContext& context) = 0;

  // One page of the entries of directory `path`, in an order that stays the same from page to page; `token` is empty
  // for the first page, then the last page's `next`. kNotFound for a path that is no directory.
  virtual Result<ListPage> List(const std::string& path, const std::string& token, const CallContext& context) = 0;

  // Streams exactly [offset, offset + length) of that version into `sink`, or fails. The range lies within ref.size.
  // After a success every byte was of ref.version; after a failure the sink may have taken a prefix that must be
  // thrown away. kFailedPrecondition: the object changed or went; kDataLoss: short or unsound reply.
  virtual Status ReadRange(const ObjectRef& ref, uint64_t offset, uint64_t length, const ByteSink& sink,
                           const CallContext& context) = 0;

  virtual Result<StoreCapacity> Capacity(const CallContext& context) = 0;

  // Calls `sink` for each change below `path` until context.stop, then returns. kUnimplemented where the store has no
  // change feed: the caller's TTL is then the only bound.
  virtual Status Watch(const std::string& path, const ChangeSink& sink, const CallContext& context) = 0;

  // True: each byte ReadRange hands to its sink is certain to be of ref.version when it is handed over (S3's If-Match),
  // so readers may be served from a read still under way. False: only once ReadRange has succeeded. Decorators forward.
  virtual bool PinsVersion() const { return false; }
};

}  // namespace mlcache::store
