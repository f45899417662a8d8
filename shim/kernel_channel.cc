#include "shim/kernel_channel.h"

#include <glog/logging.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sys/uio.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "common/ring/wire.h"

namespace mlcache::shim {
namespace {

// linux/fuse.h of Linux 6.9; older headers lack it.
constexpr int kNotifyResend = 7;

thread_local uint64_t current_unique = 0;

const fuse_in_header& HeaderOf(const void* request) { return *static_cast<const fuse_in_header*>(request); }

}  // namespace

Result<std::unique_ptr<KernelChannel>> KernelChannel::Open(UniqueFd device, const fuse_lowlevel_ops& operations,
                                                           SharedState& state, bool passthrough) {
  std::unique_ptr<KernelChannel> channel(new KernelChannel(state, passthrough));
  // libfuse compares this with what its init callback sets; the mount itself was made by the keeper.
  const std::string max_read = "max_read=" + std::to_string(ring::kMaxReadBytes);
  fuse_args arguments = FUSE_ARGS_INIT(0, nullptr);
  fuse_opt_add_arg(&arguments, "mlcache-mount");
  fuse_opt_add_arg(&arguments, "-o");
  fuse_opt_add_arg(&arguments, max_read.c_str());
  channel->session_ = fuse_session_new(&arguments, &operations, sizeof(operations), channel.get());
  fuse_opt_free_args(&arguments);
  if (channel->session_ == nullptr) return Fail(Code::kInternal, "libfuse made no session");

  fuse_custom_io io{};
  io.writev = &KernelChannel::Write;
  io.read = &KernelChannel::Read;
  const int error = fuse_session_custom_io(channel->session_, &io, device.get());
  if (error != 0) return FailErrno(-error, "hand /dev/fuse to libfuse");
  channel->device_ = device.Release();  // libfuse closes it with the session
  return channel;
}

KernelChannel::~KernelChannel() {
  if (session_ != nullptr) fuse_session_destroy(session_);
}

Status KernelChannel::Start() {
  if (state_.init_length == 0) MLCACHE_RETURN_IF_ERROR(AwaitInit());
  std::array<std::byte, kMaxInitBytes> request = state_.init;
  init_unique_ = HeaderOf(request.data()).unique;
  swallow_init_ = state_.init_answered != 0;
  fuse_buf buffer{};
  buffer.mem = request.data();
  buffer.size = state_.init_length;
  fuse_session_process_buf(session_, &buffer);
  if (fuse_session_exited(session_) != 0) return Fail(Code::kInternal, "the kernel and libfuse do not agree on INIT");
  if (swallow_init_) return Resend();
  return {};
}

// The first request of a connection is INIT. It is kept before it is answered, for every successor.
Status KernelChannel::AwaitInit() {
  std::array<std::byte, FUSE_MIN_READ_BUFFER> request{};
  while (true) {
    const ssize_t length = ::read(device_, request.data(), request.size());
    if (length >= static_cast<ssize_t>(sizeof(fuse_in_header)) && length <= static_cast<ssize_t>(kMaxInitBytes) &&
        HeaderOf(request.data()).opcode == FUSE_INIT) {
      std::memcpy(state_.init.data(), request.data(), static_cast<size_t>(length));
      state_.init_length = static_cast<uint32_t>(length);
      return {};
    }
    if (length >= 0) return Fail(Code::kInternal, "the kernel's first request is no INIT");
    if (errno == ENODEV) return Fail(Code::kUnavailable, "the mount is gone");
    if (errno != EAGAIN && errno != EINTR && errno != ENOENT) return FailErrno(errno, "read /dev/fuse");
    pollfd waiting{device_, POLLIN, 0};
    ::poll(&waiting, 1, -1);
  }
}

Status KernelChannel::Resend() {
  const fuse_out_header message{sizeof(fuse_out_header), kNotifyResend, 0};
  if (::write(device_, &message, sizeof(message)) == sizeof(message)) return {};
  if (errno == ENODEV) return Fail(Code::kUnavailable, "the mount is gone");
  // Linux before 6.9. What the predecessor had taken stays unanswered; everything new is served.
  PLOG(WARNING) << "the kernel cannot send requests again; those that the last server had taken will not be answered";
  return {};
}

KernelChannel::Received KernelChannel::Receive(RequestBuffer& buffer, WorkerBeat& beat) {
  const int length = fuse_session_receive_buf(session_, &buffer.buffer_);
  if (fuse_session_exited(session_) != 0) return Received::kGone;
  if (length <= 0) return Received::kNothing;
  const fuse_in_header& header = HeaderOf(buffer.buffer_.mem);
  if (IsPoison(state_, header.unique)) {
    RefusePoison(buffer);
    return Received::kRequest;
  }
  current_unique = header.unique;
  beat.opcode.store(header.opcode, std::memory_order_relaxed);
  beat.unique.store(header.unique, std::memory_order_release);
  fuse_session_process_buf(session_, &buffer.buffer_);
  beat.unique.store(0, std::memory_order_release);
  current_unique = 0;
  return Received::kRequest;
}

// libfuse must not see the request answered from within its callback, so this only passes the number on. It travels as
// the pointer itself, for nothing it could point to is sure to live so long.
void KernelChannel::WatchInterrupt(fuse_req_t request, uint64_t number) {
  fuse_req_interrupt_func(
      request,
      [](fuse_req_t interrupted, void* data) {
        const auto* const channel = static_cast<const KernelChannel*>(fuse_req_userdata(interrupted));
        if (channel->on_interrupt_) channel->on_interrupt_(reinterpret_cast<uint64_t>(data));
      },
      reinterpret_cast<void*>(number));  // NOLINT(performance-no-int-to-ptr): never followed
}

uint64_t KernelChannel::CurrentUnique() { return current_unique; }

void KernelChannel::RefusePoison(const RequestBuffer& buffer) {
  const fuse_in_header& header = HeaderOf(buffer.buffer_.mem);
  LOG(ERROR) << "request " << (header.unique & ~kResendBit) << " (opcode " << header.opcode << ", node "
             << header.nodeid << ") ended several servers and is answered EIO";
  if (header.opcode == FUSE_FORGET || header.opcode == FUSE_BATCH_FORGET || header.opcode == FUSE_INTERRUPT) return;
  const fuse_out_header reply{sizeof(fuse_out_header), -EIO, header.unique};
  if (::write(device_, &reply, sizeof(reply)) < 0 && errno != ENOENT) PLOG(WARNING) << "answer a refused request";
}

ssize_t KernelChannel::Write(int device, iovec* parts, int count, void* self) {
  auto* const channel = static_cast<KernelChannel*>(self);
  const uint64_t unique = static_cast<const fuse_out_header*>(parts[0].iov_base)->unique;
  const bool is_init = unique != 0 && unique == channel->init_unique_;
  if (!is_init) return ::writev(device, parts, count);
  if (channel->swallow_init_) {
    ssize_t total = 0;
    for (int i = 0; i < count; ++i) total += static_cast<ssize_t>(parts[i].iov_len);
    return total;
  }
  const ssize_t written = channel->WriteInit(device, parts, count);
  if (written >= 0) channel->state_.init_answered = 1;
  return written;
}

// libfuse before 3.17 does not know passthrough: its reply is completed here (linux/fuse.h, 7.40: struct
// fuse_init_out).
ssize_t KernelChannel::WriteInit(int device, const iovec* parts, int count) {
  constexpr size_t kFlags = 12;  // offsets into the reply
  constexpr size_t kFlags2 = 32;
  constexpr size_t kMaxStackDepth = 36;
  constexpr size_t kOfferedFlags = 12;  // and into the request
  constexpr size_t kOfferedFlags2 = 16;
  constexpr uint32_t kInitExt = 1U << 30;
  constexpr uint32_t kPassthrough = 1U << 5;  // FUSE_PASSTHROUGH, bit 37
  const auto word = [](const std::byte* at) {
    uint32_t value = 0;
    std::memcpy(&value, at, sizeof(value));
    return value;
  };
  const std::byte* const offer = state_.init.data() + sizeof(fuse_in_header);
  const bool offered = state_.init_length >= sizeof(fuse_in_header) + kOfferedFlags2 + sizeof(uint32_t) &&
                       (word(offer + kOfferedFlags) & kInitExt) != 0 &&
                       (word(offer + kOfferedFlags2) & kPassthrough) != 0;
  std::vector<std::byte> reply;
  for (int i = 0; i < count; ++i) {
    const auto* const begin = static_cast<const std::byte*>(parts[i].iov_base);
    reply.insert(reply.end(), begin, begin + parts[i].iov_len);
  }
  const bool has_room = reply.size() >= sizeof(fuse_out_header) + kMaxStackDepth + sizeof(uint32_t);
  if (!passthrough_ || !offered || !has_room) return ::writev(device, parts, count);
  std::byte* const body = reply.data() + sizeof(fuse_out_header);
  const auto put = [body](size_t offset, uint32_t value) { std::memcpy(body + offset, &value, sizeof(value)); };
  put(kFlags, word(body + kFlags) | kInitExt);
  put(kFlags2, word(body + kFlags2) | kPassthrough);
  put(kMaxStackDepth, 1);
  const ssize_t written = ::write(device, reply.data(), reply.size());
  if (written >= 0) state_.passthrough = 1;
  return written;
}

ssize_t KernelChannel::Read(int device, void* buffer, size_t length, void* /*self*/) {
  return ::read(device, buffer, length);
}

}  // namespace mlcache::shim
