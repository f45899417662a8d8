#include "shim/mount_options.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <functional>
#include <initializer_list>
#include <span>

#include "common/units.h"
#include "shim/suggest.h"

namespace mlcache::shim {
namespace {

struct Given {
  std::string name;
  std::optional<std::string> value;  // of "name=value"
};

struct Option {
  std::string_view name;
  Status (*apply)(const Given& given, MountOptions* options);
};

std::unexpected<Error> Bad(const Given& given, std::string_view expected) {
  return Fail(Code::kInvalidArgument, "mount option " + given.name + ": " +
                                          (given.value ? "'" + *given.value + "' will not do, " : "") + "expected " +
                                          std::string(expected));
}

Status Text(const Given& given, std::string* out) {
  if (!given.value || given.value->empty()) return Bad(given, given.name + "=VALUE");
  *out = *given.value;
  return {};
}

// Bare, it means true.
Status Boolean(const Given& given, bool* out) {
  if (!given.value || *given.value == "true" || *given.value == "on" || *given.value == "yes" || *given.value == "1") {
    *out = true;
  } else if (*given.value == "false" || *given.value == "off" || *given.value == "no" || *given.value == "0") {
    *out = false;
  } else {
    return Bad(given, "true or false");
  }
  return {};
}

Status Bare(const Given& given, bool value, bool* out) {
  if (given.value) return Bad(given, "no value");
  *out = value;
  return {};
}

Status OneOf(const Given& given, std::initializer_list<std::string_view> allowed, std::string* out) {
  if (given.value && std::ranges::find(allowed, *given.value) != allowed.end()) {
    *out = *given.value;
    return {};
  }
  std::string list;
  for (const std::string_view word : allowed) list += (list.empty() ? "" : ", ") + std::string(word);
  return Bad(given, "one of " + list);
}

Status Number(const Given& given, int base, std::string_view expected, uint32_t most, uint32_t* out) {
  if (!given.value) return Bad(given, expected);
  const char* const end = given.value->data() + given.value->size();
  uint32_t number = 0;
  const auto [stop, error] = std::from_chars(given.value->data(), end, number, base);
  if (error != std::errc() || stop != end || number > most) return Bad(given, expected);
  *out = number;
  return {};
}

Status Identity(const Given& given, std::optional<uint32_t>* out) {
  // The largest number means "no identity" to the kernel.
  uint32_t number = 0;
  MLCACHE_RETURN_IF_ERROR(Number(given, 10, "a numeric identity, as in " + given.name + "=1000", 0xfffffffe, &number));
  *out = number;
  return {};
}

Status Duration(const Given& given, Nanos* out) {
  if (!given.value) return Bad(given, "a duration, as in " + given.name + "=600s");
  Result<Nanos> parsed = ParseDuration(*given.value);
  if (!parsed) return std::unexpected(parsed.error().WithContext("mount option " + given.name));
  *out = *parsed;
  return {};
}

constexpr auto kOptions = std::to_array<Option>({
    {"ro",
     [](const Given& given, MountOptions* options) {
       options->asked_for_writing = false;
       return Bare(given, true, &options->read_only);
     }},
    {"rw",
     [](const Given& given, MountOptions* options) { return Bare(given, true, &options->asked_for_writing); }},
    {"allow_other",
     [](const Given& given, MountOptions* options) { return Bare(given, true, &options->allow_other); }},
    {"noexec", [](const Given& given, MountOptions* options) { return Bare(given, true, &options->no_exec); }},
    {"exec", [](const Given& given, MountOptions* options) { return Bare(given, false, &options->no_exec); }},
    {"immutable", [](const Given& given, MountOptions* options) { return Boolean(given, &options->immutable); }},
    {"open_mode",
     [](const Given& given, MountOptions* options) {
       return OneOf(given, {"auto", "passthrough", "noopen", "cached"}, &options->open_mode);
     }},
    {"seal",
     [](const Given& given, MountOptions* options) {
       return OneOf(given, {"auto", "on", "off"}, &options->seal);
     }},
    {"durability",
     [](const Given& given, MountOptions* options) {
       return OneOf(given, {"remote", "local"}, &options->durability);
     }},
    {"uid", [](const Given& given, MountOptions* options) { return Identity(given, &options->uid); }},
    {"gid", [](const Given& given, MountOptions* options) { return Identity(given, &options->gid); }},
    {"umask",
     [](const Given& given, MountOptions* options) -> Status {
       uint32_t mask = 0;
       MLCACHE_RETURN_IF_ERROR(Number(given, 8, "an octal mask up to 777, as in umask=022", 0777, &mask));
       options->umask = mask;
       return {};
     }},
    {"attr_ttl",
     [](const Given& given, MountOptions* options) -> Status {
       Nanos ttl{};
       MLCACHE_RETURN_IF_ERROR(Duration(given, &ttl));
       options->attr_ttl = ttl;
       return {};
     }},
    {"io_timeout", [](const Given& given, MountOptions* options) { return Duration(given, &options->io_timeout); }},
    {"job", [](const Given& given, MountOptions* options) { return Text(given, &options->job); }},
    {"credential", [](const Given& given, MountOptions* options) { return Text(given, &options->credential); }},
    {"scratch", [](const Given& given, MountOptions* options) { return Text(given, &options->scratch); }},
    {"socket_dir", [](const Given& given, MountOptions* options) { return Text(given, &options->socket_dir); }},
    {"ml.optimization",
     [](const Given& given, MountOptions* options) { return Boolean(given, &options->ml_optimization); }},
    {"ml.prefetchWorkers",
     [](const Given& given, MountOptions* options) {
       return Number(given, 10, "a number from 0 to 1024, as in ml.prefetchWorkers=8", 1024, &options->ml_prefetch_workers);
     }},
    {"ml.cacheSize",
     [](const Given& given, MountOptions* options) -> Status {
       if (!given.value) return Bad(given, "a size, as in ml.cacheSize=1GB");
       Result<uint64_t> size = ParseSize(*given.value);
       if (!size) return std::unexpected(size.error().WithContext("mount option ml.cacheSize"));
       options->ml_cache_size_bytes = *size;
       return {};
     }},
    {"ml.trainingMode",
     [](const Given& given, MountOptions* options) { return Boolean(given, &options->ml_training_mode); }},
    {"ml.datasetPath", [](const Given& given, MountOptions* options) { return Text(given, &options->ml_dataset_path); }},
});

// Words of mount(8), systemd and libfuse that say nothing to us: nosuid, nodev and default_permissions always hold.
constexpr auto kGeneric =
    std::to_array<std::string_view>({"defaults",      "auto",     "noauto",     "user",
                                     "nouser",        "users",    "owner",      "group",
                                     "_netdev",       "nofail",   "async",      "sync",
                                     "dirsync",       "atime",    "noatime",    "diratime",
                                     "nodiratime",    "relatime", "norelatime", "strictatime",
                                     "nostrictatime", "lazytime", "nolazytime", "nosuid",
                                     "nodev",         "silent",   "loud",       "mand",
                                     "nomand",        "iversion", "noiversion", "default_permissions"});

bool IsGeneric(const Given& given) {
  return std::ranges::find(kGeneric, given.name) != kGeneric.end() || given.name.starts_with("x-") ||
         given.name.starts_with("X-") || given.name == "comment";
}

std::vector<Given> Split(std::string_view list) {
  std::vector<Given> all;
  std::string current;
  const auto flush = [&] {
    if (!current.empty()) {
      const size_t equals = current.find('=');
      Given given{current.substr(0, equals), std::nullopt};
      if (equals != std::string::npos) given.value = current.substr(equals + 1);
      all.push_back(std::move(given));
    }
    current.clear();
  };
  for (size_t i = 0; i < list.size(); ++i) {
    if (list[i] == '\\' && i + 1 < list.size() && (list[i + 1] == ',' || list[i + 1] == '\\')) {
      current += list[++i];
    } else if (list[i] == ',') {
      flush();
    } else {
      current += list[i];
    }
  }
  flush();
  return all;
}

std::unexpected<Error> Unknown(const Given& given) {
  std::vector<std::string_view> names;
  names.reserve(kOptions.size());
  for (const Option& option : kOptions) names.push_back(option.name);
  std::string message = "unknown mount option '" + given.name + "'";
  if (given.name == "suid" || given.name == "dev") {
    message = "mount option '" + given.name + "' cannot be had: these mounts are always nosuid,nodev";
  } else {
    message += "; the nearest known one is '" + Nearest(given.name, names) + "'";
  }
  return Fail(Code::kInvalidArgument, std::move(message));
}

}  // namespace

Nanos MountOptions::EffectiveAttrTtl() const {
  return attr_ttl.value_or(ml_training_mode ? Nanos(std::chrono::minutes(10)) : Nanos(std::chrono::seconds(10)));
}

Status ParseMountOptions(std::string_view list, MountOptions* options, std::vector<std::string>* ignored) {
  for (const Given& given : Split(list)) {
    const auto* const known = std::ranges::find(kOptions, given.name, &Option::name);
    if (known != kOptions.end()) {
      MLCACHE_RETURN_IF_ERROR(known->apply(given, options));
    } else if (IsGeneric(given)) {
      continue;
    } else if (ignored != nullptr) {
      ignored->push_back(given.name);
    } else {
      return Unknown(given);
    }
  }
  return {};
}

}  // namespace mlcache::shim
