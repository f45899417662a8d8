#include "shim/mount_program.h"

#include <fcntl.h>
#include <glog/logging.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "common/unique_fd.h"
#include "common/version.h"
#include "shim/command_line.h"
#include "shim/daemon_session.h"
#include "shim/keeper.h"
#include "shim/logging.h"
#include "shim/mountpoint.h"
#include "shim/privileges.h"

namespace mlcache::shim {
namespace {

int Complain(const Error& error, int exit_code) {
  std::cerr << "mlcache-mount: " << error.message() << std::endl;
  return exit_code;
}

uint64_t RandomId() {
  uint64_t id = 0;
  while (id == 0) {
    if (::getrandom(&id, sizeof(id), 0) != sizeof(id)) return SystemClock().WallNow().count() ^ ::getpid();
  }
  return id;
}

// Asks the daemon before anything is mounted: is it there, and does it let this mount in? kExitOk if so.
int AskDaemon(const std::string& socket_dir, const session::Hello& hello, uid_t* daemon_uid) {
  // As the server will ask, who has no capabilities.
  const WithoutCapabilities as_server;
  const Result<UniqueFd> socket = Dial(socket_dir);
  if (!socket) return Complain(socket.error(), kExitUnreachable);
  const Result<ring::PeerIdentity> peer = ring::Peer(socket->get());
  if (!peer) return Complain(peer.error(), kExitUnreachable);
  *daemon_uid = peer->uid;
  const Result<Greeting> greeting = Greet(socket->get(), hello);
  if (!greeting) return Complain(greeting.error(), kExitUnreachable);
  if (const Status admitted = Admitted(*greeting); !admitted) {
    return Complain(admitted.error().WithContext("mlcached refuses the mount of " + hello.store_url()), kExitFailure);
  }
  return kExitOk;
}

// The launcher's end of a pipe on which the keeper reports its exit code, or nothing if it died first.
int AwaitKeeper(UniqueFd report, pid_t keeper) {
  unsigned char code = kExitFailure;
  ssize_t length = 0;
  while ((length = ::read(report.get(), &code, 1)) < 0 && errno == EINTR) {
  }
  if (length == 1) return code;
  int status = 0;
  ::waitpid(keeper, &status, 0);
  std::cerr << "mlcache-mount: the keeper ended before the mount answered" << std::endl;
  return kExitFailure;
}

// The keeper's way back to the launcher while there is one: its exit code on a pipe, its complaints on the terminal.
struct Launcher {
  UniqueFd report;
  UniqueFd terminal;

  void Tell(int code) {
    const auto byte = static_cast<unsigned char>(code);
    if (report.valid() && ::write(report.get(), &byte, 1) != 1) PLOG(WARNING) << "report to the launcher";
    report.Reset();
    terminal.Reset();
  }

  int Fail(const Error& error) {
    if (!terminal.valid()) return Complain(error, kExitFailure);
    LOG(ERROR) << error;
    ::dprintf(terminal.get(), "mlcache-mount: %s\n", error.message().c_str());
    Tell(kExitFailure);
    return kExitFailure;
  }
};

int RunKeeper(const CommandLine& command, const std::string& mountpoint, ServerOptions server, Launcher launcher) {
  server.hello.set_keeper_pid(::getpid());
  if (launcher.report.valid()) {
    // Before any server exists, which would otherwise hold the caller's terminal or pipe for ever.
    launcher.terminal.Reset(::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3));
    if (const Status moved = MoveLogs(command.log_file); !moved) return launcher.Fail(moved.error());
    if (::chdir("/") != 0) PLOG(WARNING) << "chdir /";
  }
  Keeper keeper(command, mountpoint, std::move(server));
  if (const Status started = keeper.Start(); !started) return launcher.Fail(started.error());
  LOG(INFO) << command.store_url << " is mounted on " << mountpoint;
  for (const std::string& note : command.notes) LOG(INFO) << mountpoint << ": " << note;
  launcher.Tell(kExitOk);
  keeper.Run();
  LOG(INFO) << mountpoint << " is unmounted";
  return kExitOk;
}

int Mount(const CommandLine& command, FaultHook fault_hook) {
  const Result<std::string> mountpoint = CheckMountpoint(command.mountpoint);
  if (!mountpoint) return Complain(mountpoint.error(), kExitFailure);
  if (const Status fuse = CheckFuseDevice(); !fuse) return Complain(fuse.error(), kExitFailure);

  ServerOptions server;
  // The keeper leaves this directory, and servers come back to the socket for as long as the mount lives.
  std::error_code failure;
  server.socket_dir = std::filesystem::absolute(command.socket_dir, failure);
  server.hello = MakeHello(command, *mountpoint, RandomId(), kWorkers, ::getpid());
  server.io_timeout = command.options.io_timeout;
  server.fault_hook = std::move(fault_hook);
  if (const int code = AskDaemon(server.socket_dir, server.hello, &server.daemon_uid); code != kExitOk) return code;
  if (command.dry_run) return kExitOk;
  if (command.foreground) return RunKeeper(command, *mountpoint, std::move(server), Launcher());

  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return Complain(ErrnoError(errno, "pipe"), kExitFailure);
  UniqueFd from_keeper(ends[0]);
  UniqueFd to_launcher(ends[1]);
  const pid_t child = ::fork();
  if (child < 0) return Complain(ErrnoError(errno, "fork"), kExitFailure);
  if (child > 0) {
    to_launcher.Reset();
    const int code = AwaitKeeper(std::move(from_keeper), child);
    // Seen to answer from outside, and its root known to the server from now on, whether the daemon stays or not.
    struct stat root{};
    if (code == kExitOk && ::stat(mountpoint->c_str(), &root) != 0) {
      return Complain(ErrnoError(errno, "the mount on " + *mountpoint + " does not answer"), kExitFailure);
    }
    return code;
  }
  from_keeper.Reset();
  ::setsid();
  return RunKeeper(command, *mountpoint, std::move(server), Launcher{std::move(to_launcher), UniqueFd()});
}

}  // namespace

int MountMain(int argc, char** argv, FaultHook fault_hook) {
  StartLogging("mlcache-mount");
  const std::vector<std::string_view> arguments(argv, argv + argc);
  Result<CommandLine> command = ParseCommandLine(arguments);
  if (!command) return Complain(command.error(), kExitUsage);
  switch (command->action) {
    case CommandLine::Action::kHelp:
      std::cout << HelpText(command->as_helper);
      return kExitOk;
    case CommandLine::Action::kVersion:
      std::cout << "mlcache-mount " << kVersion << std::endl;
      return kExitOk;
    case CommandLine::Action::kMount:
      break;
  }
  // What mount(8) makes for everybody should be readable by everybody whom the files' modes let in.
  if (command->as_helper && ::geteuid() == 0) command->options.allow_other = true;
  return Mount(*command, std::move(fault_hook));
}

}  // namespace mlcache::shim
