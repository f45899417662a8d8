#include "cached/metrics/endpoint.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <prometheus/exposer.h>
#include <sys/socket.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <exception>
#include <string_view>
#include <utility>
#include <vector>

#include "cached/metrics/metrics.h"
#include "common/unique_fd.h"

namespace mlcache {
namespace {

bool IsNumericHost(const std::string& host) {
  in6_addr any{};
  return inet_pton(AF_INET, host.c_str(), &any) == 1 || inet_pton(AF_INET6, host.c_str(), &any) == 1;
}

std::unexpected<Error> BadAddress(const std::string& text) {
  return Fail(Code::kInvalidArgument, "bad --metrics_address '" + text +
                                          "': write a numeric HOST:PORT, as in 127.0.0.1:9463 or [::1]:9463 (port 0 "
                                          "picks a free one), or leave it empty for no endpoint");
}

// The HTTP library says only that it failed, so the reason is found out first.
Status TryBind(const ListenAddress& address) {
  sockaddr_storage storage{};
  socklen_t length = 0;
  if (address.host.find(':') != std::string::npos) {
    auto* in6 = reinterpret_cast<sockaddr_in6*>(&storage);
    in6->sin6_family = AF_INET6;
    in6->sin6_port = htons(address.port);
    inet_pton(AF_INET6, address.host.c_str(), &in6->sin6_addr);
    length = sizeof(sockaddr_in6);
  } else {
    auto* in4 = reinterpret_cast<sockaddr_in*>(&storage);
    in4->sin_family = AF_INET;
    in4->sin_port = htons(address.port);
    inet_pton(AF_INET, address.host.c_str(), &in4->sin_addr);
    length = sizeof(sockaddr_in);
  }
  const std::string what = "listen on --metrics_address=" + address.ToString();
  const UniqueFd fd(socket(storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return FailErrno(errno, what);
  const int one = 1;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&storage), length) != 0 || listen(fd.get(), 1) != 0) {
    Error error = ErrnoError(errno, what);
    return Fail(errno == EADDRINUSE ? Code::kUnavailable : error.code(),
                error.message() +
                    "; choose another with --metrics_address=HOST:PORT (port 0 picks a free one), or "
                    "switch the endpoint off with --metrics_address=");
  }
  return {};
}

class ExposerEndpoint final : public MetricsEndpoint {
 public:
  ExposerEndpoint(ListenAddress address, const Metrics& metrics) : address_(std::move(address)) {
    const std::vector<std::string> options = {"listening_ports", address_.ToString(), "num_threads", "2"};
    exposer_ = std::make_unique<prometheus::Exposer>(options);
    exposer_->RegisterCollectable(metrics.registry());
    const std::vector<int> ports = exposer_->GetListeningPorts();
    if (!ports.empty()) address_.port = static_cast<uint16_t>(ports.front());
  }

  std::string address() const override { return address_.ToString(); }

 private:
  ListenAddress address_;
  std::unique_ptr<prometheus::Exposer> exposer_;
};

}  // namespace

std::string ListenAddress::ToString() const {
  const bool v6 = host.find(':') != std::string::npos;
  return (v6 ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

Result<ListenAddress> ParseListenAddress(const std::string& text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos) return BadAddress(text);
  ListenAddress address{.host = text.substr(0, colon)};
  const std::string_view port = std::string_view(text).substr(colon + 1);
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), address.port);
  if (error != std::errc() || end != port.data() + port.size()) return BadAddress(text);
  if (address.host.starts_with('[') && address.host.ends_with(']')) {
    address.host = address.host.substr(1, address.host.size() - 2);
  } else if (address.host.find(':') != std::string::npos) {
    return BadAddress(text);
  }
  if (address.host == "localhost") address.host = "127.0.0.1";
  if (!IsNumericHost(address.host)) return BadAddress(text);
  return address;
}

Result<std::unique_ptr<MetricsEndpoint>> MetricsEndpoint::Start(const ListenAddress& address, const Metrics& metrics) {
  MLCACHE_RETURN_IF_ERROR(TryBind(address));
  try {
    return std::make_unique<ExposerEndpoint>(address, metrics);
  } catch (const std::exception& e) {
    return Fail(Code::kUnavailable, "listen on --metrics_address=" + address.ToString() + ": " + e.what());
  }
}

}  // namespace mlcache
