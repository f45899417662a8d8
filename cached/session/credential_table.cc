#include "cached/session/credential_table.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string_view>
#include <utility>

namespace mlcache::session {
namespace {

constexpr std::string_view kForm = "write [NAME], then uids = UID[, UID...] (or all), and aws_profile = SECTION";

std::string_view Trimmed(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r\n";
  const size_t begin = text.find_first_not_of(kBlank);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlank) - begin + 1);
}

bool IsName(std::string_view name) {
  return !name.empty() && std::ranges::all_of(name, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
           c == '.';
  });
}

bool ParseUids(std::string_view value, CredentialProfile& profile) {
  if (value == "all") {
    profile.everybody = true;
    return true;
  }
  while (!value.empty()) {
    const size_t comma = std::min(value.find(','), value.size());
    const std::string_view text = Trimmed(value.substr(0, comma));
    uid_t uid = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), uid);
    if (text.empty() || error != std::errc() || end != text.data() + text.size()) return false;
    profile.uids.push_back(uid);
    value.remove_prefix(std::min(comma + 1, value.size()));
  }
  return !profile.uids.empty();
}

bool MayUse(const CredentialProfile& profile, uid_t uid, bool trusted) {
  return trusted || profile.everybody || std::ranges::find(profile.uids, uid) != profile.uids.end();
}

}  // namespace

Result<CredentialTable> CredentialTable::Read(const std::string& path) {
  struct stat status{};
  if (stat(path.c_str(), &status) != 0)
    return FailErrno(errno, "--credentials=" + path + " (the file of credential profiles)");
  if (!S_ISREG(status.st_mode)) return Fail(Code::kInvalidArgument, "--credentials=" + path + " is not a file");
  if ((status.st_mode & S_IWOTH) != 0) {
    return Fail(Code::kPermissionDenied,
                "--credentials=" + path + ": everybody may write to it, and so choose keys: chmod o-w " + path);
  }
  std::ifstream file(path);
  if (!file) return FailErrno(errno, "--credentials=" + path + " (it must be readable by the daemon's user)");
  return Parse(std::string(std::istreambuf_iterator<char>(file), {}), path);
}

Result<CredentialTable> CredentialTable::Parse(const std::string& text, const std::string& path) {
  CredentialTable table(path);
  std::istringstream lines(text);
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    const auto wrong = [&](const std::string& what) {
      std::string message = path;
      message.append(":").append(std::to_string(number)).append(": ").append(what).append("; ").append(kForm);
      return Fail(Code::kInvalidArgument, message);
    };
    const std::string_view content = Trimmed(std::string_view(line).substr(0, line.find_first_of("#;")));
    if (content.empty()) continue;
    if (content.front() == '[') {
      const std::string name(content.back() == ']' ? Trimmed(content.substr(1, content.size() - 2)) : "");
      if (!IsName(name)) return wrong("a profile's name has letters, digits, '.', '-' and '_' only");
      if (std::ranges::find(table.profiles_, name, &CredentialProfile::name) != table.profiles_.end())
        return wrong("there is a [" + name + "] already");
      table.profiles_.push_back({.name = name, .aws_profile = name, .uids = {}});
      continue;
    }
    const size_t equals = content.find('=');
    if (table.profiles_.empty() || equals == std::string_view::npos) return wrong("neither a [NAME] nor KEY = VALUE");
    const std::string_view key = Trimmed(content.substr(0, equals));
    const std::string_view value = Trimmed(content.substr(equals + 1));
    CredentialProfile& profile = table.profiles_.back();
    if (key == "uids") {
      if (!ParseUids(value, profile)) return wrong("uids are numeric user ids");
    } else if (key == "aws_profile") {
      if (value.empty()) return wrong("aws_profile is empty");
      profile.aws_profile = value;
    } else {
      // Not the key itself: somebody may have put a secret here.
      return wrong("unknown key");
    }
  }
  return table;
}

Result<CredentialProfile> CredentialTable::Choose(const std::string& name, uid_t uid, bool trusted) const {
  const auto found = std::ranges::find(profiles_, name, &CredentialProfile::name);
  if (found == profiles_.end()) {
    std::string usable;
    for (const CredentialProfile& profile : profiles_) {
      if (MayUse(profile, uid, trusted)) usable += (usable.empty() ? "" : ", ") + profile.name;
    }
    return Fail(Code::kNotFound, "this daemon has no credential profile '" + name + "'; user " + std::to_string(uid) +
                                     " may use: " + (usable.empty() ? "none" : usable));
  }
  if (!MayUse(*found, uid, trusted)) {
    return Fail(Code::kPermissionDenied, "user " + std::to_string(uid) + " may not use the credential profile '" +
                                             name + "': the daemon's administrator lists who may, under uids in " +
                                             path_);
  }
  return *found;
}

}  // namespace mlcache::session
