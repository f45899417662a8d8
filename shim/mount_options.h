// The options of one mount, as given after -o or in fstab. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/clock.h"
#include "common/status.h"

namespace mlcache::shim {

struct MountOptions {
  bool read_only = true;
  bool asked_for_writing = false;  // "rw" was given; the caller decides whether that is a mistake
  bool allow_other = false;
  bool no_exec = false;
  bool immutable = false;          // the store never changes below this mount
  std::string open_mode = "auto";  // auto, passthrough, noopen or cached
  std::string seal = "auto";       // auto, on or off
  std::string durability = "remote";
  std::optional<uint32_t> uid;  // overrides what the store says
  std::optional<uint32_t> gid;
  std::optional<uint32_t> umask;
  std::optional<Nanos> attr_ttl;                 // how old metadata may be; see EffectiveAttrTtl
  Nanos io_timeout = std::chrono::seconds(600);  // of one operation; 0: for ever
  std::string job;
  std::string credential;
  std::string scratch;
  bool ml_optimization = true;       // look-ahead, and eviction by how the job reads
  uint32_t ml_prefetch_workers = 8;  // fetches ahead of this mount's readers at once; 0: none
  uint64_t ml_cache_size_bytes = 0;  // 0: no wish
  bool ml_training_mode = false;     // metadata lasts as long as a training job does not mind
  std::string ml_dataset_path;       // below the mountpoint: its metadata is loaded ahead
  std::string socket_dir;            // "" when not given here

  // What attr_ttl= says; without it 10 s, in training mode 10 min.
  Nanos EffectiveAttrTtl() const;
};

// Reads a comma-separated list into `options`, over what is there already; a comma inside a value is written "\,".
// What mount(8) and fstab add for themselves (defaults, _netdev, x-…) is accepted and means nothing here.
// kInvalidArgument names the option, what is wrong with it and, for an unknown one, the nearest known one. With
// `ignored` not null, unknown options are appended there instead (mount -s).
Status ParseMountOptions(std::string_view list, MountOptions* options, std::vector<std::string>* ignored = nullptr);

}  // namespace mlcache::shim
