#include "cached/session/listing.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "cached/session/path.h"

namespace mlcache::session {

const store::ListEntry* FindEntry(const Listing& listing, std::string_view name) {
  const auto found = std::ranges::lower_bound(
      listing.entries, name, {}, [](const store::ListEntry& entry) { return std::string_view(entry.name); });
  return found != listing.entries.end() && found->name == name ? &*found : nullptr;
}

Result<std::shared_ptr<Listing>> FetchListing(store::ObjectStore& store, const std::string& path, ListDetail detail,
                                              uint64_t limit, uint64_t* seen, const store::CallContext& context) {
  store::CallContext asked = context;
  asked.names_suffice = detail == ListDetail::kNames;
  auto listing = std::make_shared<Listing>();
  std::vector<store::ListEntry>& entries = listing->entries;
  std::string token;
  do {
    MLCACHE_ASSIGN_OR_RETURN(store::ListPage page, store.List(path, token, asked));
    if (entries.empty()) {
      entries = std::move(page.entries);
    } else {
      std::ranges::move(page.entries, std::back_inserter(entries));
    }
    if (!page.next.empty() && page.next == token)
      return Fail(Code::kDataLoss, path + ": the store gave the same page of the listing twice");
    token = std::move(page.next);
    *seen = entries.size();
    if (!token.empty() && entries.size() >= limit)
      return Fail(Code::kOutOfRange, path + ": larger than is worth listing for a few lookups");
  } while (!token.empty());
  std::erase_if(entries, [](const store::ListEntry& entry) { return !IsValidName(entry.name); });
  if (!std::ranges::is_sorted(entries, {}, &store::ListEntry::name))
    std::ranges::sort(entries, {}, &store::ListEntry::name);
  const auto doubled = std::ranges::unique(entries, {}, &store::ListEntry::name);
  entries.erase(doubled.begin(), doubled.end());
  listing->described = std::ranges::all_of(entries, &store::ListEntry::described);
  return listing;
}

}  // namespace mlcache::session
