// Retry, throttle, meter and faults, over the fake store and a clock held by the test.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "cached/metrics/metrics.h"
#include "cached/store/call.h"
#include "cached/store/fault_store.h"
#include "cached/store/metered_store.h"
#include "cached/store/open_store.h"
#include "cached/store/retry_store.h"
#include "cached/store/throttle_store.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/fake_object_store.h"
#include "tests/store/backend.h"

namespace mlcache::store {
namespace {

using mlcache::testing::FakeClock;
using mlcache::testing::FakeObjectStore;
using Op = FakeObjectStore::Op;
using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;

const std::string kContent = "0123456789abcdefghijklmnopqrstuvwxyz";

class DecoratorTest : public ::testing::Test {
 protected:
  DecoratorTest() { fake_->Put("file", kContent); }

  // Stands in for store::Pause: takes no time but the fake clock's, and keeps the record.
  PauseFunction Pauses() {
    return [this](Nanos duration, const CallContext& context) -> Status {
      if (context.stop.stop_requested()) return Fail(Code::kCancelled, "called off");
      pauses_.push_back(duration);
      clock_.Advance(duration);
      return {};
    };
  }

  Status Read(ObjectStore& store, uint64_t offset = 0, uint64_t length = 36, const CallContext& context = {}) {
    got_.clear();
    const ByteSink sink = [&](std::span<const std::byte> piece) -> Status {
      got_.append(reinterpret_cast<const char*>(piece.data()), piece.size());
      return {};
    };
    return store.ReadRange(fake_->Ref("file"), offset, length, sink, context);
  }

  RetryStore Retrying(const RetryOptions& options = {}) { return {fake_, options, "label", metrics_, Pauses(), 42}; }
  double Retries(const std::string& op) { return metrics_.store_retries.Add({{"store", "label"}, {"op", op}}).Value(); }
  double Wasted() { return metrics_.store_wasted_bytes.Add({{"store", "label"}}).Value(); }

  std::shared_ptr<FakeObjectStore> fake_ = std::make_shared<FakeObjectStore>();
  FakeClock clock_;
  Metrics metrics_;
  std::vector<Nanos> pauses_;
  std::string got_;
};

using RetryTest = DecoratorTest;
using ThrottleTest = DecoratorTest;
using MeteredTest = DecoratorTest;
using FaultTest = DecoratorTest;
using OpenStoreTest = DecoratorTest;

TEST_F(RetryTest, TransientErrorsAreTriedAgain) {
  RetryStore store = Retrying();
  fake_->FailNext(Op::kStat, {Code::kUnavailable, "busy"});
  fake_->FailNext(Op::kStat, {Code::kDataLoss, "cut"});
  EXPECT_TRUE(store.Stat("file", {}));
  fake_->FailNext(Op::kList, {Code::kUnavailable, "busy"});
  EXPECT_TRUE(store.List("", "", {}));
  EXPECT_TRUE(store.Capacity({}));
  EXPECT_EQ(fake_->stats(), 3U);
  EXPECT_EQ(Retries("stat"), 2);
  EXPECT_EQ(Retries("list"), 1);
  ASSERT_EQ(pauses_.size(), 3U);
  EXPECT_LE(pauses_[0], milliseconds(50));
  EXPECT_LE(pauses_[1], milliseconds(100));
  EXPECT_LE(pauses_[2], milliseconds(50));
}

TEST_F(RetryTest, OtherErrorsAreFinal) {
  RetryStore store = Retrying();
  for (const Code code : {Code::kNotFound, Code::kPermissionDenied, Code::kFailedPrecondition, Code::kCancelled,
                          Code::kDeadlineExceeded, Code::kUnauthenticated, Code::kInvalidArgument}) {
    fake_->FailNext(Op::kStat, {code, "final"});
    EXPECT_EQ(store.Stat("file", {}).error().code(), code);
    fake_->FailNext(Op::kRead, {code, "final"}, 5);
    EXPECT_EQ(Read(store).error().code(), code);
  }
  EXPECT_TRUE(pauses_.empty());
  EXPECT_EQ(Wasted(), 5.0 * 7);
}

TEST_F(RetryTest, AttemptsEndAndTheLastErrorIsTold) {
  RetryStore store = Retrying({.attempts = 3, .initial_backoff = seconds(1), .max_backoff = milliseconds(1500)});
  for (int i = 1; i <= 3; ++i) fake_->FailNext(Op::kStat, {Code::kUnavailable, "busy " + std::to_string(i)});
  const Result<ObjectInfo> info = store.Stat("file", {});
  ASSERT_FALSE(info);
  EXPECT_THAT(info.error().message(), HasSubstr("busy 3"));
  EXPECT_EQ(fake_->stats(), 3U);
  ASSERT_EQ(pauses_.size(), 2U);
  EXPECT_LE(pauses_[1], milliseconds(1500));
}

TEST_F(RetryTest, AReadGoesOnWhereItBrokeOff) {
  fake_->set_piece_bytes(4);
  RetryStore store = Retrying();
  fake_->FailNext(Op::kRead, {Code::kUnavailable, "reset"}, 10);
  fake_->FailNext(Op::kRead, {Code::kDataLoss, "short"}, 0);
  fake_->FailNext(Op::kRead, {Code::kUnavailable, "reset"}, 7);
  ASSERT_TRUE(Read(store, 2, 30));
  EXPECT_EQ(got_, kContent.substr(2, 30)) << "every byte once";
  const std::vector<FakeObjectStore::Read> log = fake_->read_log();
  ASSERT_EQ(log.size(), 4U);
  EXPECT_EQ(log[1].offset, 12U);
  EXPECT_EQ(log[1].length, 20U);
  EXPECT_EQ(log[3].offset, 19U);
  EXPECT_EQ(log[3].length, 13U);
  EXPECT_EQ(fake_->read_bytes(), 30U);
  EXPECT_EQ(Retries("read"), 3);
  EXPECT_EQ(Wasted(), 0);
}

TEST_F(RetryTest, AnErrorAfterTheLastByteIsNotTurnedIntoSuccess) {
  RetryStore store = Retrying();
  fake_->FailNext(Op::kRead, {Code::kDataLoss, "checksum"}, 36);
  EXPECT_EQ(Read(store).error().code(), Code::kDataLoss);
  EXPECT_EQ(fake_->reads(), 1U);
  EXPECT_EQ(Wasted(), 36);
}

TEST_F(RetryTest, AChangeBetweenAttemptsFailsTheRead) {
  RetryStore store(
      fake_, {}, "label", metrics_,
      [&](Nanos, const CallContext&) -> Status {
        fake_->Put("file", std::string(36, 'x'));
        return {};
      },
      1);
  fake_->FailNext(Op::kRead, {Code::kUnavailable, "reset"}, 10);
  EXPECT_EQ(Read(store).error().code(), Code::kFailedPrecondition);
  EXPECT_EQ(got_, kContent.substr(0, 10));
}

TEST_F(RetryTest, TheSinksErrorIsFinal) {
  RetryStore store = Retrying();
  int calls = 0;
  const ByteSink sink = [&](std::span<const std::byte>) -> Status {
    ++calls;
    return Fail(Code::kUnavailable, "tier is full");
  };
  EXPECT_FALSE(store.ReadRange(fake_->Ref("file"), 0, 36, sink, {}));
  EXPECT_EQ(calls, 1);
}

TEST_F(RetryTest, StopAndDeadlineEndTheWaiting) {
  std::stop_source stop;
  RetryStore store = Retrying();
  fake_->FailNext(Op::kRead, {Code::kUnavailable, "busy"}, 10);
  const ByteSink stopping = [&](std::span<const std::byte>) -> Status {
    stop.request_stop();
    return {};
  };
  const CallContext stopped{.stop = stop.get_token()};
  EXPECT_EQ(store.ReadRange(fake_->Ref("file"), 0, 36, stopping, stopped).error().code(), Code::kUnavailable);
  EXPECT_TRUE(pauses_.empty());
  RetryStore with_deadline(fake_, {.initial_backoff = seconds(3600), .max_backoff = seconds(3600)}, "label", metrics_,
                           &Pause, 1);
  fake_->FailNext(Op::kStat, {Code::kUnavailable, "busy"});
  const CallContext context{.deadline = SystemClock().Now() + seconds(1)};
  EXPECT_EQ(with_deadline.Stat("file", context).error().code(), Code::kUnavailable) << "the store's error tells more";
}

TEST_F(RetryTest, TheBudgetLimitsRetriesOfAFailingStore) {
  RetryStore store = Retrying({.budget_tokens = 10});
  for (int i = 0; i < 200; ++i) fake_->FailNext(Op::kStat, {Code::kUnavailable, "down"});
  for (int i = 0; i < 50; ++i) EXPECT_FALSE(store.Stat("file", {}));
  EXPECT_EQ(Retries("stat"), 10);
  EXPECT_EQ(fake_->stats(), 60U);
}

TEST_F(ThrottleTest, RequestsAreSpacedOut) {
  ThrottleStore store(fake_, std::make_shared<RateLimits>(ThrottleOptions{.requests_per_second = 10}, clock_),
                      Pauses());
  const Nanos begin = clock_.Now();
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(store.Stat("file", {}));
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(store.List("", "", {}));
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(Read(store));
  // The first second's worth is free.
  EXPECT_NEAR(std::chrono::duration<double>(clock_.Now() - begin).count(), 3.0, 0.01);
}

TEST_F(ThrottleTest, BytesArePaidForAsTheyCome) {
  fake_->Put("file", std::string(100'000, 'x'));
  fake_->set_piece_bytes(1000);
  ThrottleStore store(fake_, std::make_shared<RateLimits>(ThrottleOptions{.bytes_per_second = 10'000}, clock_),
                      Pauses());
  const Nanos begin = clock_.Now();
  EXPECT_TRUE(Read(store, 0, 100'000));
  EXPECT_EQ(got_.size(), 100'000U);
  EXPECT_NEAR(std::chrono::duration<double>(clock_.Now() - begin).count(), 9.0, 0.01);
  EXPECT_GT(pauses_.size(), 80U) << "between the pieces, not at the end";
}

TEST_F(ThrottleTest, AWaitEndsWithStopAndDeadline) {
  ThrottleStore store(fake_, std::make_shared<RateLimits>(ThrottleOptions{.requests_per_second = 1}, SystemClock()),
                      &Pause);
  EXPECT_TRUE(store.Stat("file", {}));
  const CallContext soon{.deadline = SystemClock().Now() + milliseconds(100)};
  const Result<ObjectInfo> late = store.Stat("file", soon);
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code(), Code::kDeadlineExceeded);
  EXPECT_THAT(late.error().message(), HasSubstr("rate limit"));
  std::stop_source stop;
  stop.request_stop();
  EXPECT_EQ(store.Stat("file", {.stop = stop.get_token()}).error().code(), Code::kCancelled);
  EXPECT_EQ(fake_->stats(), 1U);
}

TEST_F(ThrottleTest, AnIdleBucketKeepsASecondsWorth) {
  TokenBucket bucket(100, clock_);
  EXPECT_EQ(bucket.Charge(100), Nanos(0));
  clock_.Advance(seconds(1000));
  EXPECT_EQ(bucket.Charge(100), Nanos(0));
  EXPECT_EQ(bucket.Charge(50), milliseconds(500));
  EXPECT_EQ(bucket.Charge(1000), milliseconds(10'500)) << "behind the one before";
  EXPECT_EQ(TokenBucket(0, clock_).Charge(1'000'000'000), Nanos(0));
}

TEST_F(MeteredTest, EveryAttemptIsCounted) {
  auto metered = std::make_shared<MeteredStore>(fake_, "label", metrics_, clock_);
  RetryStore store(metered, {}, "label", metrics_, Pauses(), 1);
  const auto requests = [&](const std::string& op, const std::string& code) {
    return metrics_.store_requests.Add({{"store", "label"}, {"op", op}, {"code", code}}).Value();
  };
  EXPECT_TRUE(store.Stat("file", {}));
  EXPECT_FALSE(store.Stat("none", {}));
  EXPECT_TRUE(store.List("", "", {}));
  fake_->FailNext(Op::kRead, {Code::kUnavailable, "busy"}, 3);
  EXPECT_TRUE(Read(store));
  EXPECT_EQ(requests("stat", "ok"), 1);
  EXPECT_EQ(requests("stat", "NOT_FOUND"), 1);
  EXPECT_EQ(requests("list", "ok"), 1);
  EXPECT_EQ(requests("read", "UNAVAILABLE"), 1);
  EXPECT_EQ(requests("read", "ok"), 1);
  EXPECT_THAT(metrics_.Json(), HasSubstr(R"("store_request_seconds")"));
  EXPECT_EQ(store.Watch("", [](const ChangeEvent&) {}, {}).error().code(), Code::kUnimplemented);
}

std::vector<FaultRule> Rules(std::string_view script) {
  const Result<std::vector<FaultRule>> rules = ParseFaultScript(script);
  EXPECT_TRUE(rules) << rules.error();
  return rules.value_or(std::vector<FaultRule>());
}

TEST_F(FaultTest, CallsFailAsTheScriptSays) {
  FaultStore store(fake_, Rules("stat:2:fail=NOT_FOUND,list:%3:fail=UNAVAILABLE,any:8+:fail=PERMISSION_DENIED"),
                   Pauses());
  EXPECT_TRUE(store.Stat("file", {}));
  EXPECT_EQ(store.Stat("file", {}).error().code(), Code::kNotFound);
  EXPECT_TRUE(store.Stat("file", {}));
  EXPECT_TRUE(store.List("", "", {}));
  EXPECT_TRUE(store.List("", "", {}));
  EXPECT_EQ(store.List("", "", {}).error().code(), Code::kUnavailable);
  EXPECT_TRUE(Read(store));
  EXPECT_EQ(store.Stat("file", {}).error().code(), Code::kPermissionDenied);
  EXPECT_EQ(Read(store).error().code(), Code::kPermissionDenied);
}

TEST_F(FaultTest, ReadsAreCutChangedAndCorrupted) {
  fake_->set_piece_bytes(5);
  FaultStore store(
      fake_, Rules("read:1:truncate=7,read:2:change=7,read:3:corrupt=7,read:4:truncate=0,read:5:corrupt=99"), Pauses());
  EXPECT_EQ(Read(store).error().code(), Code::kDataLoss);
  EXPECT_EQ(got_, kContent.substr(0, 7));
  EXPECT_EQ(Read(store).error().code(), Code::kFailedPrecondition);
  EXPECT_EQ(got_, kContent.substr(0, 7));
  EXPECT_TRUE(Read(store));
  ASSERT_EQ(got_.size(), 36U);
  EXPECT_EQ(static_cast<unsigned char>(got_[7]), static_cast<unsigned char>(~kContent[7]));
  got_[7] = kContent[7];
  EXPECT_EQ(got_, kContent);
  EXPECT_EQ(Read(store).error().code(), Code::kDataLoss);
  EXPECT_EQ(got_, "");
  EXPECT_TRUE(Read(store));
  EXPECT_EQ(got_, kContent);
  EXPECT_TRUE(Read(store));
}

TEST_F(FaultTest, DelaysAreWaits) {
  FaultStore store(fake_, Rules("any:*:delay=250ms"), Pauses());
  EXPECT_TRUE(store.Stat("file", {}));
  EXPECT_TRUE(Read(store));
  EXPECT_THAT(pauses_, ::testing::ElementsAre(milliseconds(250), milliseconds(250)));
  std::stop_source stop;
  stop.request_stop();
  EXPECT_EQ(store.Stat("file", {.stop = stop.get_token()}).error().code(), Code::kCancelled);
}

TEST_F(FaultTest, BadScriptsAreRefused) {
  for (const char* script :
       {"read", "read:1", "read:0:fail=UNAVAILABLE", "write:1:fail=UNAVAILABLE", "read:x:fail=UNKNOWN",
        "read:1:fail=NO_SUCH", "read:1:explode=1", "read:1:truncate", "read:1:truncate=x", "stat:1:corrupt=1",
        "read:1:delay=x", "read:%:fail=UNAVAILABLE", ",", "read:+:delay=1s"}) {
    const Result<std::vector<FaultRule>> rules = ParseFaultScript(script);
    ASSERT_FALSE(rules) << script;
    EXPECT_EQ(rules.error().code(), Code::kInvalidArgument);
    EXPECT_THAT(rules.error().message(), HasSubstr("OP:WHEN:ACTION"));
  }
  EXPECT_TRUE(Rules("").empty());
}

TEST_F(OpenStoreTest, StacksTheDecorators) {
  const std::unique_ptr<TempDir> directory = std::make_unique<TempDir>();
  StoreUrl url{.scheme = "file", .authority = "", .path = directory->Path().substr(1), .options = {}};
  StoreOptions options{.retry_initial_backoff = milliseconds(1), .max_requests_per_second = 1'000'000};
  // The look at the root is the first stat; it fails once and is tried again.
  options.fault_spec = "stat:1:fail=UNAVAILABLE";
  const Result<std::shared_ptr<ObjectStore>> store = OpenStore(url, options, SystemClock(), metrics_, {});
  ASSERT_TRUE(store) << store.error();
  const std::string label = url.Identity();
  EXPECT_EQ(metrics_.store_retries.Add({{"store", label}, {"op", "stat"}}).Value(), 1);
  EXPECT_EQ(metrics_.store_requests.Add({{"store", label}, {"op", "stat"}, {"code", "ok"}}).Value(), 1);
  EXPECT_EQ(metrics_.store_requests.Add({{"store", label}, {"op", "stat"}, {"code", "UNAVAILABLE"}}).Value(), 1);
  EXPECT_TRUE((*store)->Capacity({}));
  EXPECT_FALSE((*store)->Watch("", [](const ChangeEvent&) {}, {}));
}

TEST_F(OpenStoreTest, AUrlLowersTheRatesAndItsViewsShareThem) {
  const std::unique_ptr<TempDir> directory = std::make_unique<TempDir>();
  StoreUrl url{.scheme = "file", .authority = "", .path = directory->Path().substr(1), .options = {}};
  url.options["max_requests_per_second"] = "2";
  StoreOptions options{.max_requests_per_second = 1000};
  options.resources = std::make_shared<StoreResources>(ResourceOptions{}, metrics_, SystemClock());
  const Result<std::shared_ptr<ObjectStore>> one = OpenStore(url, options, SystemClock(), metrics_, {});
  const Result<std::shared_ptr<ObjectStore>> two = OpenStore(url, options, SystemClock(), metrics_, {});
  ASSERT_TRUE(one && two);
  const auto shared = options.resources->For("file://", {.requests_per_second = 2});
  EXPECT_GE(shared.use_count(), 3) << "held by both views";
  // A long way into debt: whoever comes now has to wait.
  EXPECT_GT(shared->rates.requests.Charge(1000), Nanos(0));
  for (const auto* store : {&one, &two}) {
    const Result<ObjectInfo> late = (**store)->Stat("", {.deadline = SystemClock().Now() + milliseconds(50)});
    ASSERT_FALSE(late);
    EXPECT_EQ(late.error().code(), Code::kDeadlineExceeded);
    EXPECT_THAT(late.error().message(), HasSubstr("rate limit"));
  }
}

TEST_F(OpenStoreTest, SaysWhyNot) {
  const auto error = [&](const StoreUrl& url, const StoreOptions& options) {
    const Result<std::shared_ptr<ObjectStore>> store = OpenStore(url, options, SystemClock(), metrics_, {});
    return store ? Error(Code::kUnknown, "opened") : store.error();
  };
  const StoreUrl missing{.scheme = "file", .authority = "", .path = "no/such/directory", .options = {}};
  EXPECT_EQ(error(missing, {}).code(), Code::kNotFound);
  EXPECT_EQ(error(missing, {.fault_spec = "nonsense"}).code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace mlcache::store
