#include "shim/mount_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mlcache::shim {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

MountOptions Parsed(std::string_view list) {
  MountOptions options;
  const Status status = ParseMountOptions(list, &options);
  EXPECT_TRUE(status.has_value()) << status.error();
  return options;
}

std::string Complaint(std::string_view list) {
  MountOptions options;
  const Status status = ParseMountOptions(list, &options);
  EXPECT_FALSE(status.has_value()) << list;
  if (status.has_value()) return "";
  EXPECT_EQ(status.error().code(), Code::kInvalidArgument);
  return status.error().message();
}

TEST(MountOptionsTest, DefaultsHold) {
  const MountOptions options = Parsed("");
  EXPECT_TRUE(options.read_only);
  EXPECT_FALSE(options.asked_for_writing);
  EXPECT_FALSE(options.allow_other);
  EXPECT_EQ(options.open_mode, "auto");
  EXPECT_EQ(options.EffectiveAttrTtl(), std::chrono::seconds(10));
  EXPECT_TRUE(options.ml_optimization);
  EXPECT_EQ(options.ml_prefetch_workers, 8U);
  EXPECT_FALSE(options.ml_training_mode);
  EXPECT_EQ(options.io_timeout, std::chrono::seconds(600));
}

TEST(MountOptionsTest, EveryOptionOfTheDesign) {
  const MountOptions options = Parsed(
      "ro,allow_other,open_mode=noopen,seal=off,uid=1000,gid=100,umask=027,attr_ttl=1m,immutable,durability=local,"
      "io_timeout=0,job=train-7,credential=team,scratch=/tmp/s,ml.optimization,ml.prefetchWorkers=3,ml.cacheSize=1GB,"
      "ml.trainingMode,ml.datasetPath=/datasets,socket_dir=/run/other,noexec");
  EXPECT_TRUE(options.allow_other);
  EXPECT_EQ(options.open_mode, "noopen");
  EXPECT_EQ(options.seal, "off");
  EXPECT_EQ(options.uid, 1000U);
  EXPECT_EQ(options.gid, 100U);
  EXPECT_EQ(options.umask, 027U);
  EXPECT_EQ(options.EffectiveAttrTtl(), std::chrono::seconds(60));
  EXPECT_TRUE(options.immutable);
  EXPECT_EQ(options.durability, "local");
  EXPECT_EQ(options.io_timeout, Nanos{0});
  EXPECT_EQ(options.job, "train-7");
  EXPECT_EQ(options.credential, "team");
  EXPECT_EQ(options.scratch, "/tmp/s");
  EXPECT_TRUE(options.ml_optimization);
  EXPECT_EQ(options.ml_prefetch_workers, 3U);
  EXPECT_EQ(options.ml_cache_size_bytes, 1'000'000'000U);
  EXPECT_TRUE(options.ml_training_mode);
  EXPECT_EQ(options.ml_dataset_path, "/datasets");
  EXPECT_EQ(options.socket_dir, "/run/other");
  EXPECT_TRUE(options.no_exec);
}

TEST(MountOptionsTest, LaterOnesWin) {
  EXPECT_FALSE(Parsed("rw,ro").asked_for_writing);
  EXPECT_TRUE(Parsed("ro,rw").asked_for_writing);
  EXPECT_EQ(Parsed("job=a,job=b").job, "b");
  EXPECT_FALSE(Parsed("immutable,immutable=false").immutable);
  EXPECT_FALSE(Parsed("ml.optimization,ml.optimization=false").ml_optimization);
}

TEST(MountOptionsTest, OptimizationIsTurnedOffAndOn) {
  for (const char* const off : {"false", "off", "0"}) {
    EXPECT_FALSE(Parsed(std::string("ml.optimization=") + off).ml_optimization) << off;
  }
  for (const char* const on : {"true", "on", "1"}) {
    EXPECT_TRUE(Parsed(std::string("ml.optimization=false,ml.optimization=") + on).ml_optimization) << on;
  }
  EXPECT_THAT(Complaint("ml.optimization=image"), HasSubstr("true or false"));
}

TEST(MountOptionsTest, PrefetchWorkersAreBounded) {
  EXPECT_EQ(Parsed("ml.prefetchWorkers=0").ml_prefetch_workers, 0U);
  EXPECT_EQ(Parsed("ml.prefetchWorkers=1024").ml_prefetch_workers, 1024U);
  EXPECT_THAT(Complaint("ml.prefetchWorkers=1025"), HasSubstr("from 0 to 1024"));
  EXPECT_THAT(Complaint("ml.prefetchWorkers=-1"), HasSubstr("from 0 to 1024"));
}

TEST(MountOptionsTest, TrainingModeMakesMetadataLastUnlessItsAgeIsGiven) {
  EXPECT_EQ(Parsed("ml.trainingMode").EffectiveAttrTtl(), std::chrono::minutes(10));
  EXPECT_FALSE(Parsed("ml.trainingMode").immutable);
  EXPECT_EQ(Parsed("ml.trainingMode=false").EffectiveAttrTtl(), std::chrono::seconds(10));
  EXPECT_EQ(Parsed("ml.trainingMode,attr_ttl=10s").EffectiveAttrTtl(), std::chrono::seconds(10));
  EXPECT_EQ(Parsed("attr_ttl=1h,ml.trainingMode").EffectiveAttrTtl(), std::chrono::hours(1));
}

TEST(MountOptionsTest, GenericOnesMeanNothing) {
  const MountOptions options =
      Parsed("defaults,noauto,_netdev,nofail,x-systemd.automount,x-gvfs-show,user,users,nosuid,nodev,relatime");
  EXPECT_TRUE(options.read_only);
}

TEST(MountOptionsTest, ACommaInAValueIsEscaped) { EXPECT_EQ(Parsed("job=a\\,b\\\\c,ro").job, "a,b\\c"); }

TEST(MountOptionsTest, UnknownOnesNameTheNearest) {
  EXPECT_THAT(Complaint("allow_othr"), HasSubstr("'allow_othr'; the nearest known one is 'allow_other'"));
  EXPECT_THAT(Complaint("ml.prefetchworkers=8"), HasSubstr("'ml.prefetchWorkers'"));
  EXPECT_THAT(Complaint("suid"), HasSubstr("nosuid"));
  MountOptions options;
  std::vector<std::string> ignored;
  EXPECT_TRUE(ParseMountOptions("ro,bogus=1,job=j", &options, &ignored).has_value());
  EXPECT_THAT(ignored, ElementsAre("bogus"));
  EXPECT_EQ(options.job, "j");
}

TEST(MountOptionsTest, BadValuesNameTheOption) {
  EXPECT_THAT(Complaint("open_mode=fast"), HasSubstr("auto, passthrough, noopen, cached"));
  EXPECT_THAT(Complaint("seal"), HasSubstr("seal"));
  EXPECT_THAT(Complaint("uid=joe"), HasSubstr("numeric"));
  EXPECT_THAT(Complaint("uid=4294967295"), HasSubstr("uid"));
  EXPECT_THAT(Complaint("gid=-1"), HasSubstr("gid"));
  EXPECT_THAT(Complaint("umask=999"), HasSubstr("octal"));
  EXPECT_THAT(Complaint("umask=1777"), HasSubstr("octal"));
  EXPECT_THAT(Complaint("io_timeout=soon"), HasSubstr("io_timeout"));
  EXPECT_THAT(Complaint("attr_ttl"), HasSubstr("attr_ttl"));
  EXPECT_THAT(Complaint("ml.cacheSize=lots"), HasSubstr("ml.cacheSize"));
  EXPECT_THAT(Complaint("ml.prefetchWorkers=8x"), HasSubstr("ml.prefetchWorkers"));
  EXPECT_THAT(Complaint("ml.trainingMode=perhaps"), HasSubstr("true or false"));
  EXPECT_THAT(Complaint("job="), HasSubstr("job=VALUE"));
  EXPECT_THAT(Complaint("allow_other=yes"), HasSubstr("no value"));
}

}  // namespace
}  // namespace mlcache::shim
