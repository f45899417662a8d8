// mlcache-raw-list THREADS < URLS: the raw limit that cold reads of many objects are held against. Fetches every URL
// (one a line) by GETs on kept-alive connections, throws the bytes away, prints one JSON line.
#include <curl/curl.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

namespace {

size_t Discard(char* /*bytes*/, size_t size, size_t count, void* total) {
  *static_cast<uint64_t*>(total) += size * count;
  return size * count;
}

void Fetch(const std::vector<std::string>& urls, std::atomic<size_t>& next, std::atomic<uint64_t>& bytes,
           std::atomic<bool>& failed) {
  CURL* curl = curl_easy_init();
  if (curl == nullptr) std::abort();
  uint64_t received = 0;
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_FAILONERROR, 1L);
  curl_easy_setopt(curl, CURLOPT_BUFFERSIZE, 512L * 1024);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, Discard);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &received);
  for (size_t i = next++; i < urls.size(); i = next++) {
    curl_easy_setopt(curl, CURLOPT_URL, urls[i].c_str());
    if (curl_easy_perform(curl) != CURLE_OK) failed = true;
  }
  curl_easy_cleanup(curl);
  bytes += received;
}

}  // namespace

int main(int argc, char** argv) {
  const unsigned long threads = argc == 2 ? std::strtoul(argv[1], nullptr, 10) : 0;
  if (threads == 0 || curl_global_init(CURL_GLOBAL_ALL) != CURLE_OK) {
    std::fprintf(stderr, "usage: mlcache-raw-list THREADS < URLS\n");
    return 2;
  }
  std::vector<std::string> urls;
  for (std::string url; std::getline(std::cin, url);) urls.push_back(url);
  std::atomic<size_t> next = 0;
  std::atomic<uint64_t> bytes = 0;
  std::atomic<bool> failed = false;
  const auto start = std::chrono::steady_clock::now();
  {
    std::vector<std::jthread> fetchers;
    for (unsigned long i = 0; i < threads; ++i) fetchers.emplace_back([&] { Fetch(urls, next, bytes, failed); });
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::printf("{\"seconds\": %.6f, \"bytes\": %llu}\n", seconds, static_cast<unsigned long long>(bytes.load()));
  return failed ? 1 : 0;
}
