// Writes to a real SeaweedFS filer by HTTP. Thread-compatible.
#pragma once

#include <glog/logging.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <string>

#include "cached/store/percent.h"
#include "common/unique_fd.h"

namespace mlcache::testing {

class FilerHttp {
 public:
  // "127.0.0.1:PORT".
  explicit FilerHttp(const std::string& address) : port_(std::stoi(address.substr(address.find(':') + 1))) {}

  // A path that ends with '/' makes a directory.
  void Put(const std::string& path, const std::string& bytes) {
    const int status = Send(path.ends_with('/') ? "POST" : "PUT", path, "", bytes);
    CHECK_EQ(status / 100, 2) << "the filer answers " << status << " to a write of " << path;
  }
  void Delete(const std::string& path) { Send("DELETE", path, "?recursive=true&ignoreRecursiveError=true", ""); }

 private:
  int Send(const std::string& method, const std::string& path, const std::string& query, const std::string& bytes) {
    const UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{.sin_family = AF_INET,
                        .sin_port = htons(static_cast<uint16_t>(port_)),
                        .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
    if (connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
      PLOG(FATAL) << "connect to the filer at port " << port_;
    }
    // Only a request for a directory has no type.
    const std::string type = path.ends_with('/') ? "" : "Content-Type: application/octet-stream\r\n";
    const std::string request = method + " " + store::PercentEncode(path, "/") + query +
                                " HTTP/1.1\r\nHost: filer\r\nConnection: close\r\n" + type +
                                "Content-Length: " + std::to_string(bytes.size()) + "\r\n\r\n" + bytes;
    for (size_t done = 0; done < request.size();) {
      const ssize_t sent = send(socket.get(), request.data() + done, request.size() - done, MSG_NOSIGNAL);
      PLOG_IF(FATAL, sent <= 0) << "write to the filer";
      done += static_cast<size_t>(sent);
    }
    std::string reply;
    char piece[4096];
    for (ssize_t got = 0; (got = recv(socket.get(), piece, sizeof(piece), 0)) > 0;) {
      reply.append(piece, static_cast<size_t>(got));
    }
    return reply.size() < 12 ? 0 : std::stoi(reply.substr(9, 3));
  }

  const int port_;
};

}  // namespace mlcache::testing
