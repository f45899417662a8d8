// The release this tree builds.
#pragma once

namespace mlcache {
inline constexpr char kVersion[] = "0.1.0";
}  // namespace mlcache
