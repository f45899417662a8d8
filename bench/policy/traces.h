// Reads of jobs over datasets, made up or recorded, to drive eviction policies with. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cached/cache/eviction_policy.h"
#include "common/status.h"

namespace mlcache::bench {

struct Read {
  uint32_t item = 0;
  uint16_t reader = 0;  // from 1
  uint16_t folder = 0;
};

struct Trace {
  std::string name;
  std::vector<uint32_t> item_bytes;
  std::vector<Read> reads;
  uint64_t TotalBytes() const;
};

enum class Sampling : uint8_t {
  kShuffled,     // each epoch a fresh permutation
  kSequential,   // each epoch the same order
  kReplacement,  // uniform draws
  kZipf,         // draws with exponent 1
  kTruncated,    // of each permutation the first half
  kOnce,         // one pass in order, then done
};

struct Job {
  uint32_t first = 0;  // its items
  uint32_t count = 0;
  double rate = 1;   // beside the others'
  double start = 0;  // parts of the trace
  double stop = 1;
  Sampling sampling = Sampling::kShuffled;
  uint32_t repeat = 1;  // reads of each item, a few reads apart (a loader that opens twice, ranks that read the same)
  uint16_t folder = 0;
  uint16_t reader = 0;  // 0: its own; jobs with the same one are ranks or phases of one job
  double phase = -1;    // part of the first epoch that is behind it; -1: random
};

// `reads` reads of `items` items, those of the jobs interleaved by their rates.
Trace MakeTrace(const std::string& name, uint32_t items, const std::vector<Job>& jobs, uint64_t reads, uint64_t seed);

// `jobs` of equal speed over all items, unsynchronised.
Trace EpochTrace(uint32_t jobs, uint32_t items, uint32_t epochs, uint64_t seed);

// The workloads that the guards are for; each with `items` items in all.
std::vector<Trace> HardTraces(uint32_t items, uint64_t seed);

// "READER FOLDER ITEM BYTES" a line (names of any kind), # begins a comment.
Result<Trace> LoadTrace(const std::string& path);

cache::EvictionUnit UnitOf(uint32_t item);
cache::AccessHints HintsOf(const Read& read);

}  // namespace mlcache::bench
