#include "cached/store/seaweed_filer.h"

#include <grpcpp/grpcpp.h>
#include <grpcpp/security/tls_certificate_verifier.h>
#include <grpcpp/security/tls_credentials_options.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <sstream>
#include <utility>

#include "cached/store/call.h"
#include "proto/filer.grpc.pb.h"

namespace mlcache::store {
namespace {

constexpr int kGrpcPortOffset = 10'000;
constexpr int kMaxMessageBytes = 256 << 20;  // an entry may list very many chunks
constexpr int kKeepAliveMs = 60'000;         // no more often: SeaweedFS ends connections that are pinged too much
constexpr int kKeepAliveTimeoutMs = 20'000;
constexpr int kBackoffMs = 100;
constexpr int kMostBackoffMs = 1'000;
// What Go's errors without a code look like to a client.
constexpr char kNoEntry[] = "no entry is found in filer store";

std::string Contents(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

// SeaweedFS's certificates are shared by all hosts of a cluster: their authority is checked, not their host names.
std::shared_ptr<grpc::ChannelCredentials> Credentials(const TlsFiles& files) {
  if (files.certificate.empty()) return grpc::InsecureChannelCredentials();
  std::vector<grpc::experimental::IdentityKeyCertPair> identity = {
      {.private_key = Contents(files.key), .certificate_chain = Contents(files.certificate)}};
  grpc::experimental::TlsChannelCredentialsOptions options;
  options.set_certificate_provider(
      std::make_shared<grpc::experimental::StaticDataCertificateProvider>(Contents(files.ca), std::move(identity)));
  options.watch_root_certs();
  options.watch_identity_key_cert_pairs();
  options.set_verify_server_certs(true);
  options.set_check_call_host(false);
  options.set_certificate_verifier(std::make_shared<grpc::experimental::NoOpCertificateVerifier>());
  return grpc::experimental::TlsCredentials(options);
}

Error ErrorOf(const grpc::Status& status, const std::string& what) {
  const std::string message = what + ": " + status.error_message();
  if (status.error_message().find(kNoEntry) != std::string::npos) return {Code::kNotFound, what + ": no such entry"};
  switch (status.error_code()) {
    case grpc::StatusCode::UNKNOWN:    // a Go error of no kind, such as a master or a database that is out of reach
    case grpc::StatusCode::CANCELLED:  // by the filer; CheckCall tells the caller's own stop
    case grpc::StatusCode::INTERNAL:
    case grpc::StatusCode::ABORTED:
      return {Code::kUnavailable, message};
    default:
      return {static_cast<Code>(status.error_code()), message};
  }
}

// A client's side of one call: it ends with the caller's stop request and the sooner of the two deadlines.
class Ticket {
 public:
  Ticket(const CallContext& context, Nanos patience, const Clock& clock, bool wait_for_connection = false)
      : stop_(context.stop, [this] { client_.TryCancel(); }) {
    if (context.deadline != Nanos::max()) patience = std::min(patience, context.deadline - clock.Now());
    client_.set_wait_for_ready(wait_for_connection);
    if (patience != Nanos::max()) client_.set_deadline(std::chrono::system_clock::now() + patience);
  }
  grpc::ClientContext* client() { return &client_; }

 private:
  grpc::ClientContext client_;
  std::stop_callback<std::function<void()>> stop_;
};

}  // namespace

struct SeaweedFiler::Endpoint {
  std::string grpc;  // "host:18888"
  std::string http;  // "http://host:8888"
  std::unique_ptr<filer_pb::SeaweedFiler::Stub> stub;
};

std::pair<std::string, std::string> SplitFilerPath(const std::string& path) {
  const size_t slash = path.rfind('/');
  return {slash == 0 ? "/" : path.substr(0, slash), path.substr(slash + 1)};
}

Result<std::unique_ptr<SeaweedFiler>> SeaweedFiler::Make(const StoreUrl& url, const SeaweedSecurity& security,
                                                         const SeaweedFilerOptions& options, const Clock& clock) {
  const auto grpc_port = url.options.find("grpc");
  const std::shared_ptr<grpc::ChannelCredentials> credentials = Credentials(security.grpc);
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepAliveMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepAliveTimeoutMs);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kBackoffMs);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kMostBackoffMs);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS,
                   static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(options.connect_timeout).count()));
  std::vector<std::unique_ptr<Endpoint>> endpoints;
  std::istringstream filers(url.authority);
  for (std::string filer; std::getline(filers, filer, ',');) {
    const size_t colon = filer.rfind(':');
    const std::string host = filer.substr(0, colon);
    auto endpoint = std::make_unique<Endpoint>();
    endpoint->http = (security.https ? "https://" : "http://") + filer;
    endpoint->grpc =
        host + ":" +
        (grpc_port != url.options.end() ? grpc_port->second
                                        : std::to_string(std::stoi(filer.substr(colon + 1)) + kGrpcPortOffset));
    endpoint->stub = filer_pb::SeaweedFiler::NewStub(grpc::CreateCustomChannel(endpoint->grpc, credentials, arguments));
    endpoints.push_back(std::move(endpoint));
  }
  if (endpoints.empty()) return Fail(Code::kInvalidArgument, url.Canonical() + ": names no filer");
  return std::unique_ptr<SeaweedFiler>(new SeaweedFiler(std::move(endpoints), options, clock));
}

SeaweedFiler::SeaweedFiler(std::vector<std::unique_ptr<Endpoint>> endpoints, const SeaweedFilerOptions& options,
                           const Clock& clock)
    : endpoints_(std::move(endpoints)), options_(options), clock_(clock) {}

SeaweedFiler::~SeaweedFiler() = default;

template <typename Reply>
Result<Reply> SeaweedFiler::AskOneAfterAnother(const std::string& what, const CallContext& context,
                                               const Call<Reply>& call) {
  const size_t first = active_;
  std::optional<Error> last;
  // The round after the last one waits for the filer that was asked first.
  for (size_t i = 0; i <= endpoints_.size(); ++i) {
    MLCACHE_RETURN_IF_ERROR(CheckCall(context, clock_, what));
    const bool wait = i == endpoints_.size();
    const size_t index = (first + i) % endpoints_.size();
    const Limit limit{.patience = wait ? options_.connect_timeout : options_.answer_timeout,
                      .wait_for_connection = wait};
    Result<Reply> reply = call(*endpoints_[index], limit);
    // A deadline of the caller, or a stop, is told as such and not as the filer's.
    if (!reply) MLCACHE_RETURN_IF_ERROR(CheckCall(context, clock_, what));
    const bool silent = !reply && reply.error().code() == Code::kDeadlineExceeded;
    if (reply || (reply.error().code() != Code::kUnavailable && !silent)) {
      active_ = index;
      return reply;
    }
    if (!wait)
      last = Error(Code::kUnavailable, reply.error().message()).WithContext("filer " + endpoints_[index]->grpc);
    if (silent && i + 1 == endpoints_.size()) break;  // it can be reached, but does not answer
  }
  active_ = (first + 1) % endpoints_.size();
  return std::unexpected(*std::move(last));
}

Result<filer_pb::LookupDirectoryEntryResponse> SeaweedFiler::Lookup(const std::string& path,
                                                                    const CallContext& context) {
  using Reply = filer_pb::LookupDirectoryEntryResponse;
  return AskOneAfterAnother<Reply>(path, context, [&](Endpoint& endpoint, const Limit& time) -> Result<Reply> {
    filer_pb::LookupDirectoryEntryRequest request;
    const auto [directory, name] = SplitFilerPath(path);
    request.set_directory(directory);
    request.set_name(name);
    Reply reply;
    Ticket ticket(context, time.patience, clock_, time.wait_for_connection);
    const grpc::Status status = endpoint.stub->LookupDirectoryEntry(ticket.client(), request, &reply);
    if (!status.ok()) return std::unexpected(ErrorOf(status, path));
    if (!reply.has_entry()) return Fail(Code::kNotFound, path + ": no such entry");
    return reply;
  });
}

Result<std::vector<filer_pb::Entry>> SeaweedFiler::List(const std::string& directory, const std::string& after,
                                                        uint32_t limit, const CallContext& context) {
  using Entries = std::vector<filer_pb::Entry>;
  return AskOneAfterAnother<Entries>(directory, context, [&](Endpoint& endpoint, const Limit& time) -> Result<Entries> {
    filer_pb::ListEntriesRequest request;
    request.set_directory(directory);
    request.set_start_from_file_name(after);
    request.set_limit(limit);
    Ticket ticket(context, time.patience, clock_, time.wait_for_connection);
    const auto reader = endpoint.stub->ListEntries(ticket.client(), request);
    Entries entries;
    // One reply object for the whole stream keeps its buffers; the entries are moved out of it.
    for (filer_pb::ListEntriesResponse reply; reader->Read(&reply);) {
      if (reply.has_entry()) entries.push_back(std::move(*reply.mutable_entry()));
      if (entries.size() > limit) return Fail(Code::kDataLoss, directory + ": the filer sends too many entries");
    }
    if (const grpc::Status status = reader->Finish(); !status.ok()) {
      return std::unexpected(ErrorOf(status, directory));
    }
    return entries;
  });
}

Result<std::vector<filer_pb::Location>> SeaweedFiler::LookupVolume(uint32_t volume_id, const CallContext& context) {
  using Locations = std::vector<filer_pb::Location>;
  const std::string id = std::to_string(volume_id);
  return AskOneAfterAnother<Locations>(
      "volume " + id, context, [&](Endpoint& endpoint, const Limit& time) -> Result<Locations> {
        filer_pb::LookupVolumeRequest request;
        request.add_volume_ids(id);
        filer_pb::LookupVolumeResponse reply;
        Ticket ticket(context, time.patience, clock_, time.wait_for_connection);
        const grpc::Status status = endpoint.stub->LookupVolume(ticket.client(), request, &reply);
        if (!status.ok()) return std::unexpected(ErrorOf(status, "volume " + id));
        const auto found = reply.locations_map().find(id);
        if (found == reply.locations_map().end()) return Locations();
        return Locations(found->second.locations().begin(), found->second.locations().end());
      });
}

Result<filer_pb::StatisticsResponse> SeaweedFiler::Statistics(const CallContext& context) {
  using Reply = filer_pb::StatisticsResponse;
  return AskOneAfterAnother<Reply>("statistics", context, [&](Endpoint& endpoint, const Limit& time) -> Result<Reply> {
    Reply reply;
    Ticket ticket(context, time.patience, clock_, time.wait_for_connection);
    const grpc::Status status = endpoint.stub->Statistics(ticket.client(), {}, &reply);
    if (!status.ok()) return std::unexpected(ErrorOf(status, "statistics"));
    return reply;
  });
}

Result<filer_pb::Entry> SeaweedFiler::FetchRemote(const std::string& path, const CallContext& context) {
  return AskOneAfterAnother<filer_pb::Entry>(
      path, context, [&](Endpoint& endpoint, const Limit& time) -> Result<filer_pb::Entry> {
        filer_pb::CacheRemoteObjectToLocalClusterRequest request;
        const auto [directory, name] = SplitFilerPath(path);
        request.set_directory(directory);
        request.set_name(name);
        filer_pb::CacheRemoteObjectToLocalClusterResponse reply;
        // Takes as long as the remote store does; the caller's deadline bounds it.
        const Nanos patience = time.wait_for_connection ? time.patience : Nanos::max();
        Ticket ticket(context, patience, clock_, time.wait_for_connection);
        const grpc::Status status = endpoint.stub->CacheRemoteObjectToLocalCluster(ticket.client(), request, &reply);
        if (!status.ok()) return std::unexpected(ErrorOf(status, path));
        return std::move(*reply.mutable_entry());
      });
}

Status SeaweedFiler::Subscribe(const filer_pb::SubscribeMetadataRequest& request,
                               const std::function<bool(const filer_pb::SubscribeMetadataResponse&)>& take,
                               const CallContext& context) {
  const size_t index = active_;
  Endpoint& endpoint = *endpoints_[index];
  Ticket ticket(context, Nanos::max(), clock_);
  const auto reader = endpoint.stub->SubscribeMetadata(ticket.client(), request);
  bool wanted = true;
  for (filer_pb::SubscribeMetadataResponse reply; reader->Read(&reply);) {
    wanted = wanted && take(reply);
    if (!wanted) ticket.client()->TryCancel();
  }
  const grpc::Status status = reader->Finish();
  MLCACHE_RETURN_IF_ERROR(CheckCall(context, clock_, "change feed"));
  if (status.ok() || !wanted) return {};
  Error error = ErrorOf(status, "change feed of filer " + endpoint.grpc);
  if (error.code() == Code::kUnavailable) {
    size_t expected = index;
    active_.compare_exchange_strong(expected, (index + 1) % endpoints_.size());
  }
  return std::unexpected(std::move(error));
}

std::vector<std::string> SeaweedFiler::HttpBases() const {
  std::vector<std::string> bases;
  for (size_t i = 0; i < endpoints_.size(); ++i) bases.push_back(endpoints_[(active_ + i) % endpoints_.size()]->http);
  return bases;
}

}  // namespace mlcache::store
