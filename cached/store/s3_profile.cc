#include "cached/store/s3_profile.h"

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <string_view>
#include <utility>

namespace mlcache::store {
namespace {

using Settings = std::map<std::string, std::string>;

std::string Trimmed(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r\n";
  const size_t begin = text.find_first_not_of(kBlank);
  if (begin == std::string_view::npos) return "";
  return std::string(text.substr(begin, text.find_last_not_of(kBlank) - begin + 1));
}

// Adds the settings of the sections called `section` that `settings` does not have yet. Whether there was one.
bool AddSection(std::istream& file, const std::string& section, Settings& settings) {
  bool ours = false;
  bool found = false;
  for (std::string line; std::getline(file, line);) {
    const std::string text = Trimmed(line);
    if (text.empty() || text.front() == '#' || text.front() == ';') continue;
    if (text.front() == '[') {
      ours = text.back() == ']' && Trimmed(std::string_view(text).substr(1, text.size() - 2)) == section;
      found = found || ours;
      continue;
    }
    const size_t equals = text.find('=');
    const bool nested = line.front() == ' ' || line.front() == '\t';  // a sub-setting, such as one of "s3 ="
    if (!ours || nested || equals == std::string::npos) continue;
    settings.emplace(Trimmed(std::string_view(text).substr(0, equals)),
                     Trimmed(std::string_view(text).substr(equals + 1)));
  }
  return found;
}

}  // namespace

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

ProfileFiles FindProfileFiles() {
  const std::string home = Environment("HOME");
  ProfileFiles files{.credentials = Environment("AWS_SHARED_CREDENTIALS_FILE"),
                     .config = Environment("AWS_CONFIG_FILE")};
  if (const std::string directory = Environment("CREDENTIALS_DIRECTORY");
      files.credentials.empty() && !directory.empty() && std::ifstream(directory + "/aws").good()) {
    files.credentials = directory + "/aws";
  }
  if (files.credentials.empty() && !home.empty()) files.credentials = home + "/.aws/credentials";
  if (files.config.empty() && !home.empty()) files.config = home + "/.aws/config";
  return files;
}

Result<Profile> ReadProfile(const ProfileFiles& files, const std::string& name) {
  Settings settings;
  bool found = false;
  std::string looked_at;
  for (const auto& [path, section] :
       {std::pair(files.credentials, name), std::pair(files.config, name == "default" ? name : "profile " + name)}) {
    if (path.empty()) continue;
    looked_at += looked_at.empty() ? "" : ", ";
    std::ifstream file(path);
    if (!file) {
      looked_at.append(path).append(": ").append(std::strerror(errno));
    } else if (AddSection(file, section, settings)) {
      found = true;
    } else {
      looked_at.append(path).append(" has no section [").append(section).append("]");
    }
  }
  if (!found) return Fail(Code::kNotFound, looked_at.empty() ? "there is no profile file" : looked_at);
  Profile profile{.access_key_id = settings["aws_access_key_id"],
                  .secret_access_key = settings["aws_secret_access_key"],
                  .session_token = settings["aws_session_token"],
                  .region = settings["region"],
                  .role_arn = settings["role_arn"],
                  .role_session_name = settings["role_session_name"],
                  .web_identity_token_file = settings["web_identity_token_file"],
                  .unsupported = ""};
  constexpr std::array<const char*, 5> kUnsupported = {"credential_process", "source_profile", "credential_source",
                                                       "sso_session", "sso_start_url"};
  for (const char* setting : kUnsupported) {
    if (profile.unsupported.empty() && settings.contains(setting)) profile.unsupported = setting;
  }
  return profile;
}

}  // namespace mlcache::store
