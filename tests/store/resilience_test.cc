// What keeps a slow, overloaded or dead store from doing harm: gate, window, breaker, latency estimate and hedges.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "cached/metrics/metrics.h"
#include "cached/store/breaker_store.h"
#include "cached/store/hedge_store.h"
#include "cached/store/latency_estimate.h"
#include "cached/store/request_gate.h"
#include "cached/store/store_resources.h"
#include "cached/store/window_store.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/fake_object_store.h"

namespace mlcache::store {
namespace {

using mlcache::testing::FakeClock;
using mlcache::testing::FakeObjectStore;
using Op = FakeObjectStore::Op;
using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::string kContent = "0123456789abcdefghijklmnopqrstuvwxyz";
const CallContext kDemand{.priority = Priority::kDemand};
const CallContext kWarmup{.priority = Priority::kWarmup};

TEST(RequestGate, TheMostUrgentWaiterIsNext) {
  RequestGate gate(1);
  std::optional<RequestGate::Permit> inside = *gate.Enter(kWarmup, "first");
  std::mutex mutex;
  std::vector<std::string> order;
  std::vector<std::jthread> threads;
  const auto enter = [&](const CallContext& context, const std::string& name) {
    const size_t before = gate.waiting();
    threads.emplace_back([&, name] {
      const Result<RequestGate::Permit> permit = gate.Enter(context, name);
      EXPECT_TRUE(permit);
      const std::lock_guard lock(mutex);
      order.push_back(name);
    });
    while (gate.waiting() == before) std::this_thread::yield();
  };
  enter(kWarmup, "warm-up 1");
  enter(kWarmup, "warm-up 2");
  enter(kDemand, "demand");
  inside.reset();
  threads.clear();
  EXPECT_THAT(order, ElementsAre("demand", "warm-up 1", "warm-up 2"));
}

TEST(RequestGate, AWaitEndsWithStopAndDeadline) {
  RequestGate gate(1);
  const Result<RequestGate::Permit> inside = gate.Enter({}, "first");
  std::stop_source stop;
  stop.request_stop();
  EXPECT_EQ(gate.Enter({.stop = stop.get_token()}, "x").error().code(), Code::kCancelled);
  EXPECT_EQ(gate.Enter({.deadline = SystemClock().Now() + milliseconds(5)}, "x").error().code(),
            Code::kDeadlineExceeded);
  EXPECT_EQ(gate.waiting(), 0U);
  gate.SetLimit(2);
  EXPECT_TRUE(gate.Enter({}, "x"));
}

class BreakerTest : public ::testing::Test {
 protected:
  BreakerTest() { fake_->Put("file", kContent); }

  Code Stat(Nanos later = milliseconds(300)) {
    clock_.Advance(later);
    const Result<ObjectInfo> info = store_.Stat("file", {});
    return info ? Code{0} : info.error().code();
  }
  void Fail(int times, Code code = Code::kUnavailable) {
    for (int i = 0; i < times; ++i) fake_->FailNext(Op::kStat, {code, "connection refused"});
  }
  double Open() { return metrics_.store_circuit_open.Add({{"store", "s3://b"}}).Value(); }

  std::shared_ptr<FakeObjectStore> fake_ = std::make_shared<FakeObjectStore>();
  FakeClock clock_;
  Metrics metrics_;
  std::shared_ptr<CircuitBreaker> breaker_ =
      std::make_shared<CircuitBreaker>(BreakerOptions{}, "s3://b", metrics_, clock_, 1);
  BreakerStore store_{fake_, breaker_};
};

TEST_F(BreakerTest, ADeadStoreIsNotAskedAndIsFoundAliveByOneProbe) {
  Fail(6);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(Stat(), Code::kUnavailable);
  EXPECT_EQ(Open(), 1);
  EXPECT_EQ(fake_->stats(), 5U);
  const Result<ObjectInfo> refused = store_.Stat("file", {});
  EXPECT_EQ(refused.error().code(), Code::kUnavailable);
  EXPECT_THAT(refused.error().message(),
              HasSubstr("s3://b: the store has not answered for 1.2 s and is asked again in"));
  EXPECT_THAT(refused.error().message(), HasSubstr("connection refused"));
  EXPECT_EQ(store_.List("", "", {}).error().code(), Code::kUnavailable);
  EXPECT_EQ(fake_->stats(), 5U);
  EXPECT_EQ(fake_->lists(), 0U) << "refused without a request";

  EXPECT_EQ(Stat(milliseconds(750)), Code::kUnavailable);  // the probe; the pause doubles
  EXPECT_EQ(fake_->stats(), 6U);
  EXPECT_EQ(Stat(milliseconds(999)), Code::kUnavailable);
  EXPECT_EQ(fake_->stats(), 6U);
  EXPECT_EQ(Stat(milliseconds(501)), Code{0});
  EXPECT_EQ(Open(), 0);
  EXPECT_EQ(Stat(Nanos(0)), Code{0});
}

TEST_F(BreakerTest, OneProbeAtATimeAndNoLongerThanFiveSecondsBetween) {
  for (int i = 0; i < 5; ++i) {
    clock_.Advance(milliseconds(300));
    breaker_->Report(*breaker_->Admit(), CircuitBreaker::Outcome::kFailed, "dead");
  }
  for (int round = 0; round < 6; ++round) {
    clock_.Advance(milliseconds(7500));
    const Result<CircuitBreaker::Pass> probe = breaker_->Admit();
    ASSERT_TRUE(probe) << round;
    EXPECT_EQ(*probe, CircuitBreaker::Pass::kProbe);
    EXPECT_FALSE(breaker_->Admit()) << "a second one while the probe is out";
    breaker_->Report(*probe, CircuitBreaker::Outcome::kFailed, "dead");
    EXPECT_FALSE(breaker_->Admit());
  }
  clock_.Advance(milliseconds(7500));
  const Result<CircuitBreaker::Pass> called_off = breaker_->Admit();
  breaker_->Report(*called_off, CircuitBreaker::Outcome::kUndecided, "");
  EXPECT_TRUE(breaker_->Admit()) << "a probe that was called off gives its turn to the next call";
}

TEST_F(BreakerTest, WhoAnswersIsAlive) {
  Fail(4);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(Stat(), Code::kUnavailable);
  Fail(1, Code::kNotFound);
  EXPECT_EQ(Stat(), Code::kNotFound);
  Fail(4);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(Stat(), Code::kUnavailable);
  EXPECT_EQ(Stat(), Code{0});
  // A burst that is over within a second is no death.
  Fail(20);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(Stat(milliseconds(10)), Code::kUnavailable);
  EXPECT_EQ(Open(), 0);
  EXPECT_EQ(Stat(), Code{0});
  // A read that broke off brought bytes.
  const ByteSink sink = [](std::span<const std::byte>) -> Status { return {}; };
  for (int i = 0; i < 10; ++i) {
    clock_.Advance(seconds(1));
    fake_->FailNext(Op::kRead, {Code::kUnavailable, "reset"}, 5);
    EXPECT_FALSE(store_.ReadRange(fake_->Ref("file"), 0, 36, sink, {}));
  }
  EXPECT_EQ(Open(), 0);
}

TEST_F(BreakerTest, TheGaugeOfABreakerThatIsGoneIsZero) {
  StoreResources resources({}, metrics_, clock_);
  auto store = resources.For("s3://b", {});
  for (int i = 0; i < 5; ++i) {
    clock_.Advance(milliseconds(300));
    store->breaker.Report(*store->breaker.Admit(), CircuitBreaker::Outcome::kFailed, "dead");
  }
  EXPECT_EQ(Open(), 1);
  store.reset();
  EXPECT_EQ(Open(), 0);
}

class WindowTest : public BreakerTest {
 protected:
  std::shared_ptr<CongestionWindow> window_ =
      std::make_shared<CongestionWindow>(WindowOptions{.initial = 16, .max = 64}, clock_);
  WindowStore windowed_{fake_, window_, clock_};
};

TEST_F(WindowTest, GrowsWhileItIsFullAndIsHalvedByRefusals) {
  // So many calls are under way; then `successes` of them are answered.
  const auto run = [&](size_t under_way, int successes) {
    std::vector<RequestGate::Permit> permits;
    for (size_t i = 0; i < under_way; ++i) permits.push_back(*window_->Enter({}, "call"));
    for (int i = 0; i < successes; ++i) window_->Succeeded();
  };
  const auto refuse = [&](size_t under_way) {
    std::vector<RequestGate::Permit> permits;
    for (size_t i = 0; i < under_way; ++i) permits.push_back(*window_->Enter({}, "call"));
    clock_.Advance(seconds(1));
    window_->Refused(clock_.Now());
    window_->Refused(clock_.Now() - milliseconds(1));  // sent before the halving
  };
  run(15, 100);
  EXPECT_EQ(window_->size(), 16U) << "not full";
  for (int i = 0; i < 20; ++i) run(window_->size(), 1);
  EXPECT_EQ(window_->size(), 36U) << "slow start";
  refuse(36);
  EXPECT_EQ(window_->size(), 18U);
  run(18, 17);
  EXPECT_EQ(window_->size(), 18U);
  run(18, 2);
  EXPECT_EQ(window_->size(), 19U) << "one for a window's worth";
  refuse(8);
  EXPECT_EQ(window_->size(), 4U) << "half of what was under way";
  for (int i = 0; i < 5; ++i) refuse(1);
  EXPECT_EQ(window_->size(), 1U);
  for (int i = 0; i < 10'000; ++i) run(window_->size(), 1);
  EXPECT_EQ(window_->size(), 64U);
}

TEST_F(WindowTest, OnlyRefusalsCountAgainstAStore) {
  clock_.Advance(seconds(1));
  Fail(1, Code::kNotFound);
  EXPECT_FALSE(windowed_.Stat("file", {}));
  EXPECT_EQ(window_->size(), 16U);
  Fail(1);
  EXPECT_FALSE(windowed_.Stat("file", {}));
  EXPECT_EQ(window_->size(), 1U);
  EXPECT_TRUE(windowed_.Stat("file", {}));
  EXPECT_TRUE(windowed_.List("", "", {}));
  const ByteSink sink = [](std::span<const std::byte>) -> Status { return {}; };
  EXPECT_TRUE(windowed_.ReadRange(fake_->Ref("file"), 0, 36, sink, {}));
  EXPECT_EQ(window_->size(), 2U);
}

TEST(LatencyEstimate, TheNinetyNinthPercentileOfEachSize) {
  LatencyEstimate latency;
  for (int i = 0; i < 99; ++i) latency.Add(1 << 20, milliseconds(20));
  EXPECT_FALSE(latency.P99(1 << 20)) << "too few";
  for (int i = 0; i < 901; ++i) latency.Add(1 << 20, milliseconds(20));
  ASSERT_TRUE(latency.P99(1 << 20));
  EXPECT_GE(*latency.P99(1 << 20), milliseconds(20));
  EXPECT_LE(*latency.P99(1 << 20), milliseconds(26));
  for (int i = 0; i < 30; ++i) latency.Add(1 << 20, seconds(2));
  EXPECT_GE(*latency.P99(1 << 20), seconds(2));
  EXPECT_FALSE(latency.P99(4 << 10)) << "another class of size";
  for (int i = 0; i < 10000; ++i) latency.Add(1 << 20, milliseconds(1));
  EXPECT_LE(*latency.P99(1 << 20), milliseconds(2)) << "old times fade";
}

// Runs tasks when the test says so.
class StepExecutor : public Executor {
 public:
  bool Submit(std::move_only_function<void()> task) override {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
    return true;
  }
  size_t RunAll() {
    std::deque<std::move_only_function<void()>> tasks;
    {
      const std::lock_guard lock(mutex_);
      tasks.swap(tasks_);
    }
    for (auto& task : tasks) task();
    return tasks.size();
  }

 private:
  std::mutex mutex_;
  std::deque<std::move_only_function<void()>> tasks_;
};

// Chosen reads deliver `prefix` bytes and then stand still until they are called off or let go.
class StragglingStore : public ForwardingStore {
 public:
  explicit StragglingStore(std::shared_ptr<ObjectStore> inner) : ForwardingStore(std::move(inner)) {}

  void Straggle(size_t reads, uint64_t prefix) {
    const std::lock_guard lock(mutex_);
    straggle_ = reads;
    prefix_ = prefix;
  }
  void WaitFor(size_t stragglers) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return waiting_ == stragglers; });
  }
  // The straggler that came at place `index` goes on.
  void LetGo(size_t index) {
    const std::lock_guard lock(mutex_);
    let_go_.insert(index);
    changed_.notify_all();
  }
  void set_pins_version(bool pins) { pins_ = pins; }
  bool PinsVersion() const override { return pins_; }

  Status ReadRange(const ObjectRef& ref, uint64_t offset, uint64_t length, const ByteSink& sink,
                   const CallContext& context) override {
    std::unique_lock lock(mutex_);
    if (straggle_ == 0) {
      lock.unlock();
      return inner_->ReadRange(ref, offset, length, sink, context);
    }
    --straggle_;
    const size_t index = came_++;
    const uint64_t prefix = std::min(prefix_, length);
    lock.unlock();
    if (prefix > 0) MLCACHE_RETURN_IF_ERROR(inner_->ReadRange(ref, offset, prefix, sink, context));
    lock.lock();
    ++waiting_;
    changed_.notify_all();
    const bool go = changed_.wait(lock, context.stop, [&] { return let_go_.contains(index); });
    --waiting_;
    changed_.notify_all();
    lock.unlock();
    if (!go) return Fail(Code::kCancelled, "called off");
    return inner_->ReadRange(ref, offset + prefix, length - prefix, sink, context);
  }

 private:
  std::mutex mutex_;
  std::condition_variable_any changed_;
  size_t straggle_ = 0;
  size_t came_ = 0;
  size_t waiting_ = 0;
  uint64_t prefix_ = 0;
  std::set<size_t> let_go_;
  std::atomic<bool> pins_ = true;
};

class HedgeTest : public ::testing::Test {
 protected:
  HedgeTest() { fake_->Put("file", kContent); }

  Status Read(ObjectStore& store, std::string& got, const CallContext& context = {}) {
    const ByteSink sink = [&](std::span<const std::byte> piece) -> Status {
      got.append(reinterpret_cast<const char*>(piece.data()), piece.size());
      return {};
    };
    return store.ReadRange(fake_->Ref("file"), 0, kContent.size(), sink, context);
  }
  void Train(int reads = 100) {
    for (int i = 0; i < reads; ++i) {
      std::string got;
      ASSERT_TRUE(Read(store_, got));
    }
  }
  // Reads on another thread.
  std::jthread Start(const CallContext& context = {}) {
    return std::jthread([this, context] { status_ = Read(store_, got_, context); });
  }
  double Hedges() { return metrics_.store_hedges.Add({{"store", "s"}}).Value(); }
  double HedgedBytes() { return metrics_.store_hedged_bytes.Add({{"store", "s"}}).Value(); }

  std::shared_ptr<FakeObjectStore> fake_ = std::make_shared<FakeObjectStore>();
  std::shared_ptr<StragglingStore> slow_ = std::make_shared<StragglingStore>(fake_);
  FakeClock clock_;
  Metrics metrics_;
  std::shared_ptr<StepExecutor> executor_ = std::make_shared<StepExecutor>();
  HedgeStore store_{slow_, {.own_timer = false}, "s", metrics_, clock_, executor_};
  Status status_;
  std::string got_;
};

TEST_F(HedgeTest, AStragglerIsAskedForAgainAboveTheMeasuredP99) {
  Train();
  slow_->Straggle(1, 5);
  std::jthread reader = Start();
  slow_->WaitFor(1);
  EXPECT_EQ(store_.HedgeOverdue() - clock_.Now(), milliseconds(10));
  clock_.Advance(milliseconds(9));
  store_.HedgeOverdue();
  EXPECT_EQ(executor_->RunAll(), 0U) << "not overdue yet";
  clock_.Advance(milliseconds(1));
  EXPECT_EQ(store_.HedgeOverdue(), Nanos::max());
  EXPECT_EQ(executor_->RunAll(), 1U);
  reader.join();  // the first request was called off
  ASSERT_TRUE(status_) << status_.error();
  EXPECT_EQ(got_, kContent) << "every byte once, in order";
  EXPECT_EQ(Hedges(), 1);
  EXPECT_EQ(HedgedBytes(), 0) << "the second request asked only for what was missing";
  EXPECT_EQ(fake_->read_log().back().offset, 5U);
}

TEST_F(HedgeTest, TheSecondRequestIsCalledOffWhenTheFirstOneWins) {
  Train();
  slow_->Straggle(2, 10);
  std::jthread reader = Start();
  slow_->WaitFor(1);
  clock_.Advance(seconds(1));
  store_.HedgeOverdue();
  std::jthread second([&] { executor_->RunAll(); });
  slow_->WaitFor(2);
  slow_->LetGo(0);
  reader.join();
  second.join();
  ASSERT_TRUE(status_) << status_.error();
  EXPECT_EQ(got_, kContent);
  EXPECT_EQ(HedgedBytes(), 10) << "what the loser had brought";
}

TEST_F(HedgeTest, NotBeforeEnoughWasMeasuredAndNotForMoreThanTheShare) {
  Train(99);
  slow_->Straggle(1, 0);
  std::jthread unknown = Start();
  slow_->WaitFor(1);
  EXPECT_EQ(store_.HedgeOverdue(), Nanos::max());
  slow_->LetGo(0);
  unknown.join();
  for (int i = 1; i <= 2; ++i) {
    got_.clear();
    slow_->Straggle(1, 0);
    std::jthread reader = Start();
    slow_->WaitFor(1);
    clock_.Advance(seconds(1));
    store_.HedgeOverdue();
    EXPECT_EQ(executor_->RunAll(), i == 1 ? 1U : 0U) << "two of a hundred, and the first one free";
    if (i == 2) slow_->LetGo(2);
    reader.join();
    EXPECT_EQ(got_, kContent);
  }
  Train(50);
  slow_->Straggle(1, 0);
  got_.clear();
  std::jthread reader = Start();
  slow_->WaitFor(1);
  clock_.Advance(seconds(10));
  store_.HedgeOverdue();
  EXPECT_EQ(executor_->RunAll(), 1U) << "fifty reads have earned another";
  reader.join();
  EXPECT_EQ(got_, kContent);
}

TEST_F(HedgeTest, AFailedSecondRequestLeavesTheFirstAlone) {
  Train();
  slow_->Straggle(1, 4);
  std::jthread reader = Start();
  slow_->WaitFor(1);
  clock_.Advance(seconds(1));
  store_.HedgeOverdue();
  fake_->FailNext(Op::kRead, {Code::kUnavailable, "busy"}, 7);
  executor_->RunAll();
  slow_->LetGo(0);
  reader.join();
  ASSERT_TRUE(status_);
  EXPECT_EQ(got_, kContent);
  EXPECT_EQ(HedgedBytes(), 7);
}

TEST_F(HedgeTest, VersionsAreNeverMixed) {
  Train();
  slow_->set_pins_version(false);
  slow_->Straggle(1, 4);
  std::jthread reader = Start();
  slow_->WaitFor(1);
  clock_.Advance(seconds(1));
  store_.HedgeOverdue();
  EXPECT_EQ(executor_->RunAll(), 0U) << "bytes of an unproven version have been delivered";
  slow_->LetGo(0);
  reader.join();
  slow_->set_pins_version(true);
  got_.clear();
  Train(50);
  slow_->Straggle(1, 4);
  std::jthread changed = Start();
  slow_->WaitFor(1);
  clock_.Advance(seconds(1));
  store_.HedgeOverdue();
  fake_->Put("file", std::string(36, 'x'));
  executor_->RunAll();  // fails: the version is gone
  slow_->LetGo(1);
  changed.join();
  EXPECT_EQ(status_.error().code(), Code::kFailedPrecondition);
  EXPECT_EQ(got_, kContent.substr(0, 4));
}

TEST_F(HedgeTest, AStopEndsBoth) {
  Train();
  std::stop_source stop;
  slow_->Straggle(2, 3);
  std::jthread reader = Start({.stop = stop.get_token()});
  slow_->WaitFor(1);
  clock_.Advance(seconds(1));
  store_.HedgeOverdue();
  std::jthread second([&] { executor_->RunAll(); });
  slow_->WaitFor(2);
  stop.request_stop();
  reader.join();
  second.join();
  EXPECT_EQ(status_.error().code(), Code::kCancelled);
}

TEST_F(HedgeTest, TheTimerOfAStoreDoesItByItself) {
  HedgeStore store(slow_, {}, "s", metrics_, SystemClock(), MakeThreadPool("hedge", 1, 4));
  for (int i = 0; i < 100; ++i) {
    std::string got;
    ASSERT_TRUE(Read(store, got));
  }
  slow_->Straggle(1, 3);
  std::string got;
  ASSERT_TRUE(Read(store, got));  // hangs for ever unless it is asked for again
  EXPECT_EQ(got, kContent);
  EXPECT_EQ(Hedges(), 1);
}

TEST(StoreResources, ViewsOfOneStoreShareItsLimits) {
  Metrics metrics;
  StoreResources resources({.max_connections = 2, .hedge_workers = 1}, metrics, SystemClock());
  const auto first = resources.For("s3://a", {.requests_per_second = 5});
  EXPECT_EQ(first, resources.For("s3://a", {.requests_per_second = 5}));
  EXPECT_NE(first, resources.For("s3://b", {.requests_per_second = 5}));
  EXPECT_NE(first, resources.For("s3://a", {}));
  EXPECT_EQ(first->rates.requests.Charge(5), Nanos(0));
  EXPECT_GT(first->rates.requests.Charge(1), Nanos(0));
}

}  // namespace
}  // namespace mlcache::store
