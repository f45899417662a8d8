// mlcache-bench-reader OPERATION READERS BLOCK_BYTES COUNT PATH: reads PATH as fast as it can from READERS processes
// and prints one JSON line: what was read, in how long, by how much processor time of the readers.
//   sequential  the file PATH, COUNT times: each reader its part of it, in reads of BLOCK_BYTES
//   random      COUNT preads of BLOCK_BYTES of the file PATH by each reader, at random multiples of BLOCK_BYTES
//   mmap        as sequential, through a mapping of which every word is added up ("sum", the same for the same bytes)
//   files       every file below PATH, COUNT times, dealt out in one shuffled order: open, read, close
// Processes and not threads, as jobs and their workers are: threads would share a table of descriptors and its lock.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace {

struct Work {
  std::string operation;
  unsigned readers = 1;
  uint64_t block_bytes = 0;
  uint64_t count = 0;
  std::string path;
  std::vector<std::string> files;  // of "files", in the order of reading
  uint64_t file_bytes = 0;         // of the others
};

// What one reader did; lives in memory that all of them share.
struct Tally {
  uint64_t bytes = 0;
  uint64_t operations = 0;
  uint64_t sum = 0;
};

[[noreturn]] void Fail(const std::string& what) {
  std::fprintf(stderr, "mlcache-bench-reader: %s: %s\n", what.c_str(), std::strerror(errno));
  std::_Exit(1);
}

int OpenOrFail(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) Fail(path);
  return fd;
}

// The part [first, last) of the file that is reader `index`'s, in whole blocks.
std::pair<uint64_t, uint64_t> Share(const Work& work, unsigned index) {
  const uint64_t blocks = (work.file_bytes + work.block_bytes - 1) / work.block_bytes;
  const auto edge = [&](uint64_t at) {
    return std::min(blocks * at / work.readers * work.block_bytes, work.file_bytes);
  };
  return {edge(index), edge(index + uint64_t{1})};
}

void ReadSequential(const Work& work, unsigned index, Tally& tally) {
  const auto [first, last] = Share(work, index);
  std::vector<char> buffer(work.block_bytes);
  const int fd = OpenOrFail(work.path);
  for (uint64_t pass = 0; pass < work.count; ++pass) {
    for (uint64_t at = first; at < last;) {
      const ssize_t got = pread(fd, buffer.data(), std::min(work.block_bytes, last - at), static_cast<off_t>(at));
      if (got <= 0) Fail(work.path);
      at += static_cast<uint64_t>(got);
      tally.bytes += static_cast<uint64_t>(got);
      ++tally.operations;
    }
  }
  close(fd);
}

void ReadRandom(const Work& work, unsigned index, Tally& tally) {
  std::mt19937_64 random(index);
  std::vector<char> buffer(work.block_bytes);
  const uint64_t blocks = work.file_bytes / work.block_bytes;
  const int fd = OpenOrFail(work.path);
  for (uint64_t i = 0; i < work.count; ++i) {
    const uint64_t at = random() % blocks * work.block_bytes;
    const ssize_t got = pread(fd, buffer.data(), work.block_bytes, static_cast<off_t>(at));
    if (got != static_cast<ssize_t>(work.block_bytes)) Fail(work.path);
    tally.bytes += work.block_bytes;
    ++tally.operations;
  }
  close(fd);
}

void ReadMapped(const Work& work, unsigned index, Tally& tally) {
  const auto [first, last] = Share(work, index);
  const int fd = OpenOrFail(work.path);
  void* mapping = mmap(nullptr, work.file_bytes, PROT_READ, MAP_SHARED, fd, 0);
  if (mapping == MAP_FAILED) Fail(work.path);
  close(fd);
  for (uint64_t pass = 0; pass < work.count; ++pass) {
    const auto* words = static_cast<const uint64_t*>(mapping) + first / sizeof(uint64_t);
    for (const uint64_t word : std::span(words, (last - first) / sizeof(uint64_t))) tally.sum += word;
    tally.bytes += last - first;
    ++tally.operations;
  }
  munmap(mapping, work.file_bytes);
}

void ReadFiles(const Work& work, unsigned index, Tally& tally) {
  std::vector<char> buffer(work.block_bytes);
  for (uint64_t pass = 0; pass < work.count; ++pass) {
    for (size_t i = index; i < work.files.size(); i += work.readers) {
      const int fd = OpenOrFail(work.files[i]);
      ssize_t got = 0;
      while ((got = read(fd, buffer.data(), buffer.size())) > 0) tally.bytes += static_cast<uint64_t>(got);
      if (got < 0) Fail(work.files[i]);
      close(fd);
      ++tally.operations;
    }
  }
}

using Reader = void (*)(const Work&, unsigned, Tally&);

Reader FindReader(std::string_view operation) {
  if (operation == "sequential") return ReadSequential;
  if (operation == "random") return ReadRandom;
  if (operation == "mmap") return ReadMapped;
  if (operation == "files") return ReadFiles;
  return nullptr;
}

// Looks at PATH before the clock starts: the list of files, or the size of the one file.
void Prepare(Work& work) {
  if (work.operation == "files") {
    std::error_code error;
    std::filesystem::recursive_directory_iterator entry(work.path, error);
    for (; !error && entry != std::filesystem::recursive_directory_iterator(); entry.increment(error)) {
      if (entry->path().filename() == ".mlcache") {
        entry.disable_recursion_pending();
      } else if (entry->is_regular_file(error)) {
        work.files.push_back(entry->path());
      }
    }
    if (error || work.files.empty()) {
      std::fprintf(stderr, "mlcache-bench-reader: no files below %s\n", work.path.c_str());
      std::exit(1);
    }
    std::ranges::sort(work.files);
    std::ranges::shuffle(work.files, std::mt19937_64(1));
    return;
  }
  struct stat info{};
  if (stat(work.path.c_str(), &info) != 0) Fail(work.path);
  work.file_bytes = static_cast<uint64_t>(info.st_size);
  if (work.file_bytes < work.block_bytes || work.block_bytes % sizeof(uint64_t) != 0) {
    std::fprintf(stderr, "mlcache-bench-reader: %s is smaller than a block, or a block is no multiple of 8 bytes\n",
                 work.path.c_str());
    std::exit(2);
  }
}

// Forks the readers, lets all go at once, and waits for them; the seconds between.
double RunReaders(const Work& work, Reader reader, std::span<Tally> tallies) {
  int gate[2];
  if (pipe(gate) != 0) Fail("pipe");
  std::vector<pid_t> children;
  for (unsigned index = 0; index < work.readers; ++index) {
    const pid_t child = fork();
    if (child < 0) Fail("fork");
    if (child == 0) {
      close(gate[1]);
      char nothing = 0;
      if (read(gate[0], &nothing, 1) != 0) Fail("pipe");  // ends when the parent closes its end
      reader(work, index, tallies[index]);
      std::_Exit(0);
    }
    children.push_back(child);
  }
  const auto start = std::chrono::steady_clock::now();
  close(gate[1]);
  bool ok = true;
  for (const pid_t child : children) {
    int status = 0;
    ok = waitpid(child, &status, 0) == child && status == 0 && ok;
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  close(gate[0]);
  if (!ok) std::exit(1);  // the reader has said why
  return seconds;
}

double ChildrenCpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_CHILDREN, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

}  // namespace

int main(int argc, char** argv) {
  Work work;
  if (argc == 6) {
    work = {.operation = argv[1],
            .readers = static_cast<unsigned>(std::strtoul(argv[2], nullptr, 10)),
            .block_bytes = std::strtoull(argv[3], nullptr, 10),
            .count = std::strtoull(argv[4], nullptr, 10),
            .path = argv[5],
            .files = {}};
  }
  const Reader reader = FindReader(work.operation);
  if (reader == nullptr || work.readers == 0 || work.block_bytes == 0 || work.count == 0) {
    std::fprintf(stderr, "usage: mlcache-bench-reader sequential|random|mmap|files READERS BLOCK_BYTES COUNT PATH\n");
    return 2;
  }
  Prepare(work);
  const size_t tally_bytes = work.readers * sizeof(Tally);
  void* memory = mmap(nullptr, tally_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) Fail("mmap");
  const std::span<Tally> tallies(static_cast<Tally*>(memory), work.readers);

  const double seconds = RunReaders(work, reader, tallies);
  Tally all;
  for (const Tally& tally : tallies) {
    all.bytes += tally.bytes;
    all.operations += tally.operations;
    all.sum += tally.sum;
  }
  std::printf("{\"bytes\": %llu, \"operations\": %llu, \"sum\": %llu, \"seconds\": %.6f, \"cpu_seconds\": %.6f}\n",
              static_cast<unsigned long long>(all.bytes), static_cast<unsigned long long>(all.operations),
              static_cast<unsigned long long>(all.sum), seconds, ChildrenCpuSeconds());
  munmap(memory, tally_bytes);
  return 0;
}
