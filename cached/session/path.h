// Paths inside a store, as object_store.h has them: components joined by single slashes, "" for the root. Names come
// from untrusted shims and are checked here before anything is made of them. Pure functions.
#pragma once

#include <string>
#include <string_view>

#include "common/status.h"

namespace mlcache::session {

// One component: 1 to 255 bytes, no '/' or NUL, not "." or "..".
bool IsValidName(std::string_view name);

// "" or valid names joined by single slashes.
bool IsValidPath(std::string_view path);

// A path as users write it, without empty and "." components. kInvalidArgument for "..", which may lead outside; what
// else is wrong IsValidPath tells.
Result<std::string> CleanPath(std::string_view path);

// "a" + "b" → "a/b"; an empty part is left out.
std::string JoinPath(std::string_view directory, std::string_view name);

// The directory of a path that is not "": "a/b" → "a", "a" → "".
std::string_view ParentOf(std::string_view path);
std::string_view NameOf(std::string_view path);

// Whether `path` is `prefix` or lies below it.
bool IsWithin(std::string_view path, std::string_view prefix);

// The part of `path` (which IsWithin prefix) below `prefix`.
std::string_view Below(std::string_view path, std::string_view prefix);

}  // namespace mlcache::session
