// The connection to the daemon's control service. Thread-compatible.
#pragma once

#include <memory>
#include <string>

#include "common/status.h"
#include "proto/control.grpc.pb.h"

namespace mlcache::ctl {

class Client {
 public:
  // kUnavailable: no daemon listens there; the message names the socket, why, and how to start one.
  static Result<Client> Connect(const std::string& socket_dir);

  control::Control::StubInterface& stub() { return *stub_; }
  const std::string& socket_path() const { return socket_path_; }

  // A context for a call that answers at once. Daemons that hang are given up after ten seconds.
  static std::unique_ptr<grpc::ClientContext> ShortCall();

  // What a finished call means, with the socket named when the daemon went away.
  Status Check(const grpc::Status& status) const;

 private:
  Client(std::string socket_path, std::unique_ptr<control::Control::StubInterface> stub)
      : socket_path_(std::move(socket_path)), stub_(std::move(stub)) {}

  std::string socket_path_;
  std::unique_ptr<control::Control::StubInterface> stub_;
};

}  // namespace mlcache::ctl
