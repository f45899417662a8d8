#include "common/units.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <utility>

namespace mlcache {
namespace {

struct Unit {
  std::string_view name;
  double factor;
};

constexpr std::array<Unit, 14> kSizeUnits = {{{"", 1},
                                              {"B", 1},
                                              {"K", 1024.0},
                                              {"KiB", 1024.0},
                                              {"KB", 1e3},
                                              {"M", 1048576.0},
                                              {"MiB", 1048576.0},
                                              {"MB", 1e6},
                                              {"G", 1073741824.0},
                                              {"GiB", 1073741824.0},
                                              {"GB", 1e9},
                                              {"T", 1099511627776.0},
                                              {"TiB", 1099511627776.0},
                                              {"TB", 1e12}}};

constexpr std::array<Unit, 5> kTimeUnits = {{{"", 1e9}, {"s", 1e9}, {"ms", 1e6}, {"m", 60e9}, {"h", 3600e9}}};

// Splits "1.5 GiB" into a number and the factor of its unit; a negative result means malformed.
template <size_t N>
double ParseWithUnit(std::string_view text, const std::array<Unit, N>& units) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  if (error != std::errc() || !(number >= 0)) return -1;
  std::string_view unit(end, static_cast<size_t>(text.data() + text.size() - end));
  while (!unit.empty() && unit.front() == ' ') unit.remove_prefix(1);
  for (const Unit& candidate : units) {
    if (candidate.name == unit) return number * candidate.factor;
  }
  return -1;
}

}  // namespace

Result<uint64_t> ParseSize(std::string_view text) {
  const double bytes = ParseWithUnit(text, kSizeUnits);
  if (bytes < 0 || bytes >= 9.2e18) {
    return Fail(Code::kInvalidArgument, "bad size '" + std::string(text) +
                                            "': write a number of bytes, or one with KiB, MiB, GiB, TiB, KB, MB, GB or "
                                            "TB, as in 64GiB");
  }
  return static_cast<uint64_t>(std::llround(bytes));
}

std::string FormatSize(uint64_t bytes) {
  constexpr std::array<const char*, 5> kNames = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < kNames.size()) {
    value /= 1024;
    ++unit;
  }
  std::array<char, 48> buffer{};
  std::snprintf(buffer.data(), buffer.size(), unit == 0 ? "%.0f %s" : "%.1f %s", value, kNames.at(unit));
  return buffer.data();
}

Result<std::chrono::nanoseconds> ParseDuration(std::string_view text) {
  const double nanos = ParseWithUnit(text, kTimeUnits);
  if (nanos < 0 || nanos >= 9.2e18) {
    return Fail(Code::kInvalidArgument,
                "bad duration '" + std::string(text) + "': write seconds, or a number with ms, s, m or h, as in 600s");
  }
  return std::chrono::nanoseconds(std::llround(nanos));
}

}  // namespace mlcache
