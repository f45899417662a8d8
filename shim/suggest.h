// "Did you mean": the known word nearest to what somebody typed. Pure.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace mlcache::shim {

// Levenshtein distance in bytes.
size_t EditDistance(std::string_view a, std::string_view b);

// The word of `known` with the smallest distance to `typed`, the first of equals; "" for an empty list.
std::string Nearest(std::string_view typed, std::span<const std::string_view> known);

}  // namespace mlcache::shim
