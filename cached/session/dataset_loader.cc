#include "cached/session/dataset_loader.h"

#include <glog/logging.h>
#include <pthread.h>

#include <utility>

#include "cached/session/walk.h"

namespace mlcache::session {
namespace {

class Counter final : public TreeVisitor {
 public:
  explicit Counter(size_t max_entries) : max_entries_(max_entries) {}

  bool VisitFile(const std::string& /*path*/, const store::ObjectInfo& /*info*/) override {
    return ++files + directories < max_entries_;
  }
  void VisitDirectory(const std::string& /*path*/) override { ++directories; }
  void VisitFailure(const std::string& path, const Error& error) override {
    ++failures;
    LOG_EVERY_T(WARNING, 10) << "loading metadata ahead: " << path << ": " << error;
  }

  size_t files = 0;
  size_t directories = 0;
  size_t failures = 0;

 private:
  const size_t max_entries_;
};

}  // namespace

DatasetLoader::DatasetLoader(std::shared_ptr<Volume> volume, std::string path, const DatasetLoaderOptions& options)
    : volume_(std::move(volume)), path_(std::move(path)), options_(options) {
  thread_ = std::jthread([this](const std::stop_token& stop) { Load(stop); });
  pthread_setname_np(thread_.native_handle(), "dataset-loader");
}

DatasetLoader::~DatasetLoader() = default;

void DatasetLoader::Load(const std::stop_token& stop) const {
  const std::string name = volume_->url().Canonical() + (path_.empty() ? "" : ", /" + path_);
  const Nanos begin = SystemClock().Now();
  Counter counter(options_.max_entries);
  const WalkOptions walk{.max_age = options_.max_age,
                         .request_timeout = options_.request_timeout,
                         .priority = store::Priority::kWarmup,
                         .stop = stop,
                         .listings_at_once = options_.listings_at_once};
  const bool complete = Walk(*volume_, path_, walk, SystemClock(), counter);
  if (stop.stop_requested()) return;
  LOG(INFO) << name << ": metadata of " << counter.files << " files in " << counter.directories
            << " directories loaded ahead in " << std::chrono::duration<double>(SystemClock().Now() - begin).count()
            << " s";
  LOG_IF(WARNING, !complete) << name << ": more than " << options_.max_entries
                             << " names, the rest is looked up when it is asked for: raise --max_cached_entries, or "
                                "name a smaller ml.datasetPath";
  LOG_IF(WARNING, counter.failures > 0) << name << ": " << counter.failures << " directories could not be listed";
}

}  // namespace mlcache::session
