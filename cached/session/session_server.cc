#include "cached/session/session_server.h"

#include <fcntl.h>
#include <glog/logging.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <list>
#include <mutex>
#include <nlohmann/json.hpp>
#include <random>
#include <stop_token>
#include <thread>
#include <utility>

#include "cached/metrics/metrics.h"
#include "cached/session/change_feed.h"
#include "cached/session/dataset_loader.h"
#include "cached/session/handshake.h"
#include "cached/session/path.h"
#include "cached/session/plan_files.h"
#include "cached/session/session.h"
#include "cached/session/volume_table.h"
#include "common/executor.h"
#include "common/hash.h"

namespace mlcache::session {
namespace {

// What is fetched ahead must neither push itself out nor take much of what the cache keeps from epoch to epoch: with a
// quarter a cache of half the dataset fetched 0.64 of it each epoch instead of 0.52.
constexpr uint64_t kPlanCacheParts = 16;

// All mounts of a named job are one reader: its ranks share an epoch among them.
uint64_t ReaderOf(const Hello& hello) {
  return hello.options().job().empty() ? hello.mount_id() : Hash64(hello.options().job());
}

ring::Geometry GeometryOf(const Hello& hello) { return {.queue_pairs = hello.workers()}; }

uint64_t PlanBytes(const SessionServerOptions& options, const cache::ObjectCache& cache) {
  uint64_t capacity = 0;
  for (const cache::TierReport& tier : cache.Tiers()) capacity += tier.capacity_bytes;
  return std::min(options.plan_ahead_bytes, capacity / kPlanCacheParts);
}

constexpr int kHelloPatienceMs = 10'000;
constexpr std::chrono::seconds kLookPatience{5};  // for a store that is away: the shim waits, and has a cache to read
constexpr int kAcceptPauseMs = 100;               // after an accept that failed for want of descriptors
constexpr size_t kMaxRefusals = 16;
constexpr char kSocketName[] = "/session.sock";

// One accepted socket with its thread, from the handshake to the end of its session.
struct Connection {
  UniqueFd socket;
  ring::PeerIdentity peer;
  MountReport report;  // of a session; set before `session`
  std::shared_ptr<StoreVolume> volume;
  View view;
  std::string seal;
  bool allow_other = false;
  std::optional<ViewState> view_state;
  std::optional<std::string> dataset;  // whose metadata is loaded ahead; its thread's
  std::shared_ptr<prefetch::PlanPrefetcher> plan;
  std::shared_ptr<Session> session;  // null until the handshake is done, and after the end
  bool too_many = false;             // above max_sessions: to be refused
  bool done = false;
  std::thread thread;
};

class ServerImpl final : public SessionServer {
 public:
  ServerImpl(const SessionServerOptions& options, const SessionDependencies& dependencies)
      : options_(options),
        dependencies_(dependencies),
        volumes_(options_, dependencies_),
        nodes_(dependencies_.nodes),
        request_metrics_(dependencies_.metrics),
        plan_budget_(PlanBytes(options_, dependencies_.cache)),
        lane_width_(std::max<size_t>(1, options_.metadata_workers / 2)),
        executor_(MakeThreadPool("metadata", std::max<size_t>(1, options_.metadata_workers),
                                 options_.max_sessions * lane_width_)),
        next_generation_(std::random_device{}()) {}

  ~ServerImpl() override;

  Status Start();

  std::vector<MountReport> Mounts() const override;
  Result<std::shared_ptr<Volume>> VolumeOfMount(const std::string& mountpoint) override;
  Result<std::shared_ptr<Volume>> VolumeOfUrl(const std::string& url) override;
  Result<std::shared_ptr<prefetch::PlanPrefetcher>> PlanOfMount(const std::string& mountpoint) override;
  void NotifyInvalidated(const Volume& volume, const std::string& path) override;
  std::vector<SealSubject> SealSubjects() const override;
  Status Send(uint64_t mount_id, const FromDaemon& message, const std::vector<int>& descriptors) override;

 private:
  void Revoke(const cache::ObjectId& id);
  void Listen();
  void Admit(UniqueFd socket);
  void Reap();
  void ServeConnection(Connection& connection);
  Status Greet(Connection& connection);
  std::shared_ptr<Session> MakeSession(Connection& connection, const Hello& hello,
                                       const std::shared_ptr<StoreVolume>& volume, const View& view,
                                       std::unique_ptr<ring::DaemonChannel> channel, uint64_t generation);
  std::shared_ptr<prefetch::PlanPrefetcher> MakePlan(const Hello& hello, const std::shared_ptr<StoreVolume>& volume,
                                                     const View& view);
  std::string Describe(const Connection& connection) const;
  store::CallContext Context() const;

  const SessionServerOptions options_;
  const SessionDependencies dependencies_;
  VolumeTable volumes_;
  NodeTable nodes_;
  RequestMetrics request_metrics_;
  prefetch::PlanBudget plan_budget_;
  const size_t lane_width_;
  const std::unique_ptr<Executor> executor_;
  UniqueFd listener_;
  const UniqueFd wake_{eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};  // the listener: something to reap, or the end
  std::stop_source stop_;
  std::atomic<uint64_t> next_generation_;
  std::atomic<size_t> live_sessions_ = 0;

  mutable std::mutex mutex_;
  std::list<Connection> connections_;  // the list and session … view_state, done of each guarded by mutex_
  std::thread listening_;
  ChangeFeeds feeds_{[this](StoreVolume& volume, const std::string& path) {
    volume.Invalidate(path);
    NotifyInvalidated(volume, path);
  }};
};

Status ServerImpl::Start() {
  if (!wake_.valid()) return FailErrno(errno, "eventfd");
  MLCACHE_ASSIGN_OR_RETURN(listener_, ring::Listen(options_.socket_dir + kSocketName, options_.socket_mode));
  dependencies_.cache.TellOfLeaving([this](const cache::ObjectId& id) { Revoke(id); });
  listening_ = std::thread([this] { Listen(); });
  pthread_setname_np(listening_.native_handle(), "session-listen");
  return {};
}

ServerImpl::~ServerImpl() {
  dependencies_.cache.TellOfLeaving(nullptr);
  stop_.request_stop();
  feeds_.Stop();
  static_cast<void>(eventfd_write(wake_.get(), 1));
  if (listening_.joinable()) listening_.join();
  {
    std::lock_guard lock(mutex_);
    for (Connection& connection : connections_) {
      if (connection.session != nullptr) connection.session->End("the daemon is stopping");
      shutdown(connection.socket.get(), SHUT_RDWR);  // ends a handshake
    }
  }
  for (Connection& connection : connections_) connection.thread.join();
  if (listener_.valid()) unlink((options_.socket_dir + kSocketName).c_str());
}

void ServerImpl::Listen() {
  while (!stop_.stop_requested()) {
    pollfd waits[2] = {{.fd = listener_.get(), .events = POLLIN, .revents = 0},
                       {.fd = wake_.get(), .events = POLLIN, .revents = 0}};
    if (poll(waits, 2, -1) < 0) continue;
    if (waits[1].revents != 0) {
      eventfd_t ignored = 0;
      static_cast<void>(eventfd_read(wake_.get(), &ignored));
      Reap();
    }
    if (stop_.stop_requested() || waits[0].revents == 0) continue;
    Result<UniqueFd> socket = ring::Accept(listener_.get(), 0);
    if (socket.has_value()) {
      Admit(*std::move(socket));
    } else if (socket.error().code() != Code::kDeadlineExceeded) {
      LOG_EVERY_T(WARNING, 10) << "accepting a mount: " << socket.error();
      pollfd pause{.fd = wake_.get(), .events = POLLIN, .revents = 0};
      poll(&pause, 1, kAcceptPauseMs);
    }
  }
}

void ServerImpl::Admit(UniqueFd socket) {
  const Result<ring::PeerIdentity> peer = ring::Peer(socket.get());
  if (!peer.has_value()) return;
  std::lock_guard lock(mutex_);
  // Some more are heard, so that they can be told why they are refused.
  const auto live = static_cast<size_t>(std::ranges::count(connections_, false, &Connection::done));
  if (live >= options_.max_sessions + kMaxRefusals) return;
  Connection& connection = connections_.emplace_back();
  connection.socket = std::move(socket);
  connection.peer = *peer;
  connection.too_many = live >= options_.max_sessions;
  connection.thread = std::thread([this, &connection] { ServeConnection(connection); });
  pthread_setname_np(connection.thread.native_handle(), "session");
}

void ServerImpl::Reap() {
  std::list<Connection> done;
  {
    std::lock_guard lock(mutex_);
    for (auto it = connections_.begin(); it != connections_.end();) {
      const auto next = std::next(it);
      if (it->done) done.splice(done.end(), connections_, it);
      it = next;
    }
  }
  for (Connection& connection : done) connection.thread.join();
}

void ServerImpl::ServeConnection(Connection& connection) {
  const Status greeted = Greet(connection);
  if (greeted.has_value()) {
    std::shared_ptr<Session> session;
    {
      std::lock_guard lock(mutex_);
      session = connection.session;
    }
    LOG(INFO) << connection.report.mountpoint << ": mounted " << connection.report.store_url << " for user "
              << connection.peer.uid << ", process " << connection.peer.pid;
    dependencies_.metrics.mounts.Increment();
    ++live_sessions_;
    if (stop_.stop_requested()) session->End("the daemon is stopping");
    std::optional<DatasetLoader> loader;  // for as long as the session
    if (connection.dataset) {
      loader.emplace(connection.volume, *connection.dataset,
                     DatasetLoaderOptions{.max_age = connection.view.max_age(),
                                          .request_timeout = options_.request_timeout,
                                          .max_entries = options_.volume.max_cached_entries / 2});
    }
    const std::string why = session->Run(connection.socket.get());
    --live_sessions_;
    dependencies_.metrics.mounts.Decrement();
    LOG(INFO) << connection.report.mountpoint << ": session ended: " << why;
  } else if (greeted.error().code() != Code::kAborted) {
    LOG(WARNING) << "mount refused to user " << connection.peer.uid << ": " << greeted.error();
    SendRefusal(connection.socket.get(), greeted.error());
  }
  // The shim learns of the end now, not when this thread is reaped.
  shutdown(connection.socket.get(), SHUT_RDWR);
  std::shared_ptr<Session> ended;  // its files go without the lock, under which nobody may call the cache
  {
    std::lock_guard lock(mutex_);
    ended = std::move(connection.session);
    connection.session = nullptr;
    connection.done = true;
  }
  ended.reset();
  static_cast<void>(eventfd_write(wake_.get(), 1));
}

// kAborted: the peer went before it said anything (a probe of the socket), so there is nobody to answer.
Status ServerImpl::Greet(Connection& connection) {
  const Result<ring::Message> message = ring::Receive(connection.socket.get(), kHelloPatienceMs);
  if (!message.has_value()) return Fail(Code::kAborted, message.error().message());
  if (connection.too_many) {
    return Fail(Code::kResourceExhausted, "this daemon already serves " + std::to_string(options_.max_sessions) +
                                              " mounts: raise its --max_sessions");
  }
  MLCACHE_ASSIGN_OR_RETURN(const Hello hello, ParseHello(message->bytes));
  MLCACHE_ASSIGN_OR_RETURN(const CredentialProfile credential, CredentialOf(hello, connection.peer, options_));
  MLCACHE_RETURN_IF_ERROR(CheckOptions(hello.options()));
  MLCACHE_ASSIGN_OR_RETURN(std::shared_ptr<StoreVolume> volume, volumes_.Get(hello.store_url(), Context(), credential));
  const View view = ViewOf(hello.options(), options_.volume);
  store::CallContext look = Context();
  look.deadline = std::min(look.deadline, SystemClock().Now() + kLookPatience);
  MLCACHE_ASSIGN_OR_RETURN(connection.dataset, DatasetOf(hello.options(), *volume, view.max_age(), look));
  feeds_.Follow(volume);
  const uint64_t generation = ++next_generation_;
  MLCACHE_ASSIGN_OR_RETURN(std::unique_ptr<ring::DaemonChannel> channel,
                           ring::CreateChannel(GeometryOf(hello), generation));
  ring::DaemonChannel& sent = *channel;
  std::shared_ptr<Session> session = MakeSession(connection, hello, volume, view, std::move(channel), generation);
  std::shared_ptr<prefetch::PlanPrefetcher> plan = MakePlan(hello, volume, view);
  session->set_plan(plan);
  {
    std::lock_guard lock(mutex_);
    connection.plan = std::move(plan);
    connection.report = {.mount_id = hello.mount_id(),
                         .mountpoint = hello.mountpoint(),
                         .store_url = volume->url().Canonical(),
                         .pid = connection.peer.pid,
                         .uid = connection.peer.uid,
                         .job = hello.options().job(),
                         .read_only = hello.options().read_only(),
                         .immutable = hello.options().immutable(),
                         .connected_at = dependencies_.clock.WallNow(),
                         .open_mode = hello.options().open_mode()};
    connection.volume = std::move(volume);
    connection.view = view;
    connection.seal = hello.options().seal();
    connection.allow_other = hello.options().allow_other();
    connection.session = std::move(session);
  }
  Status sent_welcome =
      SendWelcome(connection.socket.get(), sent, generation, dependencies_.cache.ObjectsDirectories());
  if (!sent_welcome.has_value()) {
    std::shared_ptr<Session> ended;  // goes without the lock
    std::lock_guard lock(mutex_);
    ended.swap(connection.session);
  }
  return sent_welcome;
}

std::shared_ptr<Session> ServerImpl::MakeSession(Connection& connection, const Hello& hello,
                                                 const std::shared_ptr<StoreVolume>& volume, const View& view,
                                                 std::unique_ptr<ring::DaemonChannel> channel, uint64_t generation) {
  const SessionParts parts{.cache = dependencies_.cache,
                           .fetcher = dependencies_.fetcher,
                           .metadata = *executor_,
                           .metrics = dependencies_.metrics,
                           .request_metrics = request_metrics_,
                           .clock = dependencies_.clock,
                           .request_timeout = options_.request_timeout,
                           .whole_open_bytes = options_.whole_open_bytes,
                           .sessions = &live_sessions_,
                           .lane_width = lane_width_};
  auto pacer =
      std::make_shared<prefetch::Pacer>(PacerOptionsOf(hello.options()), dependencies_.fetcher, dependencies_.clock);
  const ring::Geometry geometry = GeometryOf(hello);
  const size_t outstanding = size_t{geometry.queue_pairs} * geometry.queue_depth;
  auto session =
      std::make_shared<Session>(parts, std::make_unique<Tree>(volume, nodes_, view, dependencies_.clock),
                                std::move(channel), generation, outstanding, hello.options().job(), ReaderOf(hello),
                                std::move(pacer), [this, &connection] { return Describe(connection); });
  session->set_on_mode([this, &connection](const ServingMode& mode) {
    const std::lock_guard lock(mutex_);
    connection.report.serving_mode = mode.mode();
    connection.report.serving_reason = mode.reason();
  });
  session->set_on_view([this, &connection](const ViewState& state) {
    const std::lock_guard lock(mutex_);
    connection.view_state = state;
  });
  return session;
}

std::shared_ptr<prefetch::PlanPrefetcher> ServerImpl::MakePlan(const Hello& hello,
                                                               const std::shared_ptr<StoreVolume>& volume,
                                                               const View& view) {
  const prefetch::PlanOptions plan_options{.workers = PlanWorkersOf(hello.options()),
                                           .job = hello.options().job(),
                                           .mountpoint = hello.mountpoint(),
                                           .request_timeout = options_.request_timeout};
  return std::make_shared<prefetch::PlanPrefetcher>(plan_options,
                                                    MakePlanFiles(volume, view, hello.options().job(), ReaderOf(hello)),
                                                    dependencies_.fetcher, plan_budget_, dependencies_.metrics);
}

std::string ServerImpl::Describe(const Connection& connection) const {
  nlohmann::json mount;
  std::shared_ptr<prefetch::PlanPrefetcher> plan;
  {
    std::lock_guard lock(mutex_);
    plan = connection.plan;
    const MountReport& report = connection.report;
    mount = {{"mountpoint", report.mountpoint},
             {"store_url", report.store_url},
             {"job", report.job},
             {"open_mode", report.open_mode},
             {"serving_mode", report.serving_mode},
             {"serving_reason", report.serving_reason},
             {"read_only", report.read_only},
             {"immutable", report.immutable},
             {"requests", connection.session == nullptr ? 0 : connection.session->requests()}};
    if (connection.session != nullptr) {
      const prefetch::Pacer& pacer = connection.session->pacer();
      mount["optimization"] = pacer.optimizes();
      mount["prefetch_accuracy"] = pacer.accuracy();
      mount["read_stall_seconds"] = pacer.stall_seconds();
    }
  }
  mount["plans"] = plan == nullptr ? nlohmann::json::array() : ToJson(plan->Reports());
  const nlohmann::json all = {{"mount", std::move(mount)},
                              {"daemon", nlohmann::json::parse(dependencies_.metrics.Json(), nullptr, false)}};
  // Names of files need not be UTF-8.
  return all.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

store::CallContext ServerImpl::Context() const {
  return {.deadline = SystemClock().Now() + options_.request_timeout, .stop = stop_.get_token()};
}

std::vector<MountReport> ServerImpl::Mounts() const {
  std::lock_guard lock(mutex_);
  std::vector<MountReport> reports;
  std::vector<uint64_t> mount_ids;
  // While a server process replaces another, a mount has two sessions for a moment: the later one is reported.
  for (auto it = connections_.rbegin(); it != connections_.rend(); ++it) {
    if (it->session == nullptr) continue;
    if (it->report.mount_id != 0 && std::ranges::find(mount_ids, it->report.mount_id) != mount_ids.end()) continue;
    mount_ids.push_back(it->report.mount_id);
    MountReport& report = reports.emplace_back(it->report);
    report.requests = it->session->requests();
  }
  std::ranges::reverse(reports);
  return reports;
}

Result<std::shared_ptr<Volume>> ServerImpl::VolumeOfMount(const std::string& mountpoint) {
  std::lock_guard lock(mutex_);
  for (auto it = connections_.rbegin(); it != connections_.rend(); ++it) {
    if (it->session != nullptr && it->report.mountpoint == mountpoint) return it->volume;
  }
  return Fail(Code::kNotFound, mountpoint + " is no mount of this daemon: see mlcachectl mounts");
}

Result<std::shared_ptr<prefetch::PlanPrefetcher>> ServerImpl::PlanOfMount(const std::string& mountpoint) {
  std::lock_guard lock(mutex_);
  for (auto it = connections_.rbegin(); it != connections_.rend(); ++it) {
    if (it->session != nullptr && it->report.mountpoint == mountpoint) return it->plan;
  }
  return Fail(Code::kNotFound, mountpoint + " is no mount of this daemon: see mlcachectl mounts");
}

Result<std::shared_ptr<Volume>> ServerImpl::VolumeOfUrl(const std::string& url) {
  MLCACHE_ASSIGN_OR_RETURN(std::shared_ptr<StoreVolume> volume, volumes_.Get(url, Context()));
  feeds_.Follow(volume);
  return volume;
}

void ServerImpl::Revoke(const cache::ObjectId& id) {
  const std::lock_guard lock(mutex_);
  for (const Connection& connection : connections_) {
    if (connection.session != nullptr) connection.session->Revoke(id);
  }
}

void ServerImpl::NotifyInvalidated(const Volume& volume, const std::string& path) {
  const std::string identity = volume.url().Identity();
  const std::string absolute = JoinPath(volume.url().path, path);
  // Volumes of other prefixes of the store may know the same files.
  for (const std::shared_ptr<StoreVolume>& other : volumes_.All()) {
    if (other.get() == &volume || other->identity() != identity) continue;
    const std::string& root = other->url().path;
    if (IsWithin(absolute, root)) {
      other->Invalidate(std::string(Below(absolute, root)));
    } else if (IsWithin(root, absolute)) {
      other->Invalidate("");
    }
  }
  std::vector<std::shared_ptr<Session>> sessions;
  {
    std::lock_guard lock(mutex_);
    for (const Connection& connection : connections_) {
      if (connection.session != nullptr && connection.volume->identity() == identity)
        sessions.push_back(connection.session);
    }
  }
  for (const std::shared_ptr<Session>& session : sessions) session->NotifyInvalidated(absolute);
}

std::vector<SealSubject> ServerImpl::SealSubjects() const {
  std::lock_guard lock(mutex_);
  std::vector<SealSubject> subjects;
  // As in Mounts: of two sessions of a mount the later one counts.
  for (auto it = connections_.rbegin(); it != connections_.rend(); ++it) {
    if (it->session == nullptr || it->report.mount_id == 0) continue;
    const bool known = std::ranges::any_of(
        subjects, [&](const SealSubject& subject) { return subject.report.mount_id == it->report.mount_id; });
    if (known) continue;
    subjects.push_back({.report = it->report,
                        .volume = it->volume,
                        .view = it->view,
                        .seal = it->seal,
                        .allow_other = it->allow_other,
                        .view_state = it->view_state});
  }
  return subjects;
}

Status ServerImpl::Send(uint64_t mount_id, const FromDaemon& message, const std::vector<int>& descriptors) {
  UniqueFd socket;  // a duplicate, for sending may wait
  {
    std::lock_guard lock(mutex_);
    for (auto it = connections_.rbegin(); it != connections_.rend() && !socket.valid(); ++it) {
      if (it->session != nullptr && it->report.mount_id == mount_id)
        socket.Reset(fcntl(it->socket.get(), F_DUPFD_CLOEXEC, 3));
    }
  }
  if (!socket.valid()) return Fail(Code::kUnavailable, "the mount has no session");
  return ring::Send(socket.get(), message.SerializeAsString(), descriptors);
}

}  // namespace

Result<std::unique_ptr<SessionServer>> StartSessionServer(const SessionServerOptions& options,
                                                          const SessionDependencies& dependencies) {
  auto server = std::make_unique<ServerImpl>(options, dependencies);
  MLCACHE_RETURN_IF_ERROR(server->Start());
  return server;
}

}  // namespace mlcache::session
