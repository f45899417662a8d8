#include "common/ring/socket.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <thread>
#include <vector>

namespace mlcache::ring {
namespace {

using testing::HasSubstr;

size_t OpenDescriptors() {
  return static_cast<size_t>(std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {}));
}

class SocketTest : public testing::Test {
 protected:
  SocketTest() {
    std::string directory = testing::TempDir() + "/mlcache-socket-XXXXXX";
    EXPECT_NE(::mkdtemp(directory.data()), nullptr) << std::strerror(errno);
    directory_ = directory;
    path_ = directory_ / "session.sock";
  }
  ~SocketTest() override { std::filesystem::remove_all(directory_); }

  std::filesystem::path directory_;
  std::string path_;
};

// Two joined sockets.
struct Joined {
  Joined() {
    std::array<int, 2> fds = {-1, -1};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds.data()), 0);
    left.Reset(fds[0]);
    right.Reset(fds[1]);
  }
  UniqueFd left;
  UniqueFd right;
};

TEST_F(SocketTest, ConnectsAndNamesThePeer) {
  const auto listener = Listen(path_, 0600);
  ASSERT_TRUE(listener.has_value()) << listener.error();
  struct stat attributes{};
  ASSERT_EQ(::stat(path_.c_str(), &attributes), 0);
  EXPECT_EQ(attributes.st_mode & 07777U, 0600U);

  const auto client = Connect(path_);
  ASSERT_TRUE(client.has_value()) << client.error();
  const auto server = Accept(listener->get(), 10'000);
  ASSERT_TRUE(server.has_value()) << server.error();
  const auto peer = Peer(server->get());
  ASSERT_TRUE(peer.has_value()) << peer.error();
  EXPECT_EQ(peer->pid, ::getpid());
  EXPECT_EQ(peer->uid, ::getuid());
  EXPECT_EQ(peer->gid, ::getgid());
  EXPECT_NE(::fcntl(server->get(), F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_NE(::fcntl(client->get(), F_GETFD) & FD_CLOEXEC, 0);

  ASSERT_TRUE(Send(client->get(), "ask", {}).has_value());
  EXPECT_EQ(Receive(server->get(), 10'000).value().bytes, "ask");
}

TEST_F(SocketTest, ReplacesASocketThatNobodyServes) {
  {
    ASSERT_TRUE(Listen(path_, 0600).has_value());
  }  // dies without unlinking
  const auto refused = Connect(path_);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), Code::kUnavailable);
  EXPECT_THAT(refused.error().message(), HasSubstr(path_));
  const auto listener = Listen(path_, 0600);
  ASSERT_TRUE(listener.has_value()) << listener.error();
  EXPECT_TRUE(Connect(path_).has_value());
}

TEST_F(SocketTest, RefusesASocketThatIsServed) {
  const auto listener = Listen(path_, 0600);
  ASSERT_TRUE(listener.has_value());
  const auto second = Listen(path_, 0600);
  ASSERT_FALSE(second.has_value());
  EXPECT_EQ(second.error().code(), Code::kAlreadyExists);
  EXPECT_THAT(second.error().message(), HasSubstr(path_));
  EXPECT_TRUE(Connect(path_).has_value()) << "the first is unharmed";
}

TEST_F(SocketTest, RefusesToReplaceWhatIsNoSocket) {
  std::ofstream(path_) << "precious";
  const auto listener = Listen(path_, 0600);
  ASSERT_FALSE(listener.has_value());
  EXPECT_EQ(listener.error().code(), Code::kAlreadyExists);
  EXPECT_EQ(std::filesystem::file_size(path_), 8U);
}

TEST_F(SocketTest, OfManyThatListenAtOnceOneWins) {
  {
    ASSERT_TRUE(Listen(path_, 0600).has_value());
  }
  std::vector<std::optional<Result<UniqueFd>>> listeners(8);
  {
    std::vector<std::jthread> threads;
    threads.reserve(listeners.size());
    for (auto& listener : listeners) threads.emplace_back([&] { listener = Listen(path_, 0600); });
  }
  int won = 0;
  int refused = 0;
  for (const auto& listener : listeners) {
    if (listener->has_value()) ++won;
    if (!listener->has_value() && listener->error().code() == Code::kAlreadyExists) ++refused;
  }
  EXPECT_EQ(won, 1);
  EXPECT_EQ(refused, 7);
}

TEST_F(SocketTest, SaysWhatIsWrongWithThePath) {
  const std::string longest = directory_.string() + "/" + std::string(107 - directory_.string().size() - 1, 's');
  EXPECT_TRUE(Listen(longest, 0600).has_value());
  for (const auto& result : {Listen(longest + "s", 0600), Connect(longest + "s")}) {
    ASSERT_FALSE(result.has_value());
    EXPECT_EQ(result.error().code(), Code::kInvalidArgument);
    EXPECT_THAT(result.error().message(), HasSubstr("has 108 bytes, at most 107"));
  }
  EXPECT_EQ(Listen("", 0600).error().code(), Code::kInvalidArgument);
  const auto missing = Listen((directory_ / "missing" / "session.sock").string(), 0600);
  EXPECT_EQ(missing.error().code(), Code::kNotFound) << missing.error();
  EXPECT_THAT(missing.error().message(), HasSubstr("missing"));
  EXPECT_EQ(Connect((directory_ / "none").string()).error().code(), Code::kUnavailable);
}

TEST_F(SocketTest, AcceptAndReceiveEndAtTheirDeadline) {
  const auto listener = Listen(path_, 0600);
  ASSERT_TRUE(listener.has_value());
  EXPECT_EQ(Accept(listener->get(), 1).error().code(), Code::kDeadlineExceeded);
  const Joined joined;
  EXPECT_EQ(Receive(joined.left.get(), 0).error().code(), Code::kDeadlineExceeded);
  EXPECT_EQ(Receive(joined.left.get(), 1).error().code(), Code::kDeadlineExceeded);
}

TEST(Messages, CarryTheirLimitsAndKeepTheirBorders) {
  const Joined joined;
  const std::string large(kMaxMessageBytes, 'm');
  const std::vector<int> many(kMaxMessageDescriptors, joined.left.get());
  ASSERT_TRUE(Send(joined.left.get(), large, many).has_value());
  ASSERT_TRUE(Send(joined.left.get(), "next", {}).has_value());
  const auto first = Receive(joined.right.get(), 10'000);
  ASSERT_TRUE(first.has_value()) << first.error();
  EXPECT_EQ(first->bytes, large);
  ASSERT_EQ(first->descriptors.size(), kMaxMessageDescriptors);
  for (const UniqueFd& fd : first->descriptors) EXPECT_NE(::fcntl(fd.get(), F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_EQ(Receive(joined.right.get(), 10'000).value().bytes, "next");
}

TEST(Messages, DescriptorsArriveInOrderAndWork) {
  const Joined joined;
  std::array<int, 2> pipe_ends = {-1, -1};
  ASSERT_EQ(::pipe2(pipe_ends.data(), O_CLOEXEC), 0);
  UniqueFd reader(pipe_ends[0]);
  UniqueFd writer(pipe_ends[1]);
  ASSERT_TRUE(Send(joined.left.get(), "two", {reader.get(), writer.get()}).has_value());
  reader.Reset();
  writer.Reset();
  const auto message = Receive(joined.right.get(), 10'000);
  ASSERT_TRUE(message.has_value()) << message.error();
  ASSERT_EQ(message->descriptors.size(), 2U);
  ASSERT_EQ(::write(message->descriptors[1].get(), "x", 1), 1);
  char byte = 0;
  ASSERT_EQ(::read(message->descriptors[0].get(), &byte, 1), 1);
  EXPECT_EQ(byte, 'x');
}

TEST(Messages, RefusesWhatIsBeyondTheLimits) {
  const Joined joined;
  EXPECT_EQ(Send(joined.left.get(), "", {}).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(Send(joined.left.get(), std::string(kMaxMessageBytes + 1, 'm'), {}).error().code(), Code::kInvalidArgument);
  const std::vector<int> many(kMaxMessageDescriptors + 1, joined.left.get());
  EXPECT_EQ(Send(joined.left.get(), "m", many).error().code(), Code::kInvalidArgument);
  EXPECT_FALSE(Send(joined.left.get(), "m", {-1}).has_value()) << "no descriptor at all";
}

// A peer that does not use Send().
void SendRaw(int socket, const std::string& bytes, size_t descriptors) {
  iovec part = {.iov_base = const_cast<char*>(bytes.data()), .iov_len = bytes.size()};
  std::vector<char> control(CMSG_SPACE(descriptors * sizeof(int)));
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  cmsghdr* const rights = CMSG_FIRSTHDR(&header);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(descriptors * sizeof(int));
  const std::vector<int> fds(descriptors, socket);
  std::memcpy(CMSG_DATA(rights), fds.data(), descriptors * sizeof(int));
  ASSERT_EQ(::sendmsg(socket, &header, 0), static_cast<ssize_t>(bytes.size())) << std::strerror(errno);
}

TEST(Messages, TooLongOnesAreErrorsAndLeakNothing) {
  const Joined joined;
  const size_t before = OpenDescriptors();
  SendRaw(joined.left.get(), std::string(kMaxMessageBytes + 1, 'm'), 5);
  EXPECT_EQ(Receive(joined.right.get(), 10'000).error().code(), Code::kDataLoss);
  SendRaw(joined.left.get(), "m", kMaxMessageDescriptors + 1);
  EXPECT_EQ(Receive(joined.right.get(), 10'000).error().code(), Code::kResourceExhausted);
  SendRaw(joined.left.get(), "m", 253);
  EXPECT_EQ(Receive(joined.right.get(), 10'000).error().code(), Code::kResourceExhausted);
  EXPECT_EQ(OpenDescriptors(), before);
  ASSERT_TRUE(Send(joined.left.get(), "fine", {}).has_value());
  EXPECT_EQ(Receive(joined.right.get(), 10'000).value().bytes, "fine") << "the connection goes on";
}

TEST(Messages, DescriptorsBeyondTheProcessLimitAreAnError) {
  const Joined joined;
  const size_t before = OpenDescriptors();
  SendRaw(joined.left.get(), "m", 20);
  rlimit old{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &old), 0);
  const rlimit low = {.rlim_cur = before + 10, .rlim_max = old.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &low), 0);
  const auto message = Receive(joined.right.get(), 10'000);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &old), 0);
  ASSERT_FALSE(message.has_value());
  EXPECT_EQ(message.error().code(), Code::kResourceExhausted) << message.error();
  EXPECT_EQ(OpenDescriptors(), before);
}

TEST(Messages, AGonePeerIsUnavailableAndNoSignal) {
  Joined joined;
  ASSERT_TRUE(Send(joined.left.get(), "last words", {}).has_value());
  joined.left.Reset();
  EXPECT_EQ(Receive(joined.right.get(), 10'000).value().bytes, "last words");
  EXPECT_EQ(Receive(joined.right.get(), 10'000).error().code(), Code::kUnavailable);
  EXPECT_EQ(Send(joined.right.get(), "anyone", {}).error().code(), Code::kUnavailable);
}

TEST(Messages, NoSocketIsAnError) {
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  EXPECT_FALSE(Send(null.get(), "m", {}).has_value());
  EXPECT_FALSE(Receive(null.get(), 0).has_value());
  EXPECT_FALSE(Peer(null.get()).has_value());
}

}  // namespace
}  // namespace mlcache::ring
