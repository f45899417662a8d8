#include "cached/session/codec.h"

#include <cstring>
#include <type_traits>
#include <utility>

#include "cached/session/path.h"
#include "common/hash.h"

namespace mlcache::session {
namespace {

constexpr uint32_t kListingMagic = 0x32534c4d;  // "MLS2"
constexpr uint32_t kNodeMagic = 0x314e4c4d;     // "MLN1"
constexpr size_t kListingHeader = sizeof(uint32_t) + sizeof(uint64_t) + sizeof(int64_t);
constexpr uint8_t kSettled = 1;
constexpr uint8_t kDescribed = 1;

template <typename T>
void Put(std::string& out, T value) {
  static_assert(std::is_integral_v<T>);
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out.append(bytes, sizeof(T));
}

// Takes fields off the front; once one does not fit, everything after is zero and ok() is false.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}

  template <typename T>
  T Take() {
    static_assert(std::is_integral_v<T>);
    T value{};
    if (!Fits(sizeof(T))) return value;
    std::memcpy(&value, bytes_.data(), sizeof(T));
    bytes_.remove_prefix(sizeof(T));
    return value;
  }

  std::string TakeBytes(size_t length) {
    if (!Fits(length)) return {};
    std::string text(bytes_.substr(0, length));
    bytes_.remove_prefix(length);
    return text;
  }

  bool ok() const { return ok_; }
  bool AtEnd() const { return ok_ && bytes_.empty(); }
  size_t left() const { return bytes_.size(); }

 private:
  bool Fits(size_t length) {
    ok_ = ok_ && bytes_.size() >= length;
    return ok_;
  }

  std::string_view bytes_;
  bool ok_ = true;
};

void PutInfo(std::string& out, const store::ObjectInfo& info) {
  Put<uint8_t>(out, static_cast<uint8_t>(info.type));
  Put<uint8_t>(out, info.settled ? kSettled : 0);
  Put<uint16_t>(out, static_cast<uint16_t>(info.version.size()));
  Put<uint32_t>(out, static_cast<uint32_t>(info.symlink_target.size()));
  Put<uint64_t>(out, info.size);
  Put<uint32_t>(out, info.mode);
  Put<uint32_t>(out, info.uid);
  Put<uint32_t>(out, info.gid);
  Put<uint32_t>(out, info.nlink);
  Put<int64_t>(out, info.mtime_ns);
  Put<int64_t>(out, info.ctime_ns);
  out += info.version;
  out += info.symlink_target;
}

bool TakeType(Reader& reader, store::ObjectInfo& info) {
  const auto type = reader.Take<uint8_t>();
  if (type > static_cast<uint8_t>(store::FileType::kSymlink)) return false;
  info.type = static_cast<store::FileType>(type);
  return reader.ok();
}

bool TakeInfo(Reader& reader, store::ObjectInfo& info) {
  if (!TakeType(reader, info)) return false;
  info.settled = (reader.Take<uint8_t>() & kSettled) != 0;
  const auto version_length = reader.Take<uint16_t>();
  const auto target_length = reader.Take<uint32_t>();
  info.size = reader.Take<uint64_t>();
  info.mode = reader.Take<uint32_t>();
  info.uid = reader.Take<uint32_t>();
  info.gid = reader.Take<uint32_t>();
  info.nlink = reader.Take<uint32_t>();
  info.mtime_ns = reader.Take<int64_t>();
  info.ctime_ns = reader.Take<int64_t>();
  info.version = reader.TakeBytes(version_length);
  info.symlink_target = reader.TakeBytes(target_length);
  return reader.ok();
}

}  // namespace

std::string EncodeListing(const Listing& listing, Nanos fetched_wall) {
  constexpr size_t kTypicalEntry = 110;
  std::string out;
  out.reserve(kListingHeader + listing.entries.size() * kTypicalEntry);
  Put<uint32_t>(out, kListingMagic);
  Put<uint64_t>(out, 0);
  Put<int64_t>(out, fetched_wall.count());
  for (const store::ListEntry& entry : listing.entries) {
    Put<uint8_t>(out, static_cast<uint8_t>(entry.name.size()));
    out += entry.name;
    Put<uint8_t>(out, entry.described ? kDescribed : 0);
    if (entry.described) {
      PutInfo(out, entry.info);
    } else {
      Put<uint8_t>(out, static_cast<uint8_t>(entry.info.type));
    }
  }
  const uint64_t hash = Hash64(std::string_view(out).substr(kListingHeader));
  std::memcpy(out.data() + sizeof(uint32_t), &hash, sizeof(hash));
  return out;
}

uint64_t EntriesHash(std::string_view encoded_listing) {
  Reader reader(encoded_listing);
  reader.Take<uint32_t>();
  return reader.Take<uint64_t>();
}

std::optional<DecodedListing> DecodeListing(std::string_view bytes) {
  Reader reader(bytes);
  if (reader.Take<uint32_t>() != kListingMagic) return std::nullopt;
  const auto hash = reader.Take<uint64_t>();
  DecodedListing decoded;
  decoded.fetched_wall = Nanos(reader.Take<int64_t>());
  if (!reader.ok() || Hash64(bytes.substr(kListingHeader)) != hash) return std::nullopt;
  while (!reader.AtEnd()) {
    store::ListEntry& entry = decoded.listing.entries.emplace_back();
    entry.name = reader.TakeBytes(reader.Take<uint8_t>());
    if (!IsValidName(entry.name)) return std::nullopt;
    entry.described = (reader.Take<uint8_t>() & kDescribed) != 0;
    decoded.listing.described = decoded.listing.described && entry.described;
    const bool taken = entry.described ? TakeInfo(reader, entry.info) : TakeType(reader, entry.info);
    if (!taken) return std::nullopt;
  }
  return decoded;
}

std::string EncodeNode(const Node& node) {
  std::string out;
  Put<uint32_t>(out, kNodeMagic);
  Put<uint16_t>(out, static_cast<uint16_t>(node.identity.size()));
  Put<uint32_t>(out, static_cast<uint32_t>(node.path.size()));
  out += node.identity;
  out += node.path;
  PutInfo(out, node.info);
  Put<uint64_t>(out, Hash64(out));
  return out;
}

std::optional<Node> DecodeNode(std::string_view bytes) {
  if (bytes.size() < sizeof(uint64_t)) return std::nullopt;
  const std::string_view body = bytes.substr(0, bytes.size() - sizeof(uint64_t));
  if (Reader(bytes.substr(body.size())).Take<uint64_t>() != Hash64(body)) return std::nullopt;
  Reader reader(body);
  if (reader.Take<uint32_t>() != kNodeMagic) return std::nullopt;
  const auto identity_length = reader.Take<uint16_t>();
  const auto path_length = reader.Take<uint32_t>();
  Node node;
  node.identity = reader.TakeBytes(identity_length);
  node.path = reader.TakeBytes(path_length);
  if (!TakeInfo(reader, node.info) || !reader.AtEnd()) return std::nullopt;
  return node;
}

}  // namespace mlcache::session
