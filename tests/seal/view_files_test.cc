// The files of a view over a real cache: made, seen to be in use, found again, removed.
#include "cached/seal/view_files.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/view_layout.h"
#include "tests/cache/cache_world.h"

namespace mlcache::seal {
namespace {

using cache::CacheWorld;
using cache::FillRange;
using cache::KeyOf;
using cache::TempDirectory;

constexpr uint64_t kSize = 200'000;
constexpr uint64_t kId = 0xabcdef;

class ViewFilesTest : public ::testing::Test {
 protected:
  ViewFilesTest() : world_(directory_.path()), tiers_({directory_.path()}) {
    for (const char* name : {"a", "b"}) {
      const cache::ObjectKey key = KeyOf(name, kSize);
      EXPECT_TRUE(FillRange(*world_.Get(key), 0, kSize).has_value());
    }
    EXPECT_TRUE(world_.cache().Flush().has_value());
  }

  std::unique_ptr<ViewFiles> Make() {
    auto made = ViewFiles::Create(world_.links(), tiers_, kId);
    EXPECT_TRUE(made.has_value());
    ErofsImage image({.permissions = 0755}, false);
    const auto tree = image.AddDirectory(ErofsImage::kRoot, kViewTree, {.permissions = 0755}, true);
    for (const char* name : {"a", "b"}) {
      const auto place = (*made)->Add(KeyOf(name, kSize));
      EXPECT_TRUE(place.has_value()) << place.error();
      image.AddFile(tree, name, {.size = kSize}, *place);
    }
    EXPECT_TRUE((*made)->Finish(image).has_value());
    return *std::move(made);
  }

  std::string Views() const { return directory_.path() + "/views"; }
  uint64_t Used() { return world_.cache().Tiers().front().used_bytes; }

  TempDirectory directory_;
  CacheWorld world_;
  std::vector<std::string> tiers_;
};

TEST_F(ViewFilesTest, EverythingIsPrivateAndOfferedOnce) {
  const auto view = Make();
  const auto layers = view->Layers();
  ASSERT_TRUE(layers.has_value());
  ASSERT_EQ(layers->size(), 1U);
  struct stat info{};
  ASSERT_EQ(::fstat(layers->front().directory.get(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700U);
  struct stat by_path{};
  ASSERT_EQ(::stat(layers->front().path.c_str(), &by_path), 0);
  EXPECT_EQ(by_path.st_ino, info.st_ino);
  size_t links = 0;
  for (const auto& entry : std::filesystem::directory_iterator(layers->front().path + "/" + kViewObjects)) {
    EXPECT_EQ(entry.hard_link_count(), 2U);
    ++links;
  }
  EXPECT_EQ(links, 2U);
  view->Remove();
  EXPECT_FALSE(std::filesystem::exists(Views()));
}

TEST_F(ViewFilesTest, InUseAsLongAsAnybodyHasTheImageOpen) {
  const auto view = Make();
  EXPECT_FALSE(view->InUse());
  auto image = view->OpenImage();
  ASSERT_TRUE(image.has_value());
  EXPECT_TRUE(view->InUse());
  {
    const UniqueFd copy(::fcntl(image->get(), F_DUPFD_CLOEXEC, 3));
    image->Reset();
    EXPECT_TRUE(view->InUse());
  }
  EXPECT_FALSE(view->InUse());
  EXPECT_FALSE(view->InUse()) << "asking leaves no lease behind";
  view->Remove();
}

TEST_F(ViewFilesTest, InUseWhenItCannotBeTold) {
  const auto view = Make();
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{.rlim_cur = 0, .rlim_max = before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  const bool in_use = view->InUse();
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_TRUE(in_use);
  EXPECT_FALSE(view->InUse());
  view->Remove();
  EXPECT_FALSE(view->InUse()) << "without an image there is nobody";
}

TEST_F(ViewFilesTest, ImageAndLinksCountAndAreGivenBack) {
  const uint64_t before = Used();
  const auto view = Make();
  EXPECT_GT(Used(), before);
  view->Remove();
  EXPECT_LE(Used(), before + 64 * kKiB);
  EXPECT_EQ(world_.cache().Evict(KeyOf("a", kSize)), kSize);
  EXPECT_LT(Used(), before) << "no pin is left";
}

TEST_F(ViewFilesTest, TheNextRunFindsThem) {
  Make().reset();
  world_.Reopen();
  auto views = ViewFiles::Load(world_.links(), tiers_);
  ASSERT_EQ(views.size(), 1U);
  EXPECT_EQ(views.front()->id(), kId);
  EXPECT_EQ(views.front()->links(), 2U);
  EXPECT_FALSE(views.front()->InUse());
  const uint64_t used = Used();
  world_.cache().Evict(KeyOf("a", kSize));
  EXPECT_GE(Used() + 4 * kKiB, used) << "pinned again";
  views.front()->Remove();
  EXPECT_LT(Used() + kSize / 2, used);
  EXPECT_FALSE(std::filesystem::exists(Views()));
}

TEST_F(ViewFilesTest, WhatIsNotCompleteCannotBeAdded) {
  auto view = ViewFiles::Create(world_.links(), tiers_, kId);
  ASSERT_TRUE(view.has_value());
  EXPECT_EQ((*view)->Add(KeyOf("never", kSize)).error().code(), Code::kNotFound);
  (*view)->Remove();
  EXPECT_FALSE(std::filesystem::exists(Views()));
}

}  // namespace
}  // namespace mlcache::seal
