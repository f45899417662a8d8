// Sizes and durations as people write them. Pure functions.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "common/status.h"

namespace mlcache {

inline constexpr uint64_t kKiB = uint64_t{1} << 10;
inline constexpr uint64_t kMiB = uint64_t{1} << 20;
inline constexpr uint64_t kGiB = uint64_t{1} << 30;

// "4096", "1.5GiB", "10 MB", "100K" (KiB/MiB/GiB/TiB are powers of 1024, KB/MB/GB/TB of 1000, a bare K/M/G/T of 1024).
// kInvalidArgument names the text and the accepted forms.
Result<uint64_t> ParseSize(std::string_view text);

// "0 B", "117.2 MiB": three or four significant digits, powers of 1024.
std::string FormatSize(uint64_t bytes);

// "600s", "1.5m", "2h", "250ms", or a bare number of seconds. kInvalidArgument as above.
Result<std::chrono::nanoseconds> ParseDuration(std::string_view text);

}  // namespace mlcache
