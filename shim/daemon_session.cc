#include "shim/daemon_session.h"

#include <cstring>
#include <utility>

#include "common/ring/wire.h"
#include "common/version.h"
#include "shim/errno.h"

namespace mlcache::shim {
namespace {

constexpr int kWelcomeTimeoutMs = 30'000;  // the daemon may have to ask the store first
constexpr uint64_t kMostApart = 256;       // between the numbers of leases that are still wanted
constexpr size_t kFirstDoorbell = 4;       // control, arena, submission and notification doorbell come before

void FillOptions(const MountOptions& from, session::MountOptions* to) {
  to->set_read_only(from.read_only);
  to->set_immutable(from.immutable);
  to->set_attr_ttl_ns(static_cast<uint64_t>(from.EffectiveAttrTtl().count()));
  to->set_job(from.job);
  to->set_credential(from.credential);
  if (from.uid) to->set_uid(*from.uid);
  if (from.gid) to->set_gid(*from.gid);
  if (from.umask) to->set_umask(*from.umask);
  to->set_ml_optimization(from.ml_optimization);
  to->set_ml_prefetch_workers(from.ml_prefetch_workers);
  to->set_ml_cache_size_bytes(from.ml_cache_size_bytes);
  to->set_ml_training_mode(from.ml_training_mode);
  to->set_ml_dataset_path(from.ml_dataset_path);
  to->set_allow_other(from.allow_other);
  to->set_open_mode(from.open_mode);
  to->set_seal(from.seal);
}

}  // namespace

void LeaseInbox::Begin(UniqueFd socket) {
  const std::lock_guard lock(mutex_);
  socket_ = std::move(socket);
}

UniqueFd LeaseInbox::Take(uint64_t number) {
  const std::lock_guard lock(mutex_);
  if (const auto found = come_.find(number); found != come_.end()) {
    UniqueFd lent = std::move(found->second);
    come_.erase(found);
    return lent;
  }
  while (socket_.valid()) {
    Result<ring::Message> message = ring::Receive(socket_.get(), 0);
    uint64_t come = 0;
    if (!message || message->bytes.size() != sizeof(come) || message->descriptors.size() != 1) break;
    std::memcpy(&come, message->bytes.data(), sizeof(come));
    if (come == number) return std::move(message->descriptors.front());
    come_[come] = std::move(message->descriptors.front());
    // Requests that were called off leave theirs behind; what is under way is never so far apart.
    std::erase_if(come_, [come](const auto& one) { return one.first + kMostApart < come; });
  }
  return {};
}

session::Hello MakeHello(const CommandLine& command, const std::string& mountpoint, uint64_t mount_id, uint32_t workers,
                         int32_t keeper_pid) {
  session::Hello hello;
  hello.set_protocol_version(ring::kProtocolVersion);
  hello.set_program_version(kVersion);
  hello.set_store_url(command.store_url);
  hello.set_mountpoint(mountpoint);
  FillOptions(command.options, hello.mutable_options());
  hello.set_workers(workers);
  hello.set_mount_id(mount_id);
  hello.set_keeper_pid(keeper_pid);
  return hello;
}

Result<UniqueFd> Dial(const std::string& socket_dir) {
  Result<UniqueFd> socket = ring::Connect(socket_dir + "/session.sock");
  if (socket) return socket;
  return Fail(Code::kUnavailable, "mlcached cannot be reached: " + socket.error().message() +
                                      "; another directory is named with --socket_dir");
}

Result<Greeting> Greet(int socket, const session::Hello& hello) {
  MLCACHE_RETURN_IF_ERROR(ring::Send(socket, hello.SerializeAsString(), {}));
  Result<ring::Message> message = ring::Receive(socket, kWelcomeTimeoutMs);
  if (!message) return std::unexpected(message.error().WithContext("mlcached did not answer"));
  Greeting greeting;
  if (!greeting.welcome.ParseFromString(message->bytes)) {
    return Fail(Code::kInternal, "mlcached's answer is no Welcome: are both programs of one release?");
  }
  greeting.descriptors = std::move(message->descriptors);
  return greeting;
}

Status Admitted(const Greeting& greeting) {
  const std::optional<Code> code = CodeOf(greeting.welcome.code());
  if (!code.has_value()) return {};
  return Fail(*code, greeting.welcome.message());
}

Result<std::shared_ptr<DaemonSession>> Attach(UniqueFd socket, Greeting greeting, uint32_t workers) {
  MLCACHE_RETURN_IF_ERROR(Admitted(greeting));
  std::vector<UniqueFd>& descriptors = greeting.descriptors;
  const uint32_t pairs = greeting.welcome.queue_pairs();
  if (pairs < workers || descriptors.size() != kFirstDoorbell + pairs) {
    return Fail(Code::kFailedPrecondition, "mlcached offers " + std::to_string(pairs) + " queue pairs with " +
                                               std::to_string(descriptors.size()) + " descriptors, wanted " +
                                               std::to_string(workers) + " pairs: are both programs of one release?");
  }
  auto session = std::make_shared<DaemonSession>();
  session->socket = std::move(socket);
  for (const session::ObjectsDirectory& directory : greeting.welcome.objects_directories()) {
    session->objects_directories.push_back(directory);
  }
  session->descriptors.control = std::move(descriptors[0]);
  session->descriptors.arena = std::move(descriptors[1]);
  session->descriptors.submission_doorbell = std::move(descriptors[2]);
  session->descriptors.notification_doorbell = std::move(descriptors[3]);
  for (size_t i = kFirstDoorbell; i < descriptors.size(); ++i) {
    session->descriptors.completion_doorbells.push_back(std::move(descriptors[i]));
  }
  MLCACHE_ASSIGN_OR_RETURN(session->channel, ring::AttachChannel(session->descriptors, greeting.welcome.generation()));
  return session;
}

}  // namespace mlcache::shim
