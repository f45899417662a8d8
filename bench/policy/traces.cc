#include "bench/policy/traces.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <fstream>
#include <numeric>
#include <random>
#include <sstream>
#include <unordered_map>

#include "common/hash.h"

namespace mlcache::bench {
namespace {

constexpr uint32_t kItemBytes = 4096;
constexpr uint32_t kRepeatDistance = 8;  // reads of the job between two reads of the same item

// One job's own order of reads.
class Order {
 public:
  Order(const Job& job, std::mt19937_64& random) : job_(job), random_(random) {
    items_.resize(job.count);
    std::iota(items_.begin(), items_.end(), job.first);
    if (job.sampling == Sampling::kZipf) {
      double sum = 0;
      for (uint32_t i = 0; i < job.count; ++i) weights_.push_back(sum += 1.0 / (i + 1));
    }
    Renew();
    const double phase = job.phase >= 0 ? job.phase : std::uniform_real_distribution<double>(0, 1)(random);
    const bool in_epochs = job.sampling == Sampling::kShuffled || job.sampling == Sampling::kSequential;
    if (in_epochs) at_ = static_cast<size_t>(phase * static_cast<double>(length_));
  }

  bool done() const { return job_.sampling == Sampling::kOnce && at_ >= length_ && again_.empty(); }

  uint32_t Next() {
    if (!again_.empty() && (again_.size() >= kRepeatDistance || (at_ >= length_ && job_.sampling == Sampling::kOnce))) {
      const uint32_t item = again_.front();
      again_.pop_front();
      return item;
    }
    if (at_ >= length_) Renew();
    const uint32_t item = Draw();
    for (uint32_t i = 1; i < job_.repeat; ++i) again_.push_back(item);
    return item;
  }

 private:
  void Renew() {
    at_ = 0;
    length_ = items_.size();
    if (job_.sampling == Sampling::kShuffled || job_.sampling == Sampling::kTruncated) {
      std::ranges::shuffle(items_, random_);
    }
    if (job_.sampling == Sampling::kTruncated) length_ = items_.size() / 2;
  }

  uint32_t Draw() {
    const size_t at = at_++;
    if (job_.sampling == Sampling::kReplacement) return items_[random_() % items_.size()];
    if (job_.sampling != Sampling::kZipf) return items_[at];
    const double drawn = std::uniform_real_distribution<double>(0, weights_.back())(random_);
    const auto rank = std::ranges::upper_bound(weights_, drawn) - weights_.begin();
    // Which items are hot has nothing to do with their order.
    return job_.first + static_cast<uint32_t>((static_cast<uint64_t>(rank) * 7919) % job_.count);
  }

  const Job job_;
  std::mt19937_64& random_;
  std::vector<uint32_t> items_;
  std::vector<double> weights_;
  std::deque<uint32_t> again_;
  size_t at_ = 0;
  size_t length_ = 0;
};

}  // namespace

uint64_t Trace::TotalBytes() const { return std::accumulate(item_bytes.begin(), item_bytes.end(), uint64_t{0}); }

Trace MakeTrace(const std::string& name, uint32_t items, const std::vector<Job>& jobs, uint64_t reads, uint64_t seed) {
  std::mt19937_64 random(seed);
  Trace trace{.name = name, .item_bytes = std::vector<uint32_t>(items, kItemBytes), .reads = {}};
  std::vector<Order> orders;
  orders.reserve(jobs.size());
  for (const Job& job : jobs) orders.emplace_back(job, random);
  while (trace.reads.size() < reads) {
    const double now = static_cast<double>(trace.reads.size()) / static_cast<double>(reads);
    std::vector<double> rates;
    for (size_t i = 0; i < jobs.size(); ++i) {
      rates.push_back(jobs[i].start <= now && now < jobs[i].stop && !orders[i].done() ? jobs[i].rate : 0);
    }
    if (std::accumulate(rates.begin(), rates.end(), 0.0) == 0) break;
    const auto who = std::discrete_distribution<size_t>(rates.begin(), rates.end())(random);
    const auto reader = static_cast<uint16_t>(jobs[who].reader != 0 ? jobs[who].reader : 100 + who);
    trace.reads.push_back({.item = orders[who].Next(), .reader = reader, .folder = jobs[who].folder});
  }
  return trace;
}

Trace EpochTrace(uint32_t jobs, uint32_t items, uint32_t epochs, uint64_t seed) {
  const std::vector<Job> all(jobs, Job{.first = 0, .count = items});
  return MakeTrace(std::to_string(jobs) + " jobs", items, all, uint64_t{jobs} * items * epochs, seed);
}

std::vector<Trace> HardTraces(uint32_t items, uint64_t seed) {
  const uint32_t n = items;
  const uint32_t half = n / 2;
  const uint64_t reads = uint64_t{12} * n;
  std::vector<Trace> traces;
  const auto add = [&](const char* name, const std::vector<Job>& jobs) {
    traces.push_back(MakeTrace(name, n, jobs, reads, seed));
  };
  add("speeds 1:4", {{.count = n, .rate = 1}, {.count = n, .rate = 4}});
  add("60 % overlap", {{.count = n * 4 / 5}, {.first = n / 5, .count = n - n / 5}});
  add("second starts half-way", {{.count = n}, {.count = n, .start = .5}});
  add("first stops half-way", {{.count = n, .stop = .5}, {.count = n}});
  add("4 ranks, fixed shards", {{.count = n / 4},
                                {.first = n / 4, .count = n / 4},
                                {.first = half, .count = n / 4},
                                {.first = half + n / 4, .count = n / 4}});
  add("replacement",
      {{.count = n, .sampling = Sampling::kReplacement}, {.count = n, .sampling = Sampling::kReplacement}});
  add("weighted (Zipf)", {{.count = n, .sampling = Sampling::kZipf}});
  add("truncated epochs", {{.count = n, .sampling = Sampling::kTruncated}});
  add("interleaved validation", {{.count = n - n / 10, .rate = 5, .folder = 1, .reader = 1},
                                 {.first = n - n / 10, .count = n / 10, .rate = 1, .folder = 2, .reader = 1}});
  add("double open", {{.count = n, .repeat = 2}});
  add("8 tensor-parallel ranks", {{.count = n, .repeat = 8}});
  add("restart mid-epoch",
      {{.count = n, .stop = .6, .reader = 1, .phase = 0}, {.count = n, .start = .6, .reader = 1, .phase = 0}});
  add("sweep in one mount",
      {{.count = n, .rate = 4, .reader = 1},
       {.count = n, .rate = 4, .start = .5, .stop = .9, .sampling = Sampling::kOnce, .reader = 1}});
  add("2 train, serve, scan", {{.count = half},
                               {.count = half},
                               {.first = half, .count = n / 4, .rate = 1, .sampling = Sampling::kZipf, .folder = 3},
                               {.first = half + n / 4,
                                .count = n - half - n / 4,
                                .rate = .3,
                                .start = .2,
                                .sampling = Sampling::kOnce,
                                .folder = 4}});
  return traces;
}

Result<Trace> LoadTrace(const std::string& path) {
  std::ifstream file(path);
  if (!file) return Fail(Code::kNotFound, path + ": cannot be read");
  Trace trace{.name = path, .item_bytes = {}, .reads = {}};
  std::unordered_map<std::string, uint32_t> items;
  std::unordered_map<std::string, uint16_t> readers;
  std::unordered_map<std::string, uint16_t> folders;
  size_t number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    if (line.empty() || line.starts_with('#')) continue;
    std::istringstream words(line);
    std::string reader;
    std::string folder;
    std::string item;
    uint32_t bytes = 0;
    if (!(words >> reader >> folder >> item >> bytes) || bytes == 0) {
      std::string message = path;
      message.append(": line ")
          .append(std::to_string(number))
          .append(" is not READER FOLDER ITEM BYTES: ")
          .append(line);
      return Fail(Code::kInvalidArgument, message);
    }
    const auto [known, fresh] = items.try_emplace(item, static_cast<uint32_t>(items.size()));
    if (fresh) trace.item_bytes.push_back(bytes);
    const auto who = readers.try_emplace(reader, static_cast<uint16_t>(readers.size() + 1)).first->second;
    const auto where = folders.try_emplace(folder, static_cast<uint16_t>(folders.size())).first->second;
    trace.reads.push_back({.item = known->second, .reader = who, .folder = where});
  }
  if (trace.reads.empty()) return Fail(Code::kInvalidArgument, path + ": holds no read");
  return trace;
}

cache::EvictionUnit UnitOf(uint32_t item) {
  cache::EvictionUnit unit;
  unit.object = Hash128(std::to_string(item));
  return unit;
}

cache::AccessHints HintsOf(const Read& read) {
  cache::AccessHints hints;
  hints.reader = read.reader;
  hints.dataset = 1;
  hints.folder = read.folder;
  return hints;
}

}  // namespace mlcache::bench
