// The binary forms of what the session layer keeps in its two KeyValue maps: listings and node rows. Fixed-width
// little-endian fields, a magic, a format number and an XXH3 over the body: what does not check out is treated as
// absent. Pure functions.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "cached/session/node_table.h"
#include "cached/session/volume.h"

namespace mlcache::session {

// Without inline content and layouts, which belong to the process that fetched them. Begins with the hash of the
// entries, so that an unchanged directory can be told by its first bytes.
std::string EncodeListing(const Listing& listing, Nanos fetched_wall);

struct DecodedListing {
  Listing listing;  // fetched_at is not set
  Nanos fetched_wall{};
};
std::optional<DecodedListing> DecodeListing(std::string_view bytes);

// The hash within an encoded listing: equal for equal entries, whenever they were fetched.
uint64_t EntriesHash(std::string_view encoded_listing);

std::string EncodeNode(const Node& node);
std::optional<Node> DecodeNode(std::string_view bytes);

}  // namespace mlcache::session
