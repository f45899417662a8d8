// The AWS profile files: ~/.aws/credentials, ~/.aws/config and those that stand in for them.
// https://docs.aws.amazon.com/sdkref/latest/guide/file-format.html
#pragma once

#include <string>

#include "common/status.h"

namespace mlcache::store {

struct ProfileFiles {
  std::string credentials;  // empty: none
  std::string config;
};

// From the environment, as MakeDefaultCredentials describes.
ProfileFiles FindProfileFiles();

struct Profile {
  std::string access_key_id;
  std::string secret_access_key;
  std::string session_token;
  std::string region;
  std::string role_arn;
  std::string role_session_name;
  std::string web_identity_token_file;
  std::string unsupported;  // the name of a setting of the profile that this program cannot follow

  bool HasKeys() const { return !access_key_id.empty() && !secret_access_key.empty(); }
};

// What the files say of `name`; the credentials file wins. kNotFound, with what was looked at, if neither has it.
Result<Profile> ReadProfile(const ProfileFiles& files, const std::string& name);

// The environment variable's value, or "".
std::string Environment(const char* name);

}  // namespace mlcache::store
