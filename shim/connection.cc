#include "shim/connection.h"

#include <glog/logging.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

namespace mlcache::shim {
namespace {

constexpr int kFirstBackoffMs = 50;
constexpr int kLastBackoffMs = 1000;
constexpr int kBrokenCheckMs = 1000;

}  // namespace

Connection::Connection(std::string socket_dir, session::Hello hello, uint32_t workers, Publish publish, Heard heard)
    : socket_dir_(std::move(socket_dir)),
      hello_(std::move(hello)),
      workers_(workers),
      publish_(std::move(publish)),
      heard_(std::move(heard)) {}

Result<std::unique_ptr<Connection>> Connection::Make(std::string socket_dir, session::Hello hello, uint32_t workers,
                                                     Publish publish, Heard heard) {
  std::unique_ptr<Connection> connection(
      new Connection(std::move(socket_dir), std::move(hello), workers, std::move(publish), std::move(heard)));
  connection->stop_.Reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!connection->stop_.valid()) return FailErrno(errno, "eventfd");
  return connection;
}

void Connection::Stop() { ::eventfd_write(stop_.get(), 1); }

bool Connection::Wait(int timeout_ms) {
  pollfd stopping{stop_.get(), POLLIN, 0};
  return ::poll(&stopping, 1, timeout_ms) == 0;
}

Result<std::shared_ptr<DaemonSession>> Connection::Open() {
  MLCACHE_ASSIGN_OR_RETURN(UniqueFd socket, Dial(socket_dir_));
  MLCACHE_ASSIGN_OR_RETURN(Greeting greeting, Greet(socket.get(), hello_));
  return Attach(std::move(socket), std::move(greeting), workers_);
}

void Connection::Run() {
  std::string last_failure;
  for (int backoff_ms = 0; Wait(backoff_ms);) {
    Result<std::shared_ptr<DaemonSession>> session = Open();
    if (!session) {
      // Said once for each new reason, not once a second for as long as it lasts.
      if (std::exchange(last_failure, session.error().message()) != last_failure) LOG(WARNING) << session.error();
      backoff_ms = std::clamp(backoff_ms * 2, kFirstBackoffMs, kLastBackoffMs);
      continue;
    }
    LOG_IF(INFO, !last_failure.empty()) << "mlcached is back";
    last_failure.clear();
    publish_(*session);
    Watch(**session);
    publish_(nullptr);
    if (!Wait(0)) return;
    LOG(WARNING) << "the session with mlcached ended; operations wait until it is back";
    last_failure = "the session ended";
    backoff_ms = kFirstBackoffMs;
  }
}

// Returns when the session is over or Stop() was called.
void Connection::Watch(const DaemonSession& session) {
  while (!session.channel->Broken()) {
    std::array<pollfd, 2> waiting{{{stop_.get(), POLLIN, 0}, {session.socket.get(), POLLIN | POLLRDHUP, 0}}};
    const int pause_ms = tick_ ? std::min(tick_(session), kBrokenCheckMs) : kBrokenCheckMs;
    if (::poll(waiting.data(), waiting.size(), pause_ms) <= 0) continue;
    if (waiting[0].revents != 0 || !Hear(session)) return;
  }
}

// False at the end of the socket, and for what is no message.
bool Connection::Hear(const DaemonSession& session) {
  Result<ring::Message> message = ring::Receive(session.socket.get(), 0);
  if (!message) return message.error().code() == Code::kDeadlineExceeded;
  session::FromDaemon heard;
  if (!heard.ParseFromString(message->bytes)) return false;
  heard_(session, heard, std::move(message->descriptors));
  return true;
}

}  // namespace mlcache::shim
