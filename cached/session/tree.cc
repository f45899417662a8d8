#include "cached/session/tree.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "cached/session/path.h"
#include "common/hash.h"

namespace mlcache::session {
namespace {

constexpr uint64_t kFirstCookie = 3;  // 1 and 2 are behind `.` and `..`, which the shim makes
constexpr int kDetailsCredit = 32;
constexpr size_t kIdsAhead = 256;
constexpr Nanos kCapacityAge = std::chrono::seconds(5);
constexpr std::string_view kVersionXattr = "user.mlcache.version";
constexpr std::string_view kCachedXattr = "user.mlcache.cached";
constexpr std::string_view kTierXattr = "user.mlcache.tier";

NodePtr MakeRoot(const StoreVolume& volume) {
  auto root = std::make_shared<Node>();
  root->identity = volume.identity();
  root->path = volume.url().path;
  root->info.type = store::FileType::kDirectory;
  return root;
}

std::unexpected<Error> NoSuchNode(uint64_t id) {
  return Fail(Code::kNotFound, "this mount has no node " + std::to_string(id));
}

bool IsFile(const Node& node) { return node.info.type == store::FileType::kRegular; }

bool SameVersion(const Node& node, const Known& known) {
  if (!known.exists || known.info.type != node.info.type) return false;
  return !IsFile(node) || known.info.version == node.info.version;
}

size_t RecordBytes(size_t name_length) { return (sizeof(ring::DirEntry) + name_length + 7) / 8 * 8; }

void Append(std::string& page, const ring::DirEntry& entry, std::string_view name) {
  const size_t at = page.size();
  page.resize(at + RecordBytes(name.size()));
  std::memcpy(page.data() + at, &entry, sizeof(entry));
  std::memcpy(page.data() + at + sizeof(entry), name.data(), name.size());
}

ring::StatFsReply ReplyOf(const store::StoreCapacity& capacity) {
  constexpr uint64_t kPlentyBytes = uint64_t{1} << 50;
  constexpr uint64_t kPlentyFiles = uint64_t{1} << 32;
  ring::StatFsReply reply;
  const bool sized = capacity.total_bytes != 0;
  reply.blocks = (sized ? capacity.total_bytes : kPlentyBytes) / reply.block_bytes;
  reply.blocks_free = (sized ? std::min(capacity.free_bytes, capacity.total_bytes) : kPlentyBytes) / reply.block_bytes;
  const bool counted = capacity.total_files != 0;
  reply.files = counted ? capacity.total_files : kPlentyFiles;
  reply.files_free = counted ? std::min(capacity.free_files, capacity.total_files) : kPlentyFiles;
  return reply;
}

}  // namespace

Tree::Tree(std::shared_ptr<StoreVolume> volume, NodeTable& nodes, const View& view, const Clock& clock)
    : volume_(std::move(volume)), nodes_(nodes), view_(view), clock_(clock), root_(MakeRoot(*volume_)) {}

Attempt<NodePtr> Tree::Resolve(uint64_t id, Effort effort) {
  if (id == ring::kRootNode) return root_;
  NodePtr node = nodes_.Peek(id);
  if (node == nullptr) {
    if (effort == Effort::kMemoryOnly) return std::nullopt;
    Result<NodePtr> loaded = nodes_.Get(id);
    if (!loaded.has_value()) return loaded;
    node = *std::move(loaded);
  }
  if (node->identity != root_->identity || !IsWithin(node->path, root_->path)) return NoSuchNode(id);
  return node;
}

Result<NodePtr> Tree::ResolveFully(uint64_t id) { return *Resolve(id, Effort::kMayBlock); }

Attempt<Known> Tree::KnownOf(const std::string& path, Effort effort, const store::CallContext& context) {
  if (effort == Effort::kMayBlock) return volume_->Look(path, view_.max_age(), context);
  std::optional<Known> known = volume_->Peek(path, view_.max_age());
  if (!known) return std::nullopt;
  return *std::move(known);
}

std::optional<std::string> Tree::FilePath(uint64_t id) {
  const Attempt<NodePtr> node = Resolve(id, Effort::kMemoryOnly);
  if (!node || !node->has_value() || !IsFile(***node)) return std::nullopt;
  return RelativeOf(***node);
}

std::string Tree::RelativeOf(const Node& node) const { return std::string(Below(node.path, root_->path)); }

ring::NodeAttributes Tree::Describe(const Known& known, std::string_view path, uint64_t id) const {
  const uint64_t timeout = TimeoutOf(view_, known.info.settled, known.fetched_at, clock_.Now());
  return AttributesOf(view_, known.info, id, InodeOf(root_->identity, path), timeout);
}

ring::NodeAttributes Tree::DescribeOld(const Node& node, uint64_t id) const {
  ring::NodeAttributes attributes = AttributesOf(view_, node.info, id, InodeOf(node.identity, node.path), 0);
  attributes.nlink = 0;
  return attributes;
}

Attempt<ring::NodeAttributes> Tree::Lookup(uint64_t parent, std::string_view name, Effort effort,
                                           const store::CallContext& context) {
  if (!IsValidName(name)) return Fail(Code::kInvalidArgument, "not a file name");
  const Attempt<NodePtr> directory = Resolve(parent, effort);
  if (!directory) return std::nullopt;
  if (!directory->has_value()) return std::unexpected(directory->error());
  if ((**directory)->info.type != store::FileType::kDirectory)
    return Fail(Code::kInvalidArgument, (**directory)->path + " is not a directory");
  const std::string path = JoinPath((**directory)->path, name);
  Attempt<Known> known = KnownOf(std::string(Below(path, root_->path)), effort, context);
  if (!known) return std::nullopt;
  if (!known->has_value()) return std::unexpected((*known).error());
  const Known& found = **known;
  if (!found.exists) {
    ring::NodeAttributes absent;
    absent.entry_timeout_ns = NegativeTimeoutOf(view_, found.fetched_at, clock_.Now());
    return absent;
  }
  if (found.info.type == store::FileType::kRegular) details_credit_.store(kDetailsCredit, std::memory_order_relaxed);
  if (const std::optional<uint64_t> id = nodes_.PeekId(root_->identity, path, found.info))
    return Describe(found, path, *id);
  if (effort == Effort::kMemoryOnly) return std::nullopt;
  const Result<uint64_t> id = AssignId(***directory, name, found.info);
  if (!id.has_value()) return std::unexpected(id.error());
  return Describe(found, path, *id);
}

Result<uint64_t> Tree::AssignId(const Node& directory, std::string_view name, const store::ObjectInfo& info) {
  std::vector<NodeRequest> requests = {{.path = JoinPath(directory.path, name), .info = &info}};
  const std::shared_ptr<const Listing> listing =
      volume_->PeekListing(RelativeOf(directory), view_.max_age(), ListDetail::kAttributes);
  const store::ListEntry* entry = listing == nullptr ? nullptr : FindEntry(*listing, name);
  const store::ListEntry* const first = listing == nullptr ? nullptr : listing->entries.data();
  if (entry != nullptr && entry != first) {
    const store::ListEntry* const before = std::prev(entry);
    if (nodes_.PeekId(root_->identity, JoinPath(directory.path, before->name), before->info)) {
      const store::ListEntry* const end = first + listing->entries.size();
      while (++entry != end && requests.size() < kIdsAhead)
        requests.push_back({.path = JoinPath(directory.path, entry->name), .info = &entry->info});
    }
  }
  MLCACHE_ASSIGN_OR_RETURN(const std::vector<uint64_t> ids, nodes_.Assign(root_->identity, requests));
  return ids.front();
}

Attempt<ring::NodeAttributes> Tree::GetAttributes(uint64_t id, Effort effort, const store::CallContext& context) {
  const Attempt<NodePtr> resolved = Resolve(id, effort);
  if (!resolved) return std::nullopt;
  if (!resolved->has_value()) return std::unexpected(resolved->error());
  const Node& node = ***resolved;
  const Attempt<Known> known = KnownOf(RelativeOf(node), effort, context);
  if (!known) return std::nullopt;
  if (!known->has_value()) return std::unexpected(known->error());
  if (SameVersion(node, **known)) return Describe(**known, node.path, id);
  if (IsFile(node)) return DescribeOld(node, id);
  return Fail(Code::kNotFound, node.path + " is gone from the store");
}

Result<std::string> Tree::ReadLink(uint64_t id, const store::CallContext& context) {
  MLCACHE_ASSIGN_OR_RETURN(const NodePtr node, ResolveFully(id));
  if (node->info.type != store::FileType::kSymlink)
    return Fail(Code::kInvalidArgument, node->path + " is not a symbolic link");
  MLCACHE_ASSIGN_OR_RETURN(const Known known, volume_->Look(RelativeOf(*node), view_.max_age(), context));
  if (!SameVersion(*node, known)) return Fail(Code::kNotFound, node->path + " is gone from the store");
  return known.info.symlink_target;
}

Attempt<Tree::Opened> Tree::Open(uint64_t id, Effort effort, const store::CallContext& context) {
  const Attempt<NodePtr> resolved = Resolve(id, effort);
  if (!resolved) return std::nullopt;
  if (!resolved->has_value()) return std::unexpected(resolved->error());
  const Node& node = ***resolved;
  if (!IsFile(node)) return Fail(Code::kInvalidArgument, node.path + " is not a regular file");
  const std::string path = RelativeOf(node);
  const Attempt<Known> known = KnownOf(path, effort, context);
  if (!known) return std::nullopt;
  if (!known->has_value()) return std::unexpected(known->error());
  if (!SameVersion(node, **known)) return Fail(Code::kFailedPrecondition, node.path + " holds another version by now");
  Result<fetch::Source> source = volume_->Open(path, (*known)->info);
  if (!source.has_value()) return std::unexpected(source.error());
  return Opened{.attributes = Describe(**known, node.path, id), .source = *std::move(source)};
}

Attempt<fetch::Source> Tree::SourceOf(uint64_t id, Effort effort) {
  const Attempt<NodePtr> resolved = Resolve(id, effort);
  if (!resolved) return std::nullopt;
  if (!resolved->has_value()) return std::unexpected(resolved->error());
  const Node& node = ***resolved;
  if (!IsFile(node)) return Fail(Code::kInvalidArgument, node.path + " is not a regular file");
  const std::string path = RelativeOf(node);
  // The row lacks the layout, and may date from before the version was settled.
  const std::optional<Known> known = volume_->Peek(path, Nanos::max());
  return volume_->Open(path, known && SameVersion(node, *known) ? known->info : node.info);
}

Attempt<std::shared_ptr<const Listing>> Tree::List(uint64_t id, Effort effort, const store::CallContext& context) {
  const Attempt<NodePtr> resolved = Resolve(id, effort);
  if (!resolved) return std::nullopt;
  if (!resolved->has_value()) return std::unexpected(resolved->error());
  const Node& node = ***resolved;
  if (node.info.type != store::FileType::kDirectory)
    return Fail(Code::kInvalidArgument, node.path + " is not a directory");
  const ListDetail detail = view_.immutable ? ListDetail::kAttributes : ListDetail::kNames;
  if (effort == Effort::kMayBlock) return volume_->List(RelativeOf(node), view_.max_age(), detail, context);
  std::shared_ptr<const Listing> listing = volume_->PeekListing(Below(node.path, root_->path), view_.max_age(), detail);
  if (listing == nullptr) return std::nullopt;
  return listing;
}

Attempt<std::shared_ptr<const Listing>> Tree::DetailsOf(const Node& directory, const Listing& listing, uint64_t cookie,
                                                        Effort effort, const store::CallContext& context) {
  std::shared_ptr<const Listing> none;
  const std::string path = RelativeOf(directory);
  // As young as the names will do, however short the mount's attr_ttl: one request describes all pages of the handle.
  const Nanos max_age = std::max(view_.max_age(), clock_.Now() - listing.fetched_at);
  if (auto details = volume_->PeekListing(path, max_age, ListDetail::kAttributes)) return details;
  const bool begins = cookie < kFirstCookie;
  if (begins && details_credit_.load(std::memory_order_relaxed) <= 0) return none;
  if (effort == Effort::kMemoryOnly) return std::nullopt;
  if (begins) details_credit_.fetch_sub(1, std::memory_order_relaxed);
  Result<std::shared_ptr<const Listing>> details = volume_->List(path, max_age, ListDetail::kAttributes, context);
  if (!details.has_value()) return none;  // the names are still what they were
  return details;
}

Attempt<std::vector<uint64_t>> Tree::IdsOf(const Node& directory, const std::vector<const store::ListEntry*>& entries,
                                           Effort effort) {
  std::vector<uint64_t> ids(entries.size(), 0);
  std::vector<NodeRequest> requests;
  std::vector<size_t> places;
  for (size_t i = 0; i < entries.size(); ++i) {
    if (entries[i] == nullptr) continue;
    std::string path = JoinPath(directory.path, entries[i]->name);
    if (const std::optional<uint64_t> id = nodes_.PeekId(root_->identity, path, entries[i]->info)) {
      ids[i] = *id;
      continue;
    }
    if (effort == Effort::kMemoryOnly) return std::nullopt;
    requests.push_back({.path = std::move(path), .info = &entries[i]->info});
    places.push_back(i);
  }
  if (requests.empty()) return ids;
  Result<std::vector<uint64_t>> assigned = nodes_.Assign(root_->identity, requests);
  if (!assigned.has_value()) return std::unexpected(assigned.error());
  for (size_t i = 0; i < places.size(); ++i) ids[places[i]] = (*assigned)[i];
  return ids;
}

Attempt<std::string> Tree::Page(uint64_t id, const Listing& listing, uint64_t cookie, uint32_t room, Detail detail,
                                Effort effort, const store::CallContext& context) {
  const Attempt<NodePtr> resolved = Resolve(id, effort);
  if (!resolved) return std::nullopt;
  if (!resolved->has_value()) return std::unexpected(resolved->error());
  const Node& node = ***resolved;
  const std::vector<store::ListEntry>& entries = listing.entries;
  // next_cookie of entry i is i + kFirstCookie, and goes on with entry i + 1.
  const size_t begin =
      cookie < kFirstCookie ? 0 : static_cast<size_t>(std::min<uint64_t>(cookie - kFirstCookie, UINT32_MAX)) + 1;
  size_t end = begin;
  for (size_t used = 0; end < entries.size(); ++end) {
    used += RecordBytes(entries[end].name.size());
    if (used > room) break;
  }
  if (begin >= entries.size()) return std::string();
  if (end == begin) return Fail(Code::kInvalidArgument, "no room for one entry of " + node.path);

  std::shared_ptr<const Listing> details;
  if (detail == Detail::kAttributes && !listing.described) {
    const Attempt<std::shared_ptr<const Listing>> found = DetailsOf(node, listing, cookie, effort, context);
    if (!found) return std::nullopt;
    details = **found;
  }
  std::vector<const store::ListEntry*> described(end - begin, nullptr);
  for (size_t i = begin; i < end && detail == Detail::kAttributes; ++i) {
    if (entries[i].described) described[i - begin] = &entries[i];
    if (details != nullptr) described[i - begin] = FindEntry(*details, entries[i].name);
  }
  const Attempt<std::vector<uint64_t>> ids = IdsOf(node, described, effort);
  if (!ids) return std::nullopt;
  if (!ids->has_value()) return std::unexpected(ids->error());

  const Nanos fetched_at = details == nullptr ? listing.fetched_at : details->fetched_at;
  const Nanos now = clock_.Now();
  std::string page;
  for (size_t i = begin; i < end; ++i) {
    const std::string& name = entries[i].name;
    const store::ObjectInfo& info = described[i - begin] == nullptr ? entries[i].info : described[i - begin]->info;
    const uint64_t child = (**ids)[i - begin];
    const uint64_t timeout = child == 0 ? 0 : TimeoutOf(view_, info.settled, fetched_at, now);
    ring::DirEntry record;
    record.attributes = AttributesOf(view_, info, child, InodeOf(root_->identity, JoinPath(node.path, name)), timeout);
    record.next_cookie = i + kFirstCookie;
    record.name_length = static_cast<uint16_t>(name.size());
    record.last = i + 1 == entries.size() ? 1 : 0;
    Append(page, record, name);
  }
  return page;
}

Result<ring::StatFsReply> Tree::StatFs(const store::CallContext& context) {
  {
    std::lock_guard lock(capacity_mutex_);
    if (capacity_ && clock_.Now() - capacity_at_ < kCapacityAge) return *capacity_;
  }
  const Nanos asked_at = clock_.Now();
  MLCACHE_ASSIGN_OR_RETURN(const store::StoreCapacity capacity, volume_->store().Capacity(context));
  std::lock_guard lock(capacity_mutex_);
  capacity_ = ReplyOf(capacity);
  capacity_at_ = asked_at;
  return *capacity_;
}

Result<std::string> Tree::GetXattr(uint64_t id, std::string_view name) {
  MLCACHE_ASSIGN_OR_RETURN(const NodePtr node, ResolveFully(id));
  const bool known = name == kVersionXattr || name == kCachedXattr || name == kTierXattr;
  if (!known || !IsFile(*node)) return Fail(Code::kNotFound, node->path + " has no attribute " + std::string(name));
  if (name == kVersionXattr) return ToHex(std::as_bytes(std::span(node->info.version)));
  const std::shared_ptr<cache::CachedObject> object = volume_->FindCached(RelativeOf(*node), node->info);
  if (name == kCachedXattr) {
    const uint64_t cached = object == nullptr ? 0 : object->CachedBytes();
    return std::to_string(cached) + "/" + std::to_string(node->info.size);
  }
  const std::string tier = object == nullptr ? std::string() : object->TierKind();
  return tier.empty() ? "none" : tier;
}

Result<std::string> Tree::ListXattr(uint64_t id) {
  MLCACHE_ASSIGN_OR_RETURN(const NodePtr node, ResolveFully(id));
  std::string names;
  if (!IsFile(*node)) return names;
  for (const std::string_view name : {kVersionXattr, kCachedXattr, kTierXattr}) {
    names += name;
    names += '\0';
  }
  return names;
}

void Tree::Distrust(uint64_t id) {
  if (const Result<NodePtr> node = ResolveFully(id); node.has_value()) volume_->Invalidate(RelativeOf(**node));
}

std::optional<uint64_t> Tree::DirectoryNode(std::string_view path) {
  if (path == root_->path) return ring::kRootNode;
  if (!IsWithin(path, root_->path)) return std::nullopt;
  return nodes_.Find(root_->identity, path, root_->info);
}

}  // namespace mlcache::session
