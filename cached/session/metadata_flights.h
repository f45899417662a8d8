// Single flight of the metadata cache's questions: whoever asks first leads, and asks the store or the disk; the others
// wait for what that brings. A question's answer is not to be kept once something that it depends on was invalidated
// meanwhile. Private to the metadata cache, whose mutex guards all of it.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "cached/session/volume.h"
#include "cached/store/object_store.h"
#include "common/clock.h"
#include "common/status.h"

namespace mlcache::session {

// What was known of a path at a moment: that there is nothing, or what there is.
struct Known {
  bool exists = false;
  store::ObjectInfo info;
  Nanos fetched_at{};  // on Clock::Now
};

// kCancelled or kDeadlineExceeded once the context is over.
Status CheckContext(const store::CallContext& context, std::string_view path);

// What a question is about. A listing depends on the directory and on each of its names.
struct Question {
  enum class Kind : char { kStat = 'S', kLoad = 'P', kListNames = 'N', kListAttributes = 'L' };

  Kind kind = Kind::kStat;
  std::string path;

  bool DependsOn(std::string_view invalidated) const;
};

// The paths that were invalidated last, numbered.
class Invalidations {
 public:
  void Add(const std::string& path);
  uint64_t count() const { return count_; }

  // Whether one of those after the first `count` concerns the question; also where too many followed to be known.
  bool Concern(const Question& question, uint64_t count) const;

 private:
  static constexpr size_t kRemembered = 16'384;

  uint64_t count_ = 0;
  std::deque<std::string> last_;
};

class MetadataFlights {
 public:
  // One question under way. The leader fills in the answer without the mutex; nobody else looks before `done`.
  struct Flight {
    Nanos started{};
    uint64_t invalidations = 0;  // before it began
    bool done = false;
    std::optional<Error> error;
    Known known;                             // of a path
    std::shared_ptr<const Listing> listing;  // of a directory
  };
  using FlightPtr = std::shared_ptr<Flight>;

  // The flight of the question: joined, and waited for as long as the context allows (`led` false), or begun by the
  // caller, who ends it with Land.
  Result<FlightPtr> Board(std::unique_lock<std::mutex>& lock, const Question& question, Nanos now,
                          const store::CallContext& context, bool* led);
  void Land(const Question& question, const FlightPtr& flight);

  // Nobody joins the present flights that depend on the path any more; those who wait for them still get their answers.
  void Invalidate(const std::string& path);

  // Whether the answer, of a flight that began after so many invalidations, may be kept.
  bool IsCurrent(const Question& question, uint64_t invalidations) const {
    return !invalidations_.Concern(question, invalidations);
  }
  uint64_t invalidations() const { return invalidations_.count(); }

  // Whether the leader gave up for reasons of its own, so that those who waited should ask again.
  static bool IsLeadersOwn(const Error& error);

 private:
  std::condition_variable_any landed_;
  std::map<std::pair<Question::Kind, std::string>, FlightPtr> flights_;
  Invalidations invalidations_;
};

}  // namespace mlcache::session
