#include "common/executor.h"

#include <pthread.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace mlcache {
namespace {

class ThreadPool final : public Executor {
 public:
  ThreadPool(const std::string& name, size_t threads, size_t queue_limit) : queue_limit_(queue_limit) {
    threads_.reserve(threads);
    for (size_t i = 0; i < threads; ++i) {
      threads_.emplace_back([this] { Run(); });
      pthread_setname_np(threads_.back().native_handle(), name.substr(0, 15).c_str());
    }
  }

  ~ThreadPool() override {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
  }

  bool Submit(std::move_only_function<void()> task) override {
    {
      std::lock_guard lock(mutex_);
      if (stopping_ || queue_.size() >= queue_limit_) return false;
      queue_.push_back(std::move(task));
    }
    wake_.notify_one();
    return true;
  }

 private:
  void Run() {
    while (true) {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      if (queue_.empty()) return;
      std::move_only_function<void()> task = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      task();
    }
  }

  const size_t queue_limit_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::move_only_function<void()>> queue_;  // guarded by mutex_
  bool stopping_ = false;                              // guarded by mutex_
  std::vector<std::jthread> threads_;                  // last: joined before the members above go
};

}  // namespace

std::unique_ptr<Executor> MakeThreadPool(const std::string& name, size_t threads, size_t queue_limit) {
  return std::make_unique<ThreadPool>(name, threads, queue_limit);
}

}  // namespace mlcache
