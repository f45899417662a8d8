// What the keeper does for a server, and what it refuses.
#include "shim/keeper_service.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "common/ring/socket.h"
#include "shim/keeper_link.h"

namespace mlcache::shim {
namespace {

class KeeperServiceTest : public ::testing::Test {
 protected:
  KeeperServiceTest() {
    std::string pattern = ::testing::TempDir() + "/mlcache-keeper-XXXXXX";
    directory_ = ::mkdtemp(pattern.data());
    std::filesystem::create_directories(directory_ + "/objects/ab");
    std::ofstream(directory_ + "/objects/ab/file") << "content";
    auto ends = *MakeKeeperLink();
    link_.emplace(std::move(ends.first));
    keeper_ = std::move(ends.second);
  }
  ~KeeperServiceTest() override { std::filesystem::remove_all(directory_); }

  keeper::CloneReadOnly Wanted(const std::string& path) const {
    struct stat info{};
    ::stat(path.c_str(), &info);
    keeper::CloneReadOnly wanted;
    wanted.set_path(path);
    wanted.set_device(info.st_dev);
    wanted.set_inode(info.st_ino);
    return wanted;
  }

  // A request, the keeper's turn, the answer.
  Result<KeeperAnswer> Call(keeper::Request request, const std::vector<int>& descriptors) {
    MLCACHE_ASSIGN_OR_RETURN(const uint64_t number, link_->Send(std::move(request), descriptors));
    EXPECT_TRUE(service_.Serve(keeper_.get()));
    MLCACHE_ASSIGN_OR_RETURN(std::optional<KeeperAnswer> answer, link_->Receive());
    if (!answer.has_value()) return Fail(Code::kNotFound, "no answer");
    EXPECT_EQ(answer->reply.number(), number);
    return *std::move(answer);
  }

  keeper::Reply Register(uint32_t record, uint64_t node, int file) {
    keeper::Request request;
    request.mutable_backing_open()->set_record(record);
    request.mutable_backing_open()->set_node(node);
    return Call(std::move(request), file < 0 ? std::vector<int>{} : std::vector<int>{file})->reply;
  }

  std::string directory_;
  SharedStatePointer state_ = *CreateSharedState();
  ViewService views_{{}, "0:0", "no views for this mount", *state_};
  KeeperService service_{-1, *state_, views_};  // no /dev/fuse: what gets as far as the kernel fails there
  std::optional<KeeperLink> link_;
  UniqueFd keeper_;
};

TEST_F(KeeperServiceTest, ClonesADirectoryOfObjectFilesReadOnly) {
  if (::geteuid() != 0) GTEST_SKIP() << "cloning a mount takes root: run as root";
  keeper::Request request;
  *request.mutable_clone_read_only() = Wanted(directory_ + "/objects");
  const Result<KeeperAnswer> answer = Call(std::move(request), {});
  ASSERT_TRUE(answer.has_value());
  ASSERT_EQ(answer->reply.error(), 0) << answer->reply.message();
  ASSERT_EQ(answer->descriptors.size(), 1U);
  const int clone = answer->descriptors.front().get();
  const UniqueFd readable(::openat(clone, "ab/file", O_RDONLY | O_CLOEXEC));
  EXPECT_TRUE(readable.valid());
  EXPECT_EQ(::openat(clone, "ab/file", O_RDWR | O_CLOEXEC), -1);
  EXPECT_EQ(errno, EROFS);
  EXPECT_EQ(::openat(clone, "ab/new", O_WRONLY | O_CREAT | O_CLOEXEC, 0600), -1);
  EXPECT_EQ(errno, EROFS);
}

TEST_F(KeeperServiceTest, ClonesNothingElse) {
  keeper::CloneReadOnly other = Wanted(directory_ + "/objects");
  other.set_inode(other.inode() + 1);
  EXPECT_EQ(CloneReadOnly(Wanted("/etc")).error().code(), Code::kInvalidArgument);
  if (::geteuid() == 0) {
    EXPECT_EQ(CloneReadOnly(other).error().code(), Code::kFailedPrecondition);
  }
  EXPECT_FALSE(CloneReadOnly(Wanted(directory_ + "/missing/objects")).has_value());
}

TEST_F(KeeperServiceTest, RegistersOnlyWhatIsOpenForReading) {
  const std::string path = directory_ + "/objects/ab/file";
  const UniqueFd writable(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  const UniqueFd readable(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(Register(0, 10, writable.get()).error(), EINVAL);
  EXPECT_EQ(Register(kMaxBackings, 10, readable.get()).error(), EINVAL);
  EXPECT_EQ(Register(0, 0, readable.get()).error(), EINVAL);
  EXPECT_EQ(Register(0, 10, -1).error(), EINVAL);
  state_->backings[0].id = 7;
  EXPECT_EQ(Register(0, 10, readable.get()).error(), EINVAL) << "the record is taken";
  EXPECT_NE(Register(1, 10, readable.get()).error(), 0) << "there is no kernel behind it";
  EXPECT_EQ(state_->backings[1].id, 0);
}

TEST_F(KeeperServiceTest, AnEndedRegistrationFreesItsRecord) {
  state_->backings[3].node = 10;
  state_->backings[3].id = 9;
  keeper::Request request;
  request.mutable_backing_close()->set_record(3);
  ASSERT_TRUE(link_->Send(std::move(request), {}).has_value());
  EXPECT_TRUE(service_.Serve(keeper_.get()));
  EXPECT_EQ(state_->backings[3].node, 0U);
  EXPECT_EQ(state_->backings[3].id, 0);
  EXPECT_FALSE((*link_->Receive()).has_value()) << "no answer";
}

TEST_F(KeeperServiceTest, SaysWhyAMountIsNeverSealed) {
  keeper::Request request;
  request.mutable_show_view()->set_view(7);
  const auto refused = Call(std::move(request), {});
  ASSERT_TRUE(refused.has_value());
  EXPECT_NE(refused->reply.error(), 0);
  EXPECT_EQ(refused->reply.message(), "no views for this mount");
  keeper::Request withdraw;
  withdraw.mutable_withdraw_view();
  const auto nothing = Call(std::move(withdraw), {});
  ASSERT_TRUE(nothing.has_value());
  EXPECT_EQ(nothing->reply.error(), 0) << "nothing is shown";
}

TEST_F(KeeperServiceTest, AViewIsRememberedForEveryServer) {
  uint32_t turn = 0;
  ASSERT_TRUE(LastView(*state_, &turn).has_value());
  RememberView(*state_, {.shown = 5, .failed = 6, .reason = "caf\xc3\xa9 " + std::string(500, 'x')});
  uint32_t next = 0;
  const auto view = LastView(*state_, &next);
  ASSERT_TRUE(view.has_value());
  EXPECT_NE(next, turn);
  EXPECT_EQ(view->shown, 5U);
  EXPECT_EQ(view->failed, 6U);
  EXPECT_TRUE(view->reason.starts_with("caf?? xxx"));
  EXPECT_EQ(view->reason.size(), 255U);
}

TEST_F(KeeperServiceTest, AForgedMessageEndsTheLink) {
  ASSERT_TRUE(ring::Send(link_->fd(), "\xff\xff\xff", {}).has_value());
  EXPECT_FALSE(service_.Serve(keeper_.get()));
  keeper::Request nothing;
  EXPECT_NE(Call(std::move(nothing), {})->reply.error(), 0);
}

TEST_F(KeeperServiceTest, TheServersEndClosedIsTheEnd) {
  link_.reset();
  EXPECT_FALSE(service_.Serve(keeper_.get()));
}

}  // namespace
}  // namespace mlcache::shim
