// Both ends of one channel in one process, and a doorbell to wait on, for the ring's tests.
#pragma once

#include <gtest/gtest.h>
#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string_view>

#include "common/ring/channel.h"
#include "common/unique_fd.h"

namespace mlcache::ring {

inline constexpr uint64_t kTestGeneration = 42;

struct Ends {
  std::unique_ptr<DaemonChannel> daemon;
  ChannelDescriptors descriptors;  // the shim's
  std::unique_ptr<ShimChannel> shim;
};

inline Ends MakeEnds(const Geometry& geometry) {
  Ends ends;
  auto daemon = CreateChannel(geometry, kTestGeneration);
  EXPECT_TRUE(daemon.has_value()) << daemon.error();
  ends.daemon = std::move(*daemon);
  auto descriptors = ends.daemon->Descriptors();
  EXPECT_TRUE(descriptors.has_value()) << descriptors.error();
  ends.descriptors = std::move(*descriptors);
  auto shim = AttachChannel(ends.descriptors, kTestGeneration);
  EXPECT_TRUE(shim.has_value()) << shim.error();
  ends.shim = std::move(*shim);
  return ends;
}

// Waits on one doorbell as the loops do: edge-triggered, its counter never read.
class DoorbellWaiter {
 public:
  explicit DoorbellWaiter(int doorbell) : epoll_(::epoll_create1(EPOLL_CLOEXEC)) {
    epoll_event event{};
    event.events = EPOLLIN | EPOLLET;
    EXPECT_EQ(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, doorbell, &event), 0) << std::strerror(errno);
  }

  // False when the doorbell stayed silent for `timeout_ms`: for a loop that expects work, a lost wake-up.
  bool Wait(int timeout_ms) {
    epoll_event event{};
    int ready = -1;
    do {
      ready = ::epoll_wait(epoll_.get(), &event, 1, timeout_ms);
    } while (ready < 0 && errno == EINTR);
    return ready == 1;
  }

 private:
  UniqueFd epoll_;
};

inline Submission MakeSubmission(uint64_t id, Op op, std::string_view name = {}) {
  Submission submission;
  submission.id = id;
  submission.op = op;
  submission.name_length = static_cast<uint16_t>(name.size());
  std::ranges::copy(name, submission.name.begin());
  return submission;
}

inline std::string_view NameOf(const Submission& submission) {
  return {submission.name.data(), submission.name_length};
}

// Pops one submission that must be there.
inline Submission MustPop(DaemonChannel& daemon, uint32_t* pair) {
  auto popped = daemon.PopSubmission(pair);
  EXPECT_TRUE(popped.has_value()) << popped.error();
  if (!popped.has_value()) return {};
  EXPECT_TRUE(popped->has_value());
  return popped->value_or(Submission{});
}

}  // namespace mlcache::ring
