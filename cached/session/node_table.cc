#include "cached/session/node_table.h"

#include <algorithm>
#include <set>
#include <utility>

#include "cached/session/codec.h"
#include "cached/session/path.h"
#include "common/hash.h"
#include "common/ring/wire.h"

namespace mlcache::session {
namespace {

constexpr uint32_t kMaxProbes = 64;

// Directories and links have no version: their id stays while their content changes.
std::string_view VersionOf(const store::ObjectInfo& info) {
  return info.type == store::FileType::kRegular ? std::string_view(info.version) : std::string_view();
}

bool Names(const Node& node, std::string_view identity, std::string_view path, const store::ObjectInfo& info) {
  return node.info.type == info.type && node.path == path && node.identity == identity &&
         VersionOf(node.info) == VersionOf(info);
}

std::string RowKey(uint64_t id) {
  std::string key = "n";
  for (int shift = 56; shift >= 0; shift -= 8) key += static_cast<char>((id >> shift) & 0xff);
  return key;
}

}  // namespace

uint64_t InodeOf(std::string_view identity, std::string_view path) {
  const uint64_t hash = Hash64(path, Hash64(identity));
  return hash == 0 ? 1 : hash;
}

NodeTable::NodeTable(cache::KeyValue& rows, size_t max_rows, uint64_t hash_mask)
    : rows_(rows), max_rows_(std::max<size_t>(max_rows, 1)), hash_mask_(hash_mask) {}

uint64_t NodeTable::Candidate(std::string_view identity, std::string_view path, const store::ObjectInfo& info,
                              uint32_t probe) const {
  const uint64_t seed = (uint64_t{probe} << 8) | static_cast<uint64_t>(info.type);
  return Hash64(VersionOf(info), Hash64(path, Hash64(identity, seed))) & hash_mask_ & ~uint64_t{1};
}

NodePtr NodeTable::PeekLocked(uint64_t id) {
  const auto found = memory_.find(id);
  if (found == memory_.end()) return nullptr;
  if (found->second.durable) used_.splice(used_.begin(), used_, found->second.used);
  return found->second.node;
}

void NodeTable::KeepLocked(uint64_t id, NodePtr node) {
  Row& row = memory_[id];
  if (row.durable) return;
  row.node = std::move(node);
  row.durable = true;
  row.used = used_.insert(used_.begin(), id);
  while (used_.size() > max_rows_) {
    memory_.erase(used_.back());
    used_.pop_back();
  }
}

Result<NodePtr> NodeTable::Load(uint64_t id) const {
  MLCACHE_ASSIGN_OR_RETURN(const std::optional<std::string> bytes, rows_.Get(RowKey(id)));
  if (!bytes) return nullptr;
  std::optional<Node> node = DecodeNode(*bytes);
  // A row that does not check out names nothing; the next Assign of its key writes it anew.
  if (!node) return nullptr;
  return std::make_shared<const Node>(*std::move(node));
}

std::optional<uint64_t> NodeTable::PeekId(std::string_view identity, std::string_view path,
                                          const store::ObjectInfo& info) {
  std::lock_guard lock(mutex_);
  for (uint32_t probe = 0; probe < kMaxProbes; ++probe) {
    const uint64_t id = Candidate(identity, path, info, probe);
    if (id <= ring::kRootNode || id >= kFirstReservedNode) continue;
    const auto found = memory_.find(id);
    if (found == memory_.end() || !found->second.durable) return std::nullopt;
    if (!Names(*found->second.node, identity, path, info)) continue;
    used_.splice(used_.begin(), used_, found->second.used);
    return id;
  }
  return std::nullopt;
}

std::optional<uint64_t> NodeTable::Find(std::string_view identity, std::string_view path,
                                        const store::ObjectInfo& info) {
  for (uint32_t probe = 0; probe < kMaxProbes; ++probe) {
    const uint64_t id = Candidate(identity, path, info, probe);
    if (id <= ring::kRootNode || id >= kFirstReservedNode) continue;
    const Result<NodePtr> node = Get(id);
    if (!node.has_value()) return std::nullopt;
    if (Names(**node, identity, path, info)) return id;
  }
  return std::nullopt;
}

Result<uint64_t> NodeTable::Settle(std::string_view identity, const NodeRequest& request, cache::WriteBatch& batch,
                                   std::vector<Fresh>& fresh) {
  const store::ObjectInfo& info = *request.info;
  for (uint32_t probe = 0; probe < kMaxProbes; ++probe) {
    const uint64_t id = Candidate(identity, request.path, info, probe);
    if (id <= ring::kRootNode || id >= kFirstReservedNode) continue;
    NodePtr known;
    bool durable = false;
    {
      std::lock_guard lock(mutex_);
      known = PeekLocked(id);
      durable = known != nullptr && memory_.at(id).durable;
    }
    if (known == nullptr) {
      MLCACHE_ASSIGN_OR_RETURN(known, Load(id));
      std::lock_guard lock(mutex_);
      if (known != nullptr) {
        KeepLocked(id, known);
        durable = true;
      } else if (NodePtr raced = PeekLocked(id)) {
        known = std::move(raced);
      } else {
        auto node = std::make_shared<Node>();
        node->identity = identity;
        node->path = request.path;
        node->info = info;
        node->info.layout.reset();
        node->info.inline_content.reset();
        known = node;
        memory_[id].node = std::move(node);  // reserves the id against a colliding key
      }
    }
    if (!Names(*known, identity, request.path, info)) continue;
    if (!durable) {  // ours, or another thread's that may not be written yet: writing it twice is the same
      batch.emplace_back(RowKey(id), EncodeNode(*known));
      fresh.push_back({id, known});
    }
    return id;
  }
  return Fail(Code::kResourceExhausted,
              request.path + ": no node id free after " + std::to_string(kMaxProbes) + " probes");
}

Result<std::vector<uint64_t>> NodeTable::Assign(std::string_view identity, std::span<const NodeRequest> requests) {
  std::vector<uint64_t> ids;
  std::vector<Fresh> fresh;
  cache::WriteBatch batch;
  ids.reserve(requests.size());
  Status status;
  for (const NodeRequest& request : requests) {
    Result<uint64_t> id = Settle(identity, request, batch, fresh);
    if (!id.has_value()) {
      status = std::unexpected(id.error());
      break;
    }
    ids.push_back(*id);
  }
  if (status.has_value() && !batch.empty()) status = rows_.Write(batch);
  std::lock_guard lock(mutex_);
  for (Fresh& row : fresh) {
    if (status.has_value()) {
      KeepLocked(row.id, std::move(row.node));
    } else if (const auto found = memory_.find(row.id); found != memory_.end() && !found->second.durable) {
      memory_.erase(found);
    }
  }
  if (!status.has_value()) return std::unexpected(status.error().WithContext("recording node ids"));
  return ids;
}

Result<NodePtr> NodeTable::Get(uint64_t id) {
  {
    std::lock_guard lock(mutex_);
    const auto found = memory_.find(id);
    if (found != memory_.end() && found->second.durable) return PeekLocked(id);
  }
  MLCACHE_ASSIGN_OR_RETURN(NodePtr node, Load(id));
  if (node == nullptr) return Fail(Code::kNotFound, "node " + std::to_string(id) + " is not known");
  std::lock_guard lock(mutex_);
  KeepLocked(id, node);
  return node;
}

NodePtr NodeTable::Peek(uint64_t id) {
  std::lock_guard lock(mutex_);
  const auto found = memory_.find(id);
  if (found == memory_.end() || !found->second.durable) return nullptr;
  return PeekLocked(id);
}

std::vector<std::string> NodeTable::NamesBelow(std::string_view identity, std::string_view path) const {
  std::set<std::string> names;
  // A broken map costs notifications, which are hints.
  static_cast<void>(rows_.Scan("n", [&](std::string_view, std::string_view value) {
    const std::optional<Node> node = DecodeNode(value);
    if (node && node->identity == identity && !node->path.empty() && ParentOf(node->path) == path)
      names.emplace(NameOf(node->path));
    return true;
  }));
  return {names.begin(), names.end()};
}

size_t NodeTable::rows_in_memory() const {
  std::lock_guard lock(mutex_);
  return memory_.size();
}

}  // namespace mlcache::session
