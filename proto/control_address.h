// Where the control service listens, for the daemon and mlcachectl alike. Pure functions.
#pragma once

#include <string>
#include <string_view>

namespace mlcache {

inline std::string ControlSocketPath(const std::string& socket_dir) { return socket_dir + "/control.sock"; }

// gRPC takes addresses as URIs and decodes them.
inline std::string GrpcUnixAddress(std::string_view path) {
  constexpr std::string_view kPlain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/._-~";
  constexpr std::string_view kHex = "0123456789ABCDEF";
  std::string address = "unix:";
  for (const char c : path) {
    if (kPlain.find(c) != std::string_view::npos) {
      address += c;
    } else {
      const auto byte = static_cast<unsigned char>(c);
      address += {'%', kHex[byte >> 4], kHex[byte & 15]};
    }
  }
  return address;
}

}  // namespace mlcache
