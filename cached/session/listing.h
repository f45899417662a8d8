// A whole directory at one moment, and how it is got: from the store page by page. Pure but for the store.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cached/store/object_store.h"
#include "common/clock.h"
#include "common/status.h"

namespace mlcache::session {

// In byte order of names. Immutable once shared.
struct Listing {
  std::vector<store::ListEntry> entries;
  Nanos fetched_at{};     // on Clock::Now
  bool described = true;  // false: of some entries only name and type are known (ListEntry::described)
};

// What a listing must tell. kNames: names and types; attributes only where they come at no cost.
enum class ListDetail : uint8_t { kNames, kAttributes };

// Null when there is no such name.
const store::ListEntry* FindEntry(const Listing& listing, std::string_view name);

// All of directory `path`, sorted, without names that no path can hold. More than `limit` entries: kOutOfRange, and
// `*seen` tells how many had come.
Result<std::shared_ptr<Listing>> FetchListing(store::ObjectStore& store, const std::string& path, ListDetail detail,
                                              uint64_t limit, uint64_t* seen, const store::CallContext& context);

}  // namespace mlcache::session
