// The kernel's end of a mount: libfuse's low-level session over a /dev/fuse descriptor that outlives this process.
// Start() makes this process the one that serves, whether it is the first or a successor.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <utility>

#include "common/status.h"
#include "common/unique_fd.h"
#include "shim/fuse_api.h"
#include "shim/shared_state.h"

namespace mlcache::shim {

// What one worker reads a request into; allocated by the first use.
class RequestBuffer {
 public:
  RequestBuffer() = default;
  RequestBuffer(const RequestBuffer&) = delete;
  RequestBuffer& operator=(const RequestBuffer&) = delete;
  ~RequestBuffer() { std::free(buffer_.mem); }

 private:
  friend class KernelChannel;
  fuse_buf buffer_{};
};

class KernelChannel {
 public:
  enum class Received { kNothing, kRequest, kGone };

  // `operations` is copied, `state` borrowed. `device` must be non-blocking.
  // With `passthrough` the first server tells the kernel so in INIT's reply, if the kernel has offered it.
  static Result<std::unique_ptr<KernelChannel>> Open(UniqueFd device, const fuse_lowlevel_ops& operations,
                                                     SharedState& state, bool passthrough);
  ~KernelChannel();

  // One thread, before any Receive: takes the INIT exchange over (or waits for the kernel's first), and asks the kernel
  // for what a predecessor had taken and not answered. kUnavailable when the connection ended meanwhile.
  Status Start();

  // Takes at most one request and runs its handler. Thread-safe, one buffer a thread. The request is noted in `beat`
  // while its handler runs.
  Received Receive(RequestBuffer& buffer, WorkerBeat& beat);

  // The `unique` of the request whose handler runs on this thread now.
  static uint64_t CurrentUnique();

  // Who is told, by number, that the kernel no longer wants a request. Set before the first Receive; called on any
  // receiving thread.
  void set_on_interrupt(std::function<void(uint64_t number)> on_interrupt) { on_interrupt_ = std::move(on_interrupt); }

  // In a handler: the kernel's loss of interest in `request` is to be reported as `number`, perhaps at once, perhaps
  // when the request has been answered already.
  static void WatchInterrupt(fuse_req_t request, uint64_t number);

  fuse_session* session() { return session_; }
  int device() const { return device_; }

 private:
  KernelChannel(SharedState& state, bool passthrough) : state_(state), passthrough_(passthrough) {}
  static ssize_t Write(int device, iovec* parts, int count, void* self);
  static ssize_t Read(int device, void* buffer, size_t length, void* self);
  Status AwaitInit();
  Status Resend();
  void RefusePoison(const RequestBuffer& buffer);

  ssize_t WriteInit(int device, const iovec* parts, int count);

  SharedState& state_;
  const bool passthrough_;
  std::function<void(uint64_t)> on_interrupt_;
  fuse_session* session_ = nullptr;
  int device_ = -1;
  uint64_t init_unique_ = 0;
  bool swallow_init_ = false;  // the kernel has its INIT reply already
};

}  // namespace mlcache::shim
