#include "shim/privileges.h"

#include <fcntl.h>
#include <sys/capability.h>
#include <sys/prctl.h>
#include <syslog.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <fstream>
#include <memory>
#include <string>

#include "common/unique_fd.h"

namespace mlcache::shim {
namespace {

constexpr char kOomScoreFile[] = "/proc/self/oom_score_adj";

struct CapabilityDeleter {
  void operator()(cap_t capabilities) const { ::cap_free(capabilities); }
};
using Capabilities = std::unique_ptr<std::remove_pointer_t<cap_t>, CapabilityDeleter>;

}  // namespace

Status BecomeServer(pid_t keeper) {
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return FailErrno(errno, "prctl(PR_SET_NO_NEW_PRIVS)");
  // The bounding set can only be emptied with CAP_SETPCAP, and matters only to those who have capabilities.
  for (int capability = 0; ::prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; ++capability) {
    ::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
  }
  ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  const Capabilities none(::cap_init());
  if (none == nullptr || ::cap_set_proc(none.get()) != 0) return FailErrno(errno, "drop the capabilities");
  if (::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0) return FailErrno(errno, "prctl(PR_SET_PDEATHSIG)");
  // It may have died before that took effect.
  if (::getppid() != keeper) return Fail(Code::kUnavailable, "the keeper is gone");
  return {};
}

void CloseAllBut(std::vector<int> kept) {
  ::closelog();  // or syslog would go on using a number that means something else by then
  std::ranges::sort(kept);
  unsigned next = 3;
  for (const int fd : kept) {
    if (static_cast<unsigned>(fd) > next) ::close_range(next, static_cast<unsigned>(fd) - 1, 0);
    next = static_cast<unsigned>(fd) + 1;
  }
  ::close_range(next, ~0U, 0);
}

bool MayAdminister() {
  const Capabilities ours(::cap_get_proc());
  cap_flag_value_t has = CAP_CLEAR;
  if (ours == nullptr || ::cap_get_flag(ours.get(), CAP_SYS_ADMIN, CAP_EFFECTIVE, &has) != 0) return false;
  if (has != CAP_SET) return false;
  // The first user namespace maps all users onto themselves.
  std::ifstream map("/proc/self/uid_map");
  uint64_t inside = 1;
  uint64_t outside = 1;
  uint64_t count = 0;
  return static_cast<bool>(map >> inside >> outside >> count) && inside == 0 && outside == 0 && count == UINT32_MAX;
}

Result<int> OomScore() {
  int value = 0;
  if (std::ifstream file(kOomScoreFile); file >> value) return value;
  return Fail(Code::kUnknown, std::string("read ") + kOomScoreFile);
}

Status SetOomScore(int value) {
  const UniqueFd file(::open(kOomScoreFile, O_WRONLY | O_CLOEXEC));
  const std::string text = std::to_string(value);
  if (!file.valid() || ::write(file.get(), text.data(), text.size()) < 0) return FailErrno(errno, kOomScoreFile);
  return {};
}

WithoutCapabilities::WithoutCapabilities() : saved_(::cap_get_proc()) {
  const Capabilities reduced(::cap_get_proc());
  if (reduced != nullptr && ::cap_clear_flag(reduced.get(), CAP_EFFECTIVE) == 0) ::cap_set_proc(reduced.get());
}

WithoutCapabilities::~WithoutCapabilities() {
  if (saved_ == nullptr) return;
  ::cap_set_proc(static_cast<cap_t>(saved_));
  ::cap_free(saved_);
}

}  // namespace mlcache::shim
