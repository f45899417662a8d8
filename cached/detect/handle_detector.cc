#include <algorithm>
#include <array>
#include <cstddef>
#include <vector>

#include "cached/detect/pattern_detector.h"

namespace mlcache::detect {
namespace {

constexpr uint64_t kLeastGap = 128 << 10;
constexpr size_t kMaxHoles = 16;
constexpr double kConfidenceStep = 0.2;

class HandleDetector final : public PatternDetector {
 public:
  explicit HandleDetector(const DetectorOptions& options) : options_(options) {}

  void OnRead(uint64_t offset, uint64_t length) override {
    if (length == 0) return;
    const Pattern seen =
        reads_ == 0 ? (offset == 0 ? Pattern::kSequential : Pattern::kUnknown) : Classify(offset, length);
    const int64_t delta = static_cast<int64_t>(offset - last_offset_);
    Follow(seen, offset, length);
    Conclude(seen);
    conclusion_.agrees = seen == conclusion_.pattern;
    // A change of stride is no change of pattern.
    if (seen == Pattern::kStrided && conclusion_.pattern == Pattern::kStrided) conclusion_.stride = delta;
    last_delta_ = delta;
    last_offset_ = offset;
    ++reads_;
  }

  Conclusion Current() const override {
    Conclusion conclusion = conclusion_;
    const bool runs = conclusion.pattern == Pattern::kSequential || conclusion.pattern == Pattern::kStrided ||
                      conclusion.pattern == Pattern::kReverse;
    // One read is no run: a header looked at must not cost a window.
    conclusion.predictable = runs && reads_ > 1;
    return conclusion;
  }

 private:
  struct Hole {
    uint64_t begin;
    uint64_t end;
  };

  uint64_t Gap(uint64_t length) const { return std::min(options_.gap_bytes, std::max(kLeastGap, 4 * length)); }

  // A read begins where `front` is, or a small gap behind it.
  bool Continues(uint64_t front, uint64_t offset, uint64_t length) const {
    return offset >= front && offset - front <= Gap(length);
  }

  // What this one read looks like after those before it.
  Pattern Classify(uint64_t offset, uint64_t length) {
    const auto delta = static_cast<int64_t>(offset - last_offset_);
    const auto size = static_cast<int64_t>(length);
    if (offset == front_) return Pattern::kSequential;
    if (delta == last_delta_ && (delta > size || delta < -size)) return Pattern::kStrided;
    if (Continues(front_, offset, length) || Continues(jump_front_, offset, length)) return Pattern::kSequential;
    // A read that was overtaken by its successors fills the hole they left; the front reached or passed it already.
    if (offset < front_ && offset + length > front_) return Pattern::kSequential;
    for (const Hole& hole : holes_) {
      if (offset >= hole.begin && offset < hole.end) return Pattern::kSequential;
    }
    if (delta < 0 && offset + length <= last_offset_ && last_offset_ - (offset + length) <= Gap(length)) {
      return Pattern::kReverse;
    }
    return Pattern::kRandom;
  }

  // Moves the front. A single far jump is remembered beside it, so that the run may go on from either.
  void Follow(Pattern seen, uint64_t offset, uint64_t length) {
    const uint64_t end = offset + length;
    if (seen == Pattern::kSequential) {
      if (offset > front_ && !Continues(front_, offset, length)) {
        if (Continues(jump_front_, offset, length)) {
          front_ = end;
          holes_.clear();
        }
      } else if (offset >= front_) {
        if (offset > front_) holes_.push_back({front_, offset});
        front_ = end;
      } else if (Continues(jump_front_, offset, length)) {
        front_ = end;
        holes_.clear();
      } else {
        std::erase_if(holes_, [&](const Hole& hole) { return offset <= hole.begin && end >= hole.end; });
        front_ = std::max(front_, end);
      }
      if (holes_.size() > kMaxHoles) holes_.erase(holes_.begin());
      return;
    }
    if (conclusion_.pattern != Pattern::kSequential) {
      front_ = end;
      holes_.clear();
    }
    jump_front_ = end;
  }

  void Conclude(Pattern seen) {
    if (seen == conclusion_.pattern) {
      against_ = 0;
      conclusion_.confidence = std::min(1.0, conclusion_.confidence + kConfidenceStep);
      return;
    }
    if (seen == Pattern::kUnknown) return;
    votes_[against_ % votes_.size()] = seen;
    ++against_;
    conclusion_.confidence = std::max(0.0, conclusion_.confidence - kConfidenceStep);
    // Out of nothing two reads that agree are enough (an equal stride already is three reads); one from offset 0 is.
    const bool from_nothing = conclusion_.pattern == Pattern::kUnknown;
    const bool at_once = reads_ == 0 || (from_nothing && seen != Pattern::kRandom);
    if (!at_once && against_ < options_.turn_after) return;
    conclusion_.pattern = at_once ? seen : Majority();
    conclusion_.confidence = 0.5;
    conclusion_.stride = 0;
    against_ = 0;
  }

  // What most of the reads against the old conclusion looked like; reads that do not agree are random.
  Pattern Majority() const {
    std::array<int, 5> counts{};
    const int votes = std::min(against_, static_cast<int>(votes_.size()));
    for (int i = 0; i < votes; ++i) ++counts[static_cast<size_t>(votes_[static_cast<size_t>(i)])];
    const auto most = std::max_element(counts.begin(), counts.end());
    return *most * 2 > votes ? static_cast<Pattern>(most - counts.begin()) : Pattern::kRandom;
  }

  const DetectorOptions options_;
  Conclusion conclusion_;
  uint64_t reads_ = 0;
  uint64_t last_offset_ = 0;
  int64_t last_delta_ = 0;
  uint64_t front_ = 0;       // where the run goes on
  uint64_t jump_front_ = 0;  // where the last read outside the run ended
  std::vector<Hole> holes_;  // skipped lately
  int against_ = 0;
  std::array<Pattern, 8> votes_{};
};

}  // namespace

std::string_view PatternName(Pattern pattern) {
  switch (pattern) {
    case Pattern::kUnknown:
      return "unknown";
    case Pattern::kSequential:
      return "sequential";
    case Pattern::kStrided:
      return "strided";
    case Pattern::kReverse:
      return "reverse";
    case Pattern::kRandom:
      return "random";
  }
  return "unknown";
}

std::unique_ptr<PatternDetector> MakeHandleDetector(const DetectorOptions& options) {
  return std::make_unique<HandleDetector>(options);
}

}  // namespace mlcache::detect
