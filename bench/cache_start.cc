// How long a cache takes to start over many objects: cache_start [DIRECTORY] [OBJECTS]. Fills them first (in a new
// directory below DIRECTORY, removed at the end), then opens the cache again and prints what that took.
#include <glog/logging.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "cached/cache/open_cache.h"
#include "cached/metrics/metrics.h"

namespace mlcache::cache {
namespace {

double SecondsSince(Nanos start) { return std::chrono::duration<double>(SystemClock().Now() - start).count(); }

uint64_t ResidentKiB() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmRSS:")) return std::strtoull(line.c_str() + sizeof("VmRSS:"), nullptr, 10);
  }
  return 0;
}

OpenedCache Open(const std::string& directory, Metrics& metrics) {
  auto opened = OpenCache({.tiers = {{directory, 4 * kGiB}}, .free_space_floor_bytes = 0}, SystemClock(), metrics);
  CHECK(opened.has_value()) << opened.error();
  return std::move(*opened);
}

ObjectKey KeyOf(int number) {
  return {.store = "s3://bucket/imagenet?endpoint=http://127.0.0.1:9000",
          .path = "train/n0" + std::to_string(number % 1000) + "/image_" + std::to_string(number) + ".jpeg",
          .version = "\"d41d8cd98f00b204e9800998ecf8427e\"",
          .size = 4096};
}

int Main(const std::string& parent, int objects) {
  std::string directory = parent + "/cache-start-XXXXXX";
  CHECK(::mkdtemp(directory.data()) != nullptr) << directory;
  const std::vector<std::byte> bytes(4096);
  {
    Metrics metrics;
    const OpenedCache opened = Open(directory, metrics);
    const Nanos start = SystemClock().Now();
    for (int i = 0; i < objects; ++i) {
      const auto object = opened.cache->Acquire(KeyOf(i)).value();
      const auto room = object->Reserve({0, bytes.size()}, {}).value();
      const Status filled = object->Fill(*room, 0, bytes);
      CHECK(filled.has_value()) << filled.error();
    }
    const Status flushed = opened.cache->Flush();
    CHECK(flushed.has_value()) << flushed.error();
    std::cout << "filled and committed " << objects << " objects in " << SecondsSince(start) << " s\n";
  }
  const uint64_t resident_before = ResidentKiB();
  {
    Metrics metrics;
    const Nanos start = SystemClock().Now();
    const OpenedCache opened = Open(directory, metrics);
    std::cout << "opened " << opened.cache->Tiers().front().objects << " objects in " << SecondsSince(start)
              << " s; resident memory " << resident_before << " KiB before, " << ResidentKiB() << " KiB after\n";
  }
  std::filesystem::remove_all(directory);
  return 0;
}

}  // namespace
}  // namespace mlcache::cache

int main(int argc, char** argv) {
  google::InitGoogleLogging(argv[0]);
  constexpr int kObjects = 100'000;
  return mlcache::cache::Main(argc > 1 ? argv[1] : "/tmp", argc > 2 ? std::atoi(argv[2]) : kObjects);
}
