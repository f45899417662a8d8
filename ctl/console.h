// Where mlcachectl writes, and how: text tables, exact byte counts, names made safe for a terminal. Owned by the main
// thread.
#pragma once

#include <cstdint>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

namespace mlcache::ctl {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailure = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitUnreachable = 3;
inline constexpr int kExitPartly = 4;

struct Console {
  std::ostream& out;
  std::ostream& err;
  bool out_is_terminal = false;
  bool err_is_terminal = false;
  size_t columns = 80;  // of the terminal
};

// With control characters (a name may hold newlines and escapes) as \n, \t or \xNN.
std::string Shown(std::string_view name);

// "1,234,567".
std::string WithCommas(uint64_t number);

// "3 d 4 h", "2 h 5 min", "41 s": the two largest units.
std::string FormatSeconds(uint64_t seconds);

// "12.3 %"; "100 %" and "0 %" only when it is exactly that. An empty whole is complete.
std::string FormatPercent(uint64_t part, uint64_t whole);

// Rows under a heading, each column as wide as its widest cell, the last one not padded.
class Table {
 public:
  explicit Table(std::vector<std::string> heading) : rows_{std::move(heading)} {}
  void Add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  void Print(std::ostream& out) const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace mlcache::ctl
