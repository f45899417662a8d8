// One mount's tree: nodeids in, attributes, listings and sources out. It keeps to the mount's prefix: a node of another
// store or outside the prefix does not exist here. Knows nothing of rings. Thread-safe.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cached/fetch/fetcher.h"
#include "cached/session/attributes.h"
#include "cached/session/node_table.h"
#include "cached/session/store_volume.h"
#include "common/clock.h"
#include "common/ring/wire.h"
#include "common/status.h"

namespace mlcache::session {

// kMemoryOnly: an answer is given only where no disk and no store need be asked.
enum class Effort : uint8_t { kMemoryOnly, kMayBlock };

// Nothing: more effort is needed.
template <typename T>
using Attempt = std::optional<Result<T>>;

class Tree {
 public:
  // Borrows `nodes` and `clock`.
  Tree(std::shared_ptr<StoreVolume> volume, NodeTable& nodes, const View& view, const Clock& clock);

  // What `name` is in directory `parent`. Where there is nothing, node is 0 and entry_timeout_ns says for how long that
  // may be believed.
  Attempt<ring::NodeAttributes> Lookup(uint64_t parent, std::string_view name, Effort effort,
                                       const store::CallContext& context);

  // kNotFound when a directory or link is gone. A file that is gone or replaced is described as the node's version was,
  // without links.
  Attempt<ring::NodeAttributes> GetAttributes(uint64_t node, Effort effort, const store::CallContext& context);

  Result<std::string> ReadLink(uint64_t node, const store::CallContext& context);

  struct Opened {
    ring::NodeAttributes attributes;
    fetch::Source source;
  };
  // kFailedPrecondition: the path holds another version than the node by now (look it up again).
  Attempt<Opened> Open(uint64_t node, Effort effort, const store::CallContext& context);

  // The node's version for reading, whatever the path holds now.
  Attempt<fetch::Source> SourceOf(uint64_t node, Effort effort);

  // Described only as far as that costs nothing, unless the mount is immutable: then what is fetched is to last.
  Attempt<std::shared_ptr<const Listing>> List(uint64_t node, Effort effort, const store::CallContext& context);

  // kNames: inode and mode alone, no nodeid is given out.
  enum class Detail : uint8_t { kNames, kAttributes };

  // As many DirEntry records of `listing`, a listing of directory `node`, as fit into `room` bytes, from the place that
  // `cookie` names. Empty at the end. kInvalidArgument when not even one fits. kAttributes is a wish: a record with
  // node 0 has only inode and type, and the kernel looks its name up when somebody wants more.
  Attempt<std::string> Page(uint64_t node, const Listing& listing, uint64_t cookie, uint32_t room, Detail detail,
                            Effort effort, const store::CallContext& context);

  // Sizes where the store knows none are 1 PiB and 2^32 files, all free, so that programs that look for room find it.
  Result<ring::StatFsReply> StatFs(const store::CallContext& context);

  // user.mlcache.version: the version's bytes in hexadecimal. user.mlcache.cached: "65536/131072", bytes of this
  // version that are cached and its size. user.mlcache.tier: "memory", "disk" or "none". Regular files only; kNotFound
  // for any other name.
  Result<std::string> GetXattr(uint64_t node, std::string_view name);
  // The names, each ended by NUL.
  Result<std::string> ListXattr(uint64_t node);

  // Forgets the metadata of a node's path: the store said that the version is no longer there.
  void Distrust(uint64_t node);

  // The node of a directory below the mount, by its path below the identity, if it was ever given out.
  std::optional<uint64_t> DirectoryNode(std::string_view path);

  // The path below the mount of a file's node that memory has; nothing otherwise.
  std::optional<std::string> FilePath(uint64_t node);

  const StoreVolume& volume() const { return *volume_; }
  NodeTable& nodes() { return nodes_; }
  const View& view() const { return view_; }

 private:
  Attempt<NodePtr> Resolve(uint64_t id, Effort effort);
  Result<NodePtr> ResolveFully(uint64_t id);
  Attempt<Known> KnownOf(const std::string& path, Effort effort, const store::CallContext& context);
  // An id for each entry, 0 for each null.
  Attempt<std::vector<uint64_t>> IdsOf(const Node& directory, const std::vector<const store::ListEntry*>& entries,
                                       Effort effort);
  // The id of an entry of `directory`, made durable. Where entries are looked up one after the other in the order of
  // their names, as by a walk that reads attributes, those that follow get theirs in the same write.
  Result<uint64_t> AssignId(const Node& directory, std::string_view name, const store::ObjectInfo& info);
  // What describes the entries of `listing`, or null where their names must do.
  Attempt<std::shared_ptr<const Listing>> DetailsOf(const Node& directory, const Listing& listing, uint64_t cookie,
                                                    Effort effort, const store::CallContext& context);
  std::string RelativeOf(const Node& node) const;
  ring::NodeAttributes Describe(const Known& known, std::string_view path, uint64_t id) const;
  ring::NodeAttributes DescribeOld(const Node& node, uint64_t id) const;

  const std::shared_ptr<StoreVolume> volume_;
  NodeTable& nodes_;
  const View view_;
  const Clock& clock_;
  const NodePtr root_;

  // READDIRPLUS asks for attributes at the beginning of every directory, needed or not. So many directories more get
  // them at the price of a request for each entry; a file looked up shows that they are wanted.
  std::atomic<int> details_credit_ = 1;

  std::mutex capacity_mutex_;
  std::optional<ring::StatFsReply> capacity_;  // guarded by capacity_mutex_
  Nanos capacity_at_{};                        // guarded by capacity_mutex_
};

}  // namespace mlcache::session
