#include "cached/store/seaweed_chunks.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <limits>
#include <queue>
#include <string_view>
#include <tuple>

#include "proto/filer.pb.h"

namespace mlcache::store {
namespace {

constexpr auto kMaxOffset = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
constexpr size_t kCookieDigits = 8;
constexpr size_t kKeyDigits = 16;

template <typename T>
bool ParseInteger(std::string_view text, int base, T& into) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), into, base);
  return error == std::errc() && end == text.data() + text.size();
}

// "VOLUME,KEYCOOKIE": the key in hexadecimal without leading zeros, the cookie in its last 8 digits.
bool ParseFileId(std::string_view text, SeaweedChunk& chunk) {
  const size_t comma = text.find(',');
  if (comma == std::string_view::npos) return false;
  const std::string_view digits = text.substr(comma + 1);
  if (digits.size() <= kCookieDigits || digits.size() > kCookieDigits + kKeyDigits) return false;
  return ParseInteger(text.substr(0, comma), 10, chunk.volume_id) &&
         ParseInteger(digits.substr(0, digits.size() - kCookieDigits), 16, chunk.file_key) &&
         ParseInteger(digits.substr(digits.size() - kCookieDigits), 16, chunk.cookie);
}

}  // namespace

std::string SeaweedChunk::FileId() const {
  char key[kKeyDigits + 1];
  std::snprintf(key, sizeof(key), "%016llx", static_cast<unsigned long long>(file_key));
  // Leading zero bytes, not digits, are left out.
  std::string_view digits(key);
  while (digits.starts_with("00")) digits.remove_prefix(2);
  char low[kCookieDigits + 1];
  std::snprintf(low, sizeof(low), "%08x", cookie);
  return std::to_string(volume_id) + "," + std::string(digits) + low;
}

Result<SeaweedChunk> ParseSeaweedChunk(const filer_pb::FileChunk& chunk) {
  SeaweedChunk parsed;
  if (chunk.has_fid()) {
    parsed.volume_id = chunk.fid().volume_id();
    parsed.file_key = chunk.fid().file_key();
    parsed.cookie = chunk.fid().cookie();
  } else if (!ParseFileId(chunk.file_id(), parsed)) {
    return Fail(Code::kDataLoss, "the filer names a chunk '" + chunk.file_id() + "', which is no file id");
  }
  if (chunk.offset() < 0 || chunk.size() > kMaxOffset - static_cast<uint64_t>(chunk.offset())) {
    return Fail(Code::kDataLoss, "chunk " + parsed.FileId() + " lies outside any file (offset " +
                                     std::to_string(chunk.offset()) + ", size " + std::to_string(chunk.size()) + ")");
  }
  parsed.offset = static_cast<uint64_t>(chunk.offset());
  parsed.size = chunk.size();
  parsed.modified_ts_ns = chunk.modified_ts_ns();
  parsed.compressed = chunk.is_compressed();
  parsed.manifest = chunk.is_chunk_manifest();
  parsed.gateway_encrypted = chunk.sse_type() != 0;
  if (!chunk.cipher_key().empty()) parsed.cipher_key = std::make_shared<const std::string>(chunk.cipher_key());
  return parsed;
}

std::vector<ChunkView> VisibleChunks(const std::vector<SeaweedChunk>& chunks) {
  std::vector<size_t> by_offset;
  for (size_t i = 0; i < chunks.size(); ++i) {
    if (chunks[i].size > 0) by_offset.push_back(i);
  }
  std::ranges::stable_sort(by_offset, {}, [&](size_t i) { return chunks[i].offset; });

  // The chunks over the place that the sweep has reached, the visible one on top; ended ones go when they get there.
  const auto hidden_by = [&](size_t a, size_t b) {
    return std::tuple(chunks[a].modified_ts_ns, chunks[b].offset, b) <
           std::tuple(chunks[b].modified_ts_ns, chunks[a].offset, a);
  };
  std::priority_queue<size_t, std::vector<size_t>, decltype(hidden_by)> over(hidden_by);
  std::vector<ChunkView> views;
  uint64_t at = 0;
  for (size_t next = 0;;) {
    while (!over.empty() && chunks[over.top()].end() <= at) over.pop();
    if (over.empty()) {
      if (next == by_offset.size()) return views;
      at = std::max(at, chunks[by_offset[next]].offset);
    }
    while (next < by_offset.size() && chunks[by_offset[next]].offset <= at) over.push(by_offset[next++]);
    const size_t top = over.top();
    if (chunks[top].end() <= at) continue;
    uint64_t end = chunks[top].end();
    if (next < by_offset.size()) end = std::min(end, chunks[by_offset[next]].offset);
    if (!views.empty() && views.back().chunk == top && views.back().end == at) {
      views.back().end = end;
    } else {
      views.push_back({.begin = at, .end = end, .chunk = top, .offset_in_chunk = at - chunks[top].offset});
    }
    at = end;
  }
}

}  // namespace mlcache::store
