#include "ctl/console.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <utility>

namespace mlcache::ctl {

std::string Shown(std::string_view name) {
  std::string text;
  text.reserve(name.size());
  for (const char c : name) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\n') {
      text += "\\n";
    } else if (c == '\t') {
      text += "\\t";
    } else if (byte < 0x20 || byte == 0x7f) {
      std::array<char, 8> escaped{};
      std::snprintf(escaped.data(), escaped.size(), "\\x%02x", byte);
      text += escaped.data();
    } else {
      text += c;
    }
  }
  return text;
}

std::string WithCommas(uint64_t number) {
  std::string text = std::to_string(number);
  for (size_t place = text.size(); place > 3;) {
    place -= 3;
    text.insert(place, ",");
  }
  return text;
}

std::string FormatSeconds(uint64_t seconds) {
  constexpr std::array<std::pair<uint64_t, const char*>, 4> kUnits = {
      {{86400, " d"}, {3600, " h"}, {60, " min"}, {1, " s"}}};
  std::string text;
  for (const auto& [length, name] : kUnits) {
    const bool second = !text.empty();
    if (seconds < length && !second && length > 1) continue;
    // The analyzer does not see that no unit is 0 long.
    text += (second ? " " : "") + std::to_string(seconds / length) + name;  // NOLINT(clang-analyzer-core.DivideZero)
    if (second) break;
    seconds %= length;
  }
  return text;
}

std::string FormatPercent(uint64_t part, uint64_t whole) {
  if (part >= whole) return "100 %";
  if (part == 0) return "0 %";
  const double percent = 100.0 * static_cast<double>(part) / static_cast<double>(whole);
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.1f %%", std::clamp(percent, 0.1, 99.9));
  return text.data();
}

void Table::Print(std::ostream& out) const {
  std::vector<size_t> widths;
  for (const auto& row : rows_) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) {
      out << row[i];
      if (i + 1 < row.size()) out << std::string(widths[i] - row[i].size() + 2, ' ');
    }
    out << '\n';
  }
}

}  // namespace mlcache::ctl
