// HTTP/1.1 requests over kept-alive connections, through libcurl.
//
// Each request runs on the calling thread with a connection of its own, taken from a pool that hands out the one used
// last (the warmest). Redirects are never followed, so credentials go nowhere but where they were meant for.
// Thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "cached/store/object_store.h"
#include "cached/store/request_gate.h"
#include "common/clock.h"
#include "common/status.h"

namespace mlcache::store {

struct HttpHead {
  int status = 0;
  std::map<std::string, std::string> headers;  // names in lower case; of doubled ones the last

  // Empty if the header is missing.
  const std::string& Header(const std::string& name) const;
};

struct HttpRequest {
  enum class Method : uint8_t { kGet, kHead, kPost, kPut };

  Method method = Method::kGet;
  std::string url;                                // encoded, as it goes over the wire
  std::vector<std::string> headers;               // "Name: value"
  std::string body;                               // of kPost and kPut
  uint64_t max_body_bytes = 16 << 20;             // of a body that is collected
  std::function<Status(const HttpHead&)> accept;  // sees the head of a 2xx reply before any byte of its body
  ByteSink sink;                                  // takes the body of an accepted reply; if null it is collected
};

struct HttpResponse {
  HttpHead head;
  std::string body;  // collected: of a reply that is not 2xx at most its first 64 KiB
};

struct HttpOptions {
  Nanos connect_timeout = std::chrono::seconds(5);
  // Each ends an attempt with kUnavailable. The sink's own time is not counted in any of them.
  Nanos first_byte_timeout = std::chrono::seconds(10);  // from the request to the first byte of the reply
  Nanos stall_timeout = std::chrono::seconds(20);       // between two bytes of the reply
  Nanos attempt_timeout = std::chrono::seconds(30);     // from the request to the last byte of the reply
  size_t max_idle_connections = 64;
  std::string ca_bundle;              // a file of certificates to trust instead of the system's; empty: the system's
  bool use_proxy = true;              // false: http_proxy and its kin in the environment do not count
  std::shared_ptr<RequestGate> gate;  // what a request must pass first, shared with other clients; null: none
  // Paths of PEM files with a client certificate for https and its key; empty: none.
  std::string client_certificate_file;
  std::string client_key_file;
};

class HttpClient {
 public:
  HttpClient(const HttpOptions& options, const Clock& clock);
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;
  ~HttpClient();

  // The reply, whatever its status. Errors: what `accept` or `sink` returned; kCancelled and kDeadlineExceeded of the
  // context; kDataLoss for a body shorter or longer than promised; kUnavailable where a retry may help;
  // kUnauthenticated for a server certificate that is not trusted.
  Result<HttpResponse> Do(const HttpRequest& request, const CallContext& context);

 private:
  class Connection;

  std::unique_ptr<Connection> Take();
  void GiveBack(std::unique_ptr<Connection> connection);

  const HttpOptions options_;
  const Clock& clock_;
  std::mutex mutex_;                               // a leaf
  std::vector<std::unique_ptr<Connection>> idle_;  // guarded by mutex_; the last one is the next to be used
};

}  // namespace mlcache::store
