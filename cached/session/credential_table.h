// The daemon's named credential profiles: which section of the S3 credentials file `-o credential=NAME` stands for, and
// whose mounts may use it. Holds no secret; those stay where S3Credentials looks for them.
//
//   # /etc/mlcache/credentials
//   [team-a]
//   uids = 1001, 1002      ; numeric, or: all
//   aws_profile = team-a   ; section of the S3 credentials file; the profile's own name when it is left out
//
// Read anew for each mount, so a change needs no restart; mounts that are there stay.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "common/status.h"

namespace mlcache::session {

struct CredentialProfile {
  std::string name;
  std::string aws_profile;
  std::vector<uid_t> uids;
  bool everybody = false;
};

class CredentialTable {  // thread-compatible
 public:
  // Errors name the file, the line and what to write. kPermissionDenied also for a file that others may write to.
  static Result<CredentialTable> Read(const std::string& path);
  static Result<CredentialTable> Parse(const std::string& text, const std::string& path);

  // kNotFound: no such profile, with the names of those that user `uid` may use. kPermissionDenied: not for that user.
  // `trusted` (root, the daemon's own user) may use every profile.
  Result<CredentialProfile> Choose(const std::string& name, uid_t uid, bool trusted) const;

 private:
  explicit CredentialTable(std::string path) : path_(std::move(path)) {}

  std::string path_;
  std::vector<CredentialProfile> profiles_;
};

}  // namespace mlcache::session
