// The Prometheus endpoint: GET /metrics on --metrics_address. Thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "common/status.h"

namespace mlcache {

class Metrics;

// A numeric host and port: "127.0.0.1:9463", "[::1]:9463", "localhost:9463". Port 0 picks a free one.
struct ListenAddress {
  std::string host;  // without brackets; "localhost" has become 127.0.0.1
  uint16_t port = 0;

  std::string ToString() const;
};

// kInvalidArgument names the text and the form.
Result<ListenAddress> ParseListenAddress(const std::string& text);

class MetricsEndpoint {
 public:
  // kUnavailable or kPermissionDenied when the address cannot be listened on; the message names the flag.
  // `metrics` is borrowed.
  static Result<std::unique_ptr<MetricsEndpoint>> Start(const ListenAddress& address, const Metrics& metrics);

  virtual ~MetricsEndpoint() = default;

  // With the port that was really bound: "127.0.0.1:9463".
  virtual std::string address() const = 0;
};

}  // namespace mlcache
