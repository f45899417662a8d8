#include "shim/keeper.h"

#include <fcntl.h>
#include <glog/logging.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <utility>

#include "shim/keeper_link.h"
#include "shim/mountpoint.h"
#include "shim/privileges.h"

namespace mlcache::shim {
namespace {

constexpr Nanos kLookInterval = std::chrono::seconds(1);
constexpr Nanos kStartTimeout = std::chrono::seconds(60);
constexpr Nanos kQuickDeath = std::chrono::seconds(2);
constexpr Nanos kLongestPause = std::chrono::seconds(2);
constexpr int kEndTimeoutMs = 500;
constexpr uint64_t kReadaheadKib = 1024;
constexpr int kPassedByOom = -1000;

Nanos Now() { return SystemClock().Now(); }

// libfuse explains a failed mount only by its log; this keeps the last line.
std::string& LastFuseMessage() {
  static std::string message;
  return message;
}

void KeepFuseMessage(fuse_log_level /*level*/, const char* format, va_list arguments) {
  std::array<char, 512> line{};
  std::vsnprintf(line.data(), line.size(), format, arguments);
  std::string text(line.data());
  while (!text.empty() && text.back() == '\n') text.pop_back();
  LastFuseMessage() = text;
}

// The first thread of `pid` is dead although the process cannot be reaped yet: another one is held by the kernel.
bool IsStuckCorpse(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  if (!std::getline(file, text)) return false;
  const size_t name_end = text.rfind(')');
  return name_end != std::string::npos && name_end + 2 < text.size() && text[name_end + 2] == 'Z';
}

uint64_t TotalProgress(const SharedState& state) {
  uint64_t total = 0;
  for (const WorkerBeat& beat : state.beats) total += beat.progress;
  return total;
}

}  // namespace

std::string FuseMountOptions(const CommandLine& command) {
  std::string source;
  for (const char letter : command.store_url) {
    if (letter == ',' || letter == '\\') source += '\\';
    source += letter;
  }
  std::string options = "ro,default_permissions,subtype=mlcache,max_read=" + std::to_string(ring::kMaxReadBytes);
  if (command.options.allow_other) options += ",allow_other";
  if (command.options.no_exec) options += ",noexec";
  return options + ",fsname=" + source;
}

void HangDetector::Reset() { still_.fill(0); }

bool HangDetector::Look(const SharedState& state) {
  bool hangs = false;
  const uint32_t workers = std::min<uint32_t>(state.workers, kMaxWorkers);
  for (uint32_t i = 0; i < workers; ++i) {
    const uint64_t progress = state.beats[i].progress;
    still_[i] = progress == seen_[i] ? still_[i] + 1 : 0;
    seen_[i] = progress;
    hangs = hangs || still_[i] >= most_looks_;
  }
  return hangs;
}

Keeper::Keeper(const CommandLine& command, std::string mountpoint, ServerOptions server)
    : command_(command),
      mountpoint_(std::move(mountpoint)),
      server_(std::move(server)),
      hang_(static_cast<int>(command.hang_timeout / kLookInterval)) {}

Keeper::~Keeper() {
  Unmount();
  EndServer();
  if (session_ != nullptr) fuse_session_destroy(session_);
}

Status Keeper::Start() {
  ::prctl(PR_SET_NAME, "mlcache-keeper", 0, 0, 0);
  server_.keeper = ::getpid();
  MLCACHE_ASSIGN_OR_RETURN(state_, CreateSharedState());
  MLCACHE_RETURN_IF_ERROR(WatchSignals());
  MLCACHE_RETURN_IF_ERROR(Mount());
  Protect();
  MakeServices();
  Spawn();
  const Nanos give_up = Now() + kStartTimeout;
  while (state_->ready == 0) {
    Wait(10);
    if (ended_ && state_->ready == 0)
      return Fail(Code::kAborted, "the mount on " + mountpoint_ + " ended before it answered");
    if (Now() > give_up) {
      return Fail(Code::kDeadlineExceeded,
                  "the mount on " + mountpoint_ + " does not answer; mlcached's log should say why");
    }
  }
  return {};
}

void Keeper::Run() {
  while (!ended_) Wait(250);
}

Status Keeper::WatchSignals() {
  sigset_t watched;
  sigemptyset(&watched);
  for (const int signal : {SIGCHLD, SIGTERM, SIGINT, SIGHUP}) sigaddset(&watched, signal);
  ::signal(SIGPIPE, SIG_IGN);
  if (::sigprocmask(SIG_BLOCK, &watched, nullptr) != 0) return FailErrno(errno, "sigprocmask");
  signals_.Reset(::signalfd(-1, &watched, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_.valid()) return FailErrno(errno, "signalfd");
  mount_table_.Reset(::open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC));
  if (!mount_table_.valid()) return FailErrno(errno, "open /proc/self/mountinfo");
  return {};
}

Status Keeper::Mount() {
  const std::string options = FuseMountOptions(command_);
  fuse_args arguments = FUSE_ARGS_INIT(0, nullptr);
  fuse_opt_add_arg(&arguments, "mlcache-mount");
  fuse_opt_add_arg(&arguments, "-o");
  fuse_opt_add_arg(&arguments, options.c_str());
  const fuse_lowlevel_ops nothing{};
  fuse_set_log_func(&KeepFuseMessage);
  session_ = fuse_session_new(&arguments, &nothing, sizeof(nothing), nullptr);
  fuse_opt_free_args(&arguments);
  const bool mounted = session_ != nullptr && fuse_session_mount(session_, mountpoint_.c_str()) == 0;
  fuse_set_log_func(nullptr);
  if (!mounted) {
    if (session_ != nullptr) fuse_session_destroy(std::exchange(session_, nullptr));
    std::string message = "cannot mount on " + mountpoint_;
    if (!LastFuseMessage().empty()) message += ": " + LastFuseMessage();
    if (::geteuid() != 0) {
      message += "; as an ordinary user you need the package fuse3 (fusermount3)";
      if (command_.options.allow_other) message += ", and for allow_other the line user_allow_other in /etc/fuse.conf";
    }
    return Fail(Code::kPermissionDenied, message);
  }
  device_.Reset(::fcntl(fuse_session_fd(session_), F_DUPFD_CLOEXEC, 3));
  if (!device_.valid()) return FailErrno(errno, "duplicate /dev/fuse");
  const int flags = ::fcntl(device_.get(), F_GETFL);
  if (flags < 0 || ::fcntl(device_.get(), F_SETFL, flags | O_NONBLOCK) != 0) {
    return FailErrno(errno, "make /dev/fuse non-blocking");
  }
  return {};
}

void Keeper::Protect() {
  if (const std::optional<MountedFileSystem> mount = FindMount(mountpoint_)) {
    bdi_ = mount->device;
    const Status raised = RaiseReadahead(bdi_, kReadaheadKib);
    LOG_IF(INFO, !raised) << "readahead stays at the kernel's default: " << raised.error().message();
  }
  const std::string& mode = command_.options.open_mode;
  server_.may_register = (mode == "auto" || mode == "passthrough") && MayAdminister();
  if (!server_.may_register) server_.why_not = "passthrough needs a mount made by root (CAP_SYS_ADMIN)";
  const Result<int> score = OomScore();
  if (score && SetOomScore(kPassedByOom)) server_.oom_score = *score;
}

void Keeper::MakeServices() {
  std::string refusal;
  if (!command_.options.allow_other) refusal = "a view is open to every user; mount with -o allow_other";
  if (::geteuid() != 0) refusal = "the mount was made by an ordinary user, and a view takes root's privileges";
  const ViewOptions options{.mountpoint = mountpoint_,
                            .source = std::string(kSealedSource) + command_.store_url,
                            .no_exec = command_.options.no_exec,
                            .daemon_uid = server_.daemon_uid};
  views_.emplace(options, bdi_, refusal, *state_);
  service_.emplace(device_.get(), *state_, *views_);
}

// The server's ends of new links; ours replace those of the last server, whose requests nobody waits for any more.
Result<std::vector<UniqueFd>> Keeper::MakeLinks() {
  links_.clear();
  std::vector<UniqueFd> ends;
  for (uint32_t i = 0; i < kKeeperLinks; ++i) {
    MLCACHE_ASSIGN_OR_RETURN(auto pair, MakeKeeperLink());
    ends.push_back(std::move(pair.first));
    links_.push_back(std::move(pair.second));
  }
  return ends;
}

void Keeper::Spawn() {
  hang_.Reset();
  killed_for_hanging_ = false;
  started_at_ = Now();
  progress_at_start_ = TotalProgress(*state_);
  Result<std::vector<UniqueFd>> links = MakeLinks();
  const pid_t child = links.has_value() ? ::fork() : -1;
  if (child < 0) {
    PLOG(ERROR) << "cannot start a server";
    next_start_ = Now() + kLongestPause;
    return;
  }
  if (child == 0) {
    std::vector<int> kept = {device_.get()};
    for (const UniqueFd& link : *links) kept.push_back(link.get());
    CloseAllBut(std::move(kept));
    signals_.Release();
    mount_table_.Release();
    for (UniqueFd& link : links_) link.Release();
    std::exit(RunServer(server_, std::move(device_), *std::move(links), *state_));
  }
  child_ = child;
}

bool Keeper::ConnectionIsGone() const {
  // Only ever asked in passing: a lasting poll here would be woken by each request.
  pollfd device{device_.get(), 0, 0};
  return ::poll(&device, 1, 0) == 1 && (device.revents & POLLERR) != 0;
}

void Keeper::Wait(int timeout_ms) {
  if (child_ < 0) {
    const auto pause_ms = std::chrono::ceil<std::chrono::milliseconds>(next_start_ - Now()).count();
    timeout_ms = static_cast<int>(std::clamp<int64_t>(pause_ms, 0, timeout_ms));
  }
  std::vector<pollfd> waiting{{signals_.get(), POLLIN, 0}, {mount_table_.get(), POLLPRI, 0}};
  waiting.push_back({views_->fd(), POLLIN, 0});
  for (const UniqueFd& link : links_) waiting.push_back({link.get(), POLLIN, 0});
  ::poll(waiting.data(), waiting.size(), timeout_ms);
  if (waiting[1].revents != 0) views_->LookAtMounts();
  if (waiting[2].revents != 0) views_->Progress();
  ServeLinks(std::span(waiting).subspan(3));
  signalfd_siginfo signal{};
  bool stop = false;
  while (::read(signals_.get(), &signal, sizeof(signal)) == sizeof(signal)) {
    stop = stop || signal.ssi_signo == SIGTERM || signal.ssi_signo == SIGINT;
  }
  Reap();
  if (ConnectionIsGone() || stop) {
    ended_ = true;
    return;
  }
  if (child_ >= 0 && Now() >= next_look_) {
    next_look_ = Now() + kLookInterval;
    ReplaceIfStuck();
    KillIfHanging();
  }
  if (child_ < 0 && Now() >= next_start_) Spawn();
}

// One request a link and turn, so that a server that floods us still leaves time for everything else.
void Keeper::ServeLinks(std::span<const pollfd> waiting) {
  for (size_t i = 0; i < waiting.size(); ++i) {
    if (waiting[i].revents != 0 && !service_->Serve(links_[i].get())) links_[i].Reset();
  }
}

void Keeper::Reap() {
  int status = 0;
  for (pid_t ended = 0; (ended = ::waitpid(-1, &status, WNOHANG)) > 0;) {
    if (ended == child_) Judge(status);
  }
}

// How a server ended, and what that means for the next one.
void Keeper::Judge(int wait_status) {
  child_ = -1;
  if (ConnectionIsGone()) return;
  const bool killed_from_outside = WIFSIGNALED(wait_status) && WTERMSIG(wait_status) == SIGKILL && !killed_for_hanging_;
  ChargeDeath(*state_, killed_from_outside ? kKilledPoints : kCrashPoints);
  const Nanos now = Now();
  const Nanos lived = now - started_at_;
  // One killed from outside was well unless it had not even begun.
  const bool quick = killed_from_outside ? TotalProgress(*state_) == progress_at_start_ : lived < kQuickDeath;
  quick_deaths_ = quick ? quick_deaths_ + 1 : 0;
  // The first successors come at once; one that cannot live is tried again ever more slowly, but always.
  Nanos pause{0};
  if (quick_deaths_ > 3)
    pause = std::min<Nanos>(std::chrono::milliseconds(25) * (1 << std::min(quick_deaths_, 10)), kLongestPause);
  next_start_ = now + pause;
  if (WIFSIGNALED(wait_status)) {
    LOG(WARNING) << "the server of " << mountpoint_ << " was ended by signal " << WTERMSIG(wait_status)
                 << "; a successor takes over";
  } else {
    LOG(WARNING) << "the server of " << mountpoint_ << " ended with exit code " << WEXITSTATUS(wait_status)
                 << "; a successor takes over";
  }
}

void Keeper::KillIfHanging() {
  if (child_ < 0 || !hang_.Look(*state_)) return;
  LOG(ERROR) << "the server of " << mountpoint_ << " makes no progress and is replaced";
  killed_for_hanging_ = true;
  hang_.Reset();
  ::kill(child_, SIGKILL);
}

// A killed server whose notifier waits in the kernel for a lock cannot be reaped before its successor has answered the
// request that holds the lock. None of its threads runs again, so the successor need not wait for it.
void Keeper::ReplaceIfStuck() {
  if (!IsStuckCorpse(child_)) return;
  Reap();
  if (child_ < 0) return;
  LOG(WARNING) << "the last server of " << mountpoint_ << " is held by the kernel; a successor takes over already";
  Judge(SIGKILL);
}

void Keeper::Unmount() {
  if (views_.has_value()) views_->Unmount();
  if (session_ == nullptr || !device_.valid() || ConnectionIsGone()) return;
  // Somebody may have mounted over us; that is not ours to take away.
  const std::optional<MountedFileSystem> top = FindMount(mountpoint_);
  if (top.has_value() && top->type == kFileSystemType && (bdi_.empty() || top->device == bdi_)) {
    fuse_session_unmount(session_);
  }
}

void Keeper::EndServer() {
  if (child_ < 0) return;
  const Nanos give_up = Now() + std::chrono::milliseconds(kEndTimeoutMs);
  while (Now() < give_up) {
    if (::waitpid(child_, nullptr, WNOHANG) != 0) {
      child_ = -1;
      return;
    }
    pollfd waiting{signals_.get(), POLLIN, 0};
    ::poll(&waiting, 1, 20);
    signalfd_siginfo ignored{};
    while (::read(signals_.get(), &ignored, sizeof(ignored)) == sizeof(ignored)) {
    }
  }
  ::kill(child_, SIGKILL);
  ::waitpid(child_, nullptr, 0);
  child_ = -1;
}

}  // namespace mlcache::shim
