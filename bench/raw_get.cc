// mlcache-raw-get URL BYTES THREADS [PIECE_BYTES]: the raw limit that cold reads are held against. Fetches BYTES of URL
// by parallel ranged GETs on kept-alive connections, throws the bytes away, prints one JSON line.
#include <curl/curl.h>
#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

namespace {

size_t Discard(char* /*bytes*/, size_t size, size_t count, void* total) {
  *static_cast<uint64_t*>(total) += size * count;
  return size * count;
}

// Takes pieces of [0, bytes) until none is left; the bytes received, or 0 after an error.
uint64_t FetchPieces(const std::string& url, uint64_t bytes, uint64_t piece, std::atomic<uint64_t>& next) {
  CURL* curl = curl_easy_init();
  if (curl == nullptr) return 0;
  uint64_t received = 0;
  curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_FAILONERROR, 1L);
  curl_easy_setopt(curl, CURLOPT_BUFFERSIZE, 512L * 1024);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, Discard);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &received);
  for (uint64_t at = next.fetch_add(piece); at < bytes; at = next.fetch_add(piece)) {
    const std::string range = std::to_string(at) + "-" + std::to_string(std::min(at + piece, bytes) - 1);
    curl_easy_setopt(curl, CURLOPT_RANGE, range.c_str());
    if (curl_easy_perform(curl) != CURLE_OK) {
      received = 0;
      break;
    }
  }
  curl_easy_cleanup(curl);
  return received;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: mlcache-raw-get URL BYTES THREADS [PIECE_BYTES]\n");
    return 2;
  }
  const std::string url = argv[1];
  const uint64_t bytes = std::strtoull(argv[2], nullptr, 10);
  const auto threads = std::strtoul(argv[3], nullptr, 10);
  const uint64_t piece = argc > 4 ? std::strtoull(argv[4], nullptr, 10) : uint64_t{4} << 20;
  if (bytes == 0 || threads == 0 || piece == 0 || curl_global_init(CURL_GLOBAL_ALL) != CURLE_OK) return 2;

  std::atomic<uint64_t> next = 0;
  std::atomic<uint64_t> received = 0;
  const auto start = std::chrono::steady_clock::now();
  {
    std::vector<std::jthread> workers;
    workers.reserve(threads);
    for (unsigned long i = 0; i < threads; ++i) {
      workers.emplace_back([&] { received += FetchPieces(url, bytes, piece, next); });
    }
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const double cpu = static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                     static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
  std::printf("{\"bytes\": %llu, \"threads\": %lu, \"seconds\": %.4f, \"bytes_per_s\": %.0f, \"cpu_seconds\": %.3f}\n",
              static_cast<unsigned long long>(received.load()), threads, seconds,
              static_cast<double>(received.load()) / seconds, cpu);
  return received == bytes ? 0 : 1;
}
