// From what a store says of a file to what a mount's kernel is told: overrides of owner and mode, and for how long each
// answer may be believed. Pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "cached/store/object_store.h"
#include "common/clock.h"
#include "common/ring/wire.h"

namespace mlcache::session {

// How one mount shows its volume.
struct View {
  std::optional<uint32_t> uid;
  std::optional<uint32_t> gid;
  std::optional<uint32_t> umask;
  bool immutable = false;  // timeouts of years, any metadata will do
  Nanos attr_ttl = std::chrono::seconds(10);
  Nanos negative_ttl = std::chrono::seconds(1);

  // How old metadata may be: Nanos::max() of an immutable mount.
  Nanos max_age() const { return immutable ? Nanos::max() : attr_ttl; }
};

// How long the kernel may go on believing an answer that was true at `fetched_at`, in nanoseconds: what is left of
// attr_ttl; nothing for what is not settled; a year and more for immutable.
uint64_t TimeoutOf(const View& view, bool settled, Nanos fetched_at, Nanos now);

// As TimeoutOf, for the answer that there is nothing.
uint64_t NegativeTimeoutOf(const View& view, Nanos fetched_at, Nanos now);

// `node` and `inode` name the file; both timeouts are `timeout_ns`. Stored setuid, setgid and sticky bits are not shown
// (they would be inert: every mount is nosuid).
ring::NodeAttributes AttributesOf(const View& view, const store::ObjectInfo& info, uint64_t node, uint64_t inode,
                                  uint64_t timeout_ns);

}  // namespace mlcache::session
