// An HTTP server on 127.0.0.1 that answers with whatever bytes a test gives it, sound or not. Thread-safe.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/unique_fd.h"

namespace mlcache::testing {

class ScriptedHttpServer {
 public:
  enum class Then : uint8_t { kKeepOpen, kClose, kReset, kStall };
  struct Reply {
    std::string bytes;  // head and body, as they go over the wire
    Then then = Then::kKeepOpen;
  };
  // Gets the head of a request ("GET /path HTTP/1.1\r\n…") with its body behind it; runs on a connection's thread.
  using Handler = std::function<Reply(const std::string& head)>;

  // Port 0: any free one.
  explicit ScriptedHttpServer(Handler handler, uint16_t port = 0)
      : handler_(std::move(handler)), listener_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
    const int on = 1;
    setsockopt(listener_.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    socklen_t size = sizeof(address);
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    bool sound = bind(listener_.get(), generic, size) == 0 && listen(listener_.get(), 64) == 0;
    sound = sound && getsockname(listener_.get(), generic, &size) == 0;
    if (!sound) std::abort();
    port_ = ntohs(address.sin_port);
    endpoint_ = "http://127.0.0.1:" + std::to_string(ntohs(address.sin_port));
    acceptor_ = std::jthread([this] { Accept(); });
  }

  ~ScriptedHttpServer() {
    shutdown(listener_.get(), SHUT_RDWR);
    acceptor_.join();
    {
      const std::lock_guard lock(mutex_);
      for (const UniqueFd& connection : connections_) shutdown(connection.get(), SHUT_RDWR);
      closing_ = true;
      changed_.notify_all();
    }
    threads_.clear();
  }

  const std::string& endpoint() const { return endpoint_; }
  uint16_t port() const { return port_; }
  std::vector<std::string> requests() const {
    const std::lock_guard lock(mutex_);
    return requests_;
  }
  size_t connections() const {
    const std::lock_guard lock(mutex_);
    return connections_.size();
  }
  // Returns once a reply has gone out whose connection now stalls.
  void WaitForStall() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return stalled_; });
  }

  // A head and a body with a true Content-Length, unless `headers` has one.
  static std::string Http(const std::string& status, const std::vector<std::string>& headers, const std::string& body) {
    std::string text = "HTTP/1.1 " + status + "\r\n";
    bool has_length = false;
    for (const std::string& header : headers) {
      text += header + "\r\n";
      has_length = has_length || header.starts_with("Content-Length") || header.starts_with("Transfer-Encoding");
    }
    if (!has_length) text += "Content-Length: " + std::to_string(body.size()) + "\r\n";
    return text + "\r\n" + body;
  }

 private:
  static size_t BodyLength(const std::string& head) {
    const size_t at = head.find("Content-Length: ");
    return at == std::string::npos ? 0 : std::stoul(head.substr(at + 16));
  }

  void Accept() {
    for (;;) {
      UniqueFd connection(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (!connection.valid()) return;
      const std::lock_guard lock(mutex_);
      const int fd = connection.get();
      connections_.push_back(std::move(connection));
      threads_.emplace_back([this, fd] { Serve(fd); });
    }
  }

  void Serve(int fd) {
    std::string buffer;
    for (;;) {
      size_t end = 0;
      while ((end = buffer.find("\r\n\r\n")) == std::string::npos) {
        char bytes[4096];
        const ssize_t got = recv(fd, bytes, sizeof(bytes), 0);
        if (got <= 0) return;
        buffer.append(bytes, static_cast<size_t>(got));
      }
      const size_t whole = end + 4 + BodyLength(buffer.substr(0, end + 4));
      while (buffer.size() < whole) {
        char bytes[4096];
        const ssize_t got = recv(fd, bytes, sizeof(bytes), 0);
        if (got <= 0) return;
        buffer.append(bytes, static_cast<size_t>(got));
      }
      const std::string head = buffer.substr(0, whole);
      buffer.erase(0, whole);
      {
        const std::lock_guard lock(mutex_);
        requests_.push_back(head);
      }
      const Reply reply = handler_(head);
      for (size_t done = 0; done < reply.bytes.size();) {
        const ssize_t sent = send(fd, reply.bytes.data() + done, reply.bytes.size() - done, MSG_NOSIGNAL);
        if (sent <= 0) return;
        done += static_cast<size_t>(sent);
      }
      if (reply.then == Then::kKeepOpen) continue;
      if (reply.then == Then::kClose) {
        shutdown(fd, SHUT_RDWR);
      } else if (reply.then == Then::kReset) {
        // A connect to AF_UNSPEC drops the connection with RST; what was sent may already have been read.
        sockaddr unspecified{.sa_family = AF_UNSPEC};
        if (connect(fd, &unspecified, sizeof(unspecified)) != 0) shutdown(fd, SHUT_RDWR);
      } else {
        std::unique_lock lock(mutex_);
        stalled_ = true;
        changed_.notify_all();
        changed_.wait(lock, [&] { return closing_; });
      }
      return;
    }
  }

  const Handler handler_;
  const UniqueFd listener_;
  std::string endpoint_;
  uint16_t port_ = 0;

  mutable std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  std::vector<std::string> requests_;
  std::vector<UniqueFd> connections_;
  bool closing_ = false;
  bool stalled_ = false;

  std::vector<std::jthread> threads_;  // touched by the acceptor, then by the destructor
  std::jthread acceptor_;
};

}  // namespace mlcache::testing
