// Percent-encoding (RFC 3986) of bytes. Pure functions.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace mlcache::store {

// Letters, digits, '-', '.', '_', '~' and the characters in `keep` stay; the rest becomes %XX with capital digits, as
// AWS signatures want it.
std::string PercentEncode(std::string_view bytes, std::string_view keep);

// Nothing if a '%' is not followed by two hexadecimal digits. '+' stays unless `plus_is_space`.
std::optional<std::string> PercentDecode(std::string_view text, bool plus_is_space = false);

}  // namespace mlcache::store
