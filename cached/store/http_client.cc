#include "cached/store/http_client.h"

#include <curl/curl.h>
#include <glog/logging.h>

#include <algorithm>
#include <mutex>
#include <optional>
#include <utility>

#include "cached/store/call.h"

namespace mlcache::store {
namespace {

constexpr uint64_t kMaxErrorBody = 64 << 10;
constexpr size_t kMaxHeaders = 200;
constexpr long kReceiveBytes = 512 << 10;
constexpr Nanos kLongestPoll = std::chrono::seconds(1);

struct ListDeleter {
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};
using HeaderList = std::unique_ptr<curl_slist, ListDeleter>;

HeaderList MakeHeaders(const HttpRequest& request) {
  HeaderList list;
  const auto add = [&](const std::string& line) { list.reset(curl_slist_append(list.release(), line.c_str())); };
  for (const std::string& line : request.headers) add(line);
  return list;
}

std::string Trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t' || text.back() == '\r' || text.back() == '\n')) {
    text.remove_suffix(1);
  }
  return std::string(text);
}

std::string Lower(std::string text) {
  std::ranges::transform(text, text.begin(),
                         [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  return text;
}

// "http://host:port/path" without its query, which may be long.
std::string_view Shown(std::string_view url) { return url.substr(0, url.find('?')); }

Error CurlError(CURLcode code, const char* detail, const std::string& url) {
  const std::string message = std::string(Shown(url)) + ": " + (*detail != '\0' ? detail : curl_easy_strerror(code));
  switch (code) {
    case CURLE_PARTIAL_FILE:
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_BAD_CONTENT_ENCODING:
      return {Code::kDataLoss, message + " (a short or unsound reply)"};
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CERTPROBLEM:
      return {Code::kUnauthenticated,
              message +
                  " (install the certificate authority's certificate on this host with update-ca-certificates, or name "
                  "its file in AWS_CA_BUNDLE in the daemon's environment)"};
    case CURLE_URL_MALFORMAT:
    case CURLE_TOO_MANY_REDIRECTS:
      return {Code::kInvalidArgument, message};
    default:
      return {Code::kUnavailable, message};
  }
}

}  // namespace

const std::string& HttpHead::Header(const std::string& name) const {
  static const std::string none;
  const auto found = headers.find(name);
  return found == headers.end() ? none : found->second;
}

// One CURLM with one CURL, driven by whichever thread holds it.
class HttpClient::Connection {
 public:
  explicit Connection(const HttpOptions& options) : multi_(curl_multi_init()), easy_(curl_easy_init()) {
    CHECK(multi_ != nullptr && easy_ != nullptr) << "out of memory for a libcurl handle";
    curl_multi_setopt(multi_, CURLMOPT_MAXCONNECTS, 1L);
    const auto timeout_ms = std::chrono::duration_cast<std::chrono::milliseconds>(options.connect_timeout).count();
    Set(CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(std::max<int64_t>(timeout_ms, 1)));
    Set(CURLOPT_NOSIGNAL, 1L);
    Set(CURLOPT_QUICK_EXIT, 1L);  // a called-off name look-up must not be waited for
    Set(CURLOPT_FOLLOWLOCATION, 0L);
    Set(CURLOPT_PATH_AS_IS, 1L);  // a key is not a path to be tidied
    Set(CURLOPT_PROTOCOLS_STR, "http,https");
    Set(CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
    Set(CURLOPT_BUFFERSIZE, kReceiveBytes);
    Set(CURLOPT_TCP_KEEPALIVE, 1L);
    Set(CURLOPT_ERRORBUFFER, error_text_);
    Set(CURLOPT_USERAGENT, "mlcache");
    if (!options.ca_bundle.empty()) Set(CURLOPT_CAINFO, options.ca_bundle.c_str());
    if (!options.use_proxy) Set(CURLOPT_NOPROXY, "*");
    if (!options.client_certificate_file.empty()) {
      Set(CURLOPT_SSLCERT, options.client_certificate_file.c_str());
      Set(CURLOPT_SSLKEY, options.client_key_file.c_str());
    }
    Set(CURLOPT_HEADERFUNCTION, &Connection::OnHeader);
    Set(CURLOPT_HEADERDATA, this);
    Set(CURLOPT_WRITEFUNCTION, &Connection::OnBody);
    Set(CURLOPT_WRITEDATA, this);
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  ~Connection() {
    curl_easy_cleanup(easy_);
    curl_multi_cleanup(multi_);
  }

  Result<HttpResponse> Do(const HttpRequest& request, const HttpOptions& options, const CallContext& context,
                          const Clock& clock) {
    request_ = &request;
    context_ = &context;
    clock_ = &clock;
    response_ = {};
    failure_.reset();
    accepted_ = false;
    answered_ = false;
    began_ = last_byte_ = clock.Now();
    *error_text_ = '\0';
    const HeaderList headers = MakeHeaders(request);
    Set(CURLOPT_HTTPHEADER, headers.get());
    Set(CURLOPT_URL, request.url.c_str());
    SetMethod(request);
    curl_multi_add_handle(multi_, easy_);
    const Status status = Drive(options);
    curl_multi_remove_handle(multi_, easy_);  // ends the connection if the reply is not complete
    Set(CURLOPT_HTTPHEADER, nullptr);
    request_ = nullptr;
    if (!status) return std::unexpected(status.error());
    return std::move(response_);
  }

 private:
  template <typename T>
  void Set(CURLoption option, T value) {
    const CURLcode code = curl_easy_setopt(easy_, option, value);
    LOG_IF(FATAL, code != CURLE_OK) << "libcurl refuses option " << option << ": " << curl_easy_strerror(code);
  }

  void SetMethod(const HttpRequest& request) {
    Set(CURLOPT_CUSTOMREQUEST, nullptr);
    Set(CURLOPT_HTTPGET, 1L);  // also undoes NOBODY and POST
    if (request.method == HttpRequest::Method::kHead) Set(CURLOPT_NOBODY, 1L);
    if (request.method != HttpRequest::Method::kPost && request.method != HttpRequest::Method::kPut) return;
    Set(CURLOPT_POST, 1L);
    Set(CURLOPT_POSTFIELDS, request.body.c_str());  // not copied: `request` outlives the transfer
    Set(CURLOPT_POSTFIELDSIZE, static_cast<long>(request.body.size()));
    if (request.method == HttpRequest::Method::kPut) Set(CURLOPT_CUSTOMREQUEST, "PUT");
  }

  // What is left of the attempt's time limits; an error once one of them has passed.
  Result<Nanos> TimeLeft(const HttpOptions& options, const std::string& shown) const {
    const auto seconds = [](Nanos time) { return std::to_string(std::chrono::duration<double>(time).count()); };
    const Nanos now = clock_->Now();
    const Nanos quiet_limit =
        answered_ ? options.stall_timeout : std::min(options.stall_timeout, options.first_byte_timeout);
    const Nanos quiet_left = quiet_limit - (now - last_byte_);
    if (quiet_left <= Nanos(0)) {
      return Fail(Code::kUnavailable, shown + ": the server sent nothing for " + seconds(now - last_byte_) + " s");
    }
    const Nanos attempt_left = options.attempt_timeout - (now - began_);
    if (attempt_left <= Nanos(0)) {
      return Fail(Code::kUnavailable, shown + ": the reply was not complete after " + seconds(now - began_) + " s");
    }
    return std::min(quiet_left, attempt_left);
  }

  // Runs the transfer to its end, the stop request, the deadline or a stall.
  Status Drive(const HttpOptions& options) {
    const CallContext& context = *context_;
    const std::stop_callback wake(context.stop, [multi = multi_] { curl_multi_wakeup(multi); });
    const std::string shown(Shown(request_->url));
    for (int running = 1;;) {
      MLCACHE_RETURN_IF_ERROR(CheckCall(context, *clock_, shown));
      if (const CURLMcode code = curl_multi_perform(multi_, &running); code != CURLM_OK) {
        return Fail(Code::kInternal, shown + ": " + curl_multi_strerror(code));
      }
      if (running == 0) break;
      MLCACHE_ASSIGN_OR_RETURN(const Nanos left, TimeLeft(options, shown));
      Nanos wait = std::min(kLongestPoll, left);
      if (context.deadline != Nanos::max()) wait = std::min(wait, context.deadline - clock_->Now());
      const auto wait_ms = std::chrono::ceil<std::chrono::milliseconds>(wait).count();
      curl_multi_poll(multi_, nullptr, 0, static_cast<int>(std::max<int64_t>(wait_ms, 0)), nullptr);
    }
    int left = 0;
    const CURLMsg* message = curl_multi_info_read(multi_, &left);
    CHECK(message != nullptr && message->msg == CURLMSG_DONE) << "libcurl ended a transfer without a result";
    if (failure_) return std::unexpected(*std::move(failure_));
    if (message->data.result != CURLE_OK) {
      return std::unexpected(CurlError(message->data.result, error_text_, request_->url));
    }
    return Accept();  // a reply without a body
  }

  bool Successful() const { return response_.head.status / 100 == 2; }

  // Shows the head to the caller, once, before the first byte of the body.
  Status Accept() {
    if (accepted_) return {};
    accepted_ = true;
    if (Successful() && request_->accept) return request_->accept(response_.head);
    return {};
  }

  Status TakeBody(std::span<const std::byte> bytes) {
    // A fast sender can keep libcurl busy for long without a return to Drive.
    MLCACHE_RETURN_IF_ERROR(CheckCall(*context_, *clock_, Shown(request_->url)));
    MLCACHE_RETURN_IF_ERROR(Accept());
    if (Successful() && request_->sink) return request_->sink(bytes);
    const uint64_t limit = Successful() ? request_->max_body_bytes : kMaxErrorBody;
    const uint64_t room = limit - std::min<uint64_t>(limit, response_.body.size());
    if (Successful() && bytes.size() > room) {
      return Fail(Code::kDataLoss,
                  std::string(Shown(request_->url)) + ": the reply is longer than " + std::to_string(limit) + " bytes");
    }
    response_.body.append(reinterpret_cast<const char*>(bytes.data()), std::min<uint64_t>(room, bytes.size()));
    return {};
  }

  static size_t OnBody(char* data, size_t /*one*/, size_t size, void* self_pointer) {
    auto* self = static_cast<Connection*>(self_pointer);
    const Nanos arrived = self->clock_->Now();
    if (const Status status = self->TakeBody(std::as_bytes(std::span(data, size))); !status) {
      self->failure_ = status.error();
      return CURL_WRITEFUNC_ERROR;
    }
    self->last_byte_ = self->clock_->Now();
    self->began_ += self->last_byte_ - arrived;  // the sink's own time
    return size;
  }

  static size_t OnHeader(char* data, size_t /*one*/, size_t size, void* self_pointer) {
    auto* self = static_cast<Connection*>(self_pointer);
    self->last_byte_ = self->clock_->Now();
    self->answered_ = true;
    HttpHead& head = self->response_.head;
    const std::string_view line(data, size);
    if (line.starts_with("HTTP/")) {
      // Also after an interim "100 Continue": only the last head counts.
      const size_t space = line.find(' ');
      head = {};
      if (space != std::string_view::npos) head.status = std::atoi(std::string(line.substr(space + 1, 3)).c_str());
    } else if (const size_t colon = line.find(':'); colon != std::string_view::npos) {
      if (head.headers.size() >= kMaxHeaders) return 0;
      head.headers[Lower(std::string(line.substr(0, colon)))] = Trimmed(line.substr(colon + 1));
    }
    return size;
  }

  CURLM* const multi_;
  CURL* const easy_;
  char error_text_[CURL_ERROR_SIZE] = {};

  // Of the request that is under way.
  const HttpRequest* request_ = nullptr;
  const CallContext* context_ = nullptr;
  const Clock* clock_ = nullptr;
  HttpResponse response_;
  std::optional<Error> failure_;  // what accept or sink returned
  bool accepted_ = false;
  bool answered_ = false;  // a byte of the reply has come
  Nanos began_{};          // moved on by the time that the sink took
  Nanos last_byte_{};
};

HttpClient::HttpClient(const HttpOptions& options, const Clock& clock) : options_(options), clock_(clock) {
  static std::once_flag once;
  std::call_once(once, [] { CHECK_EQ(curl_global_init(CURL_GLOBAL_DEFAULT), CURLE_OK); });
}

HttpClient::~HttpClient() = default;

std::unique_ptr<HttpClient::Connection> HttpClient::Take() {
  {
    const std::lock_guard lock(mutex_);
    if (!idle_.empty()) {
      std::unique_ptr<Connection> connection = std::move(idle_.back());
      idle_.pop_back();
      return connection;
    }
  }
  return std::make_unique<Connection>(options_);
}

void HttpClient::GiveBack(std::unique_ptr<Connection> connection) {
  std::unique_ptr<Connection> surplus;  // closed after the lock
  const std::lock_guard lock(mutex_);
  if (idle_.size() >= options_.max_idle_connections) {
    surplus = std::move(idle_.front());
    idle_.erase(idle_.begin());
  }
  idle_.push_back(std::move(connection));
}

Result<HttpResponse> HttpClient::Do(const HttpRequest& request, const CallContext& context) {
  std::optional<RequestGate::Permit> permit;
  if (options_.gate != nullptr) {
    MLCACHE_ASSIGN_OR_RETURN(permit, options_.gate->Enter(context, Shown(request.url)));
  }
  std::unique_ptr<Connection> connection = Take();
  Result<HttpResponse> response = connection->Do(request, options_, context, clock_);
  GiveBack(std::move(connection));
  return response;
}

}  // namespace mlcache::store
