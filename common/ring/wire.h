// What crosses the rings between a shim and the daemon: fixed-width records, copied out of shared memory once and then
// checked. Both sides are of one build or refuse each other by kProtocolVersion. No pointers, only indexes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace mlcache::ring {

inline constexpr uint32_t kProtocolVersion = 2;
inline constexpr uint32_t kMaxReadBytes = 1U << 20;  // of one kRead or kReadDir, and so the largest slot
inline constexpr uint32_t kMaxNameBytes = 255;
inline constexpr uint64_t kRootNode = 1;

enum class Op : uint32_t {
  kNone = 0,
  kLookup = 1,        // node = parent, name → attributes; kNotFound carries a negative timeout
  kGetAttr = 2,       // node → attributes
  kReadLink = 3,      // node → slot with the target
  kOpen = 4,          // node, flags = open(2) flags → handle, or a lease
  kRelease = 5,       // node, handle; no completion
  kRead = 6,          // node, handle (a hint: 0 or stale works), offset, length → slot with the bytes
  kOpenDir = 7,       // node → handle
  kReadDir = 8,       // node, offset = cookie, length = most bytes wanted → slot with DirEntry records
  kReleaseDir = 9,    // node, handle; no completion
  kStatFs = 10,       // → slot with one StatFsReply
  kGetXattr = 11,     // node, name, length = the caller's room → slot with the value
  kListXattr = 12,    // node → slot with NUL-terminated names
  kForget = 13,       // node; a hint, no completion
  kCancel = 14,       // offset = the id of the submission to call off; no completion of its own
  kReleaseSlot = 15,  // offset = Completion::slot; no completion
  kStats = 16,        // → slot with the text of .mlcache/stats
  kAccess = 17,       // name = nodes (u64 each) of lent files that were opened again; a hint, no completion
  kTookLeases = 18,   // offset = how many more descriptors were taken off the lease socket; no completion
};
inline constexpr Op kLastOp = Op::kTookLeases;

// Submission::flags of kOpen, beside those of open(2): the file may be lent, if the daemon has all of it.
inline constexpr uint32_t kWantLease = 1U << 31;

// Completion::flags of kOpen: the file is lent. `lease` is the number of the message on the lease socket that brings
// its descriptor, which was sent before this. There is no handle then.
inline constexpr uint32_t kLeaseSent = 2;

inline constexpr size_t kMaxAccessNodes = 31;  // of one kAccess

// Submission::flags of kReadDir: of an entry's attributes only inode and mode are wanted, and no nodeid (it stays 0).
inline constexpr uint32_t kNamesOnly = 1;

// Completion::flags of kOpenDir: the listing is the one that this session was given for the node last, so what the
// kernel keeps of it is still true.
inline constexpr uint32_t kListingUnchanged = 1;

// shim → daemon. `name` is read only as far as name_length.
struct Submission {
  uint64_t id = 0;  // chosen by the shim, unique among those outstanding, not 0
  Op op = Op::kNone;
  uint32_t flags = 0;
  uint64_t node = 0;
  uint64_t handle = 0;
  uint64_t offset = 0;
  uint32_t length = 0;
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint32_t pid = 0;
  uint16_t name_length = 0;
  std::array<char, kMaxNameBytes + 1> name{};
  std::array<char, 6> padding{};
};

// A file's attributes. Timeouts are how long the kernel may believe this reply, in nanoseconds.
struct NodeAttributes {
  uint64_t node = 0;
  uint64_t inode = 0;  // st_ino: names the path, the same for every version
  uint64_t size = 0;
  int64_t atime_ns = 0;
  int64_t mtime_ns = 0;
  int64_t ctime_ns = 0;
  uint64_t entry_timeout_ns = 0;
  uint64_t attr_timeout_ns = 0;
  uint32_t mode = 0;  // with the file type bits
  uint32_t nlink = 1;
  uint32_t uid = 0;
  uint32_t gid = 0;
};

inline constexpr uint32_t kNoSlot = 0xffffffff;

// daemon → shim.
struct Completion {
  uint64_t id = 0;            // of the submission
  int32_t code = 0;           // 0, or a mlcache::Code
  uint32_t slot = kNoSlot;    // owned by the shim from now on, until it sends kReleaseSlot
  uint64_t arena_offset = 0;  // where the slot's bytes begin
  uint32_t length = 0;        // valid bytes of the slot
  uint32_t flags = 0;
  uint64_t handle = 0;          // of kOpen, kOpenDir
  NodeAttributes attributes{};  // of kLookup, kGetAttr, kOpen; on kNotFound entry_timeout_ns alone
  uint64_t lease = 0;           // of kOpen with kLeaseSent
};

// In a kReadDir slot, one after the other, each padded to 8 bytes: this header, then name_length bytes of name.
// `.` and `..` are not sent; the shim makes them. `next_cookie` continues behind this entry and stays valid.
struct DirEntry {
  NodeAttributes attributes;
  uint64_t next_cookie = 0;  // never 0, 1 or 2 (those are `.` and `..`)
  uint16_t name_length = 0;
  uint16_t last = 0;  // 1 on the last entry of the directory
  uint32_t padding = 0;
};

struct StatFsReply {
  uint64_t block_bytes = 4096;
  uint64_t blocks = 0;
  uint64_t blocks_free = 0;
  uint64_t files = 0;
  uint64_t files_free = 0;
};

enum class Notice : uint32_t {
  kNone = 0,
  kInvalidateEntry = 1,
  kInvalidateInode = 2,
  kRevoke = 3,  // node: a lent file has left the cache; end its registration as soon as nobody has it open
};

// daemon → shim, unasked.
struct Notification {
  Notice notice = Notice::kNone;
  uint32_t name_length = 0;
  uint64_t node = 0;  // the parent for kInvalidateEntry
  std::array<char, kMaxNameBytes + 1> name{};
};

static_assert(std::is_trivially_copyable_v<Submission> && sizeof(Submission) == 320);
static_assert(offsetof(Submission, name) == 58);
static_assert(std::is_trivially_copyable_v<NodeAttributes> && sizeof(NodeAttributes) == 80);
static_assert(std::is_trivially_copyable_v<Completion> && sizeof(Completion) == 128);
static_assert(std::is_trivially_copyable_v<DirEntry> && sizeof(DirEntry) == 96);
static_assert(std::is_trivially_copyable_v<Notification> && sizeof(Notification) == 272);

}  // namespace mlcache::ring
