// Keys that an endpoint gives out: the token service (web identity), the container's endpoint, instance metadata.
#pragma once

#include <memory>
#include <string>

#include "cached/store/s3_credentials.h"

namespace mlcache::store {

// STS AssumeRoleWithWebIdentity. The token file is read anew each time: the platform rotates it.
struct WebIdentity {
  std::string token_file;
  std::string role_arn;
  std::string session_name;  // empty: "mlcached"
  std::string endpoint;      // of the token service, as https://sts.eu-west-1.amazonaws.com
};
std::unique_ptr<CredentialsProvider> MakeWebIdentityCredentials(const WebIdentity& identity, const HttpOptions& http,
                                                                const Clock& clock);

// The endpoint of AWS_CONTAINER_CREDENTIALS_FULL_URI or _RELATIVE_URI. Plain http is taken only for loopback and for
// the platforms' own link-local addresses; anything else is refused with kInvalidArgument by Get.
struct ContainerEndpoint {
  std::string url;
  std::string authorization;       // what is sent as such; may be empty
  std::string authorization_file;  // or the file that holds it, read anew each time
};
std::unique_ptr<CredentialsProvider> MakeContainerCredentials(const ContainerEndpoint& endpoint,
                                                              const HttpOptions& http, const Clock& clock);

// The role of this virtual machine, by IMDSv2 (a session token first). `endpoint` is http://169.254.169.254 but in
// tests.
std::unique_ptr<CredentialsProvider> MakeInstanceCredentials(const std::string& endpoint, const HttpOptions& http,
                                                             const Clock& clock);

}  // namespace mlcache::store
