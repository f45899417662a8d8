// Where work runs, as a seam: a pool of threads in the programs, a queue stepped by hand in tests.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

namespace mlcache {

class Executor {
 public:
  virtual ~Executor() = default;

  // Runs `task` later, on a thread of this executor, never inline. False (and the task untouched by any thread) once
  // the executor is shutting down or its bounded queue is full. Thread-safe.
  virtual bool Submit(std::move_only_function<void()> task) = 0;
};

// A fixed number of threads over one bounded queue. The destructor refuses new tasks, runs what was queued, joins.
// `name` (at most 15 bytes) names the threads.
std::unique_ptr<Executor> MakeThreadPool(const std::string& name, size_t threads, size_t queue_limit);

}  // namespace mlcache
