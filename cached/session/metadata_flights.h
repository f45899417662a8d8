// Single flight of the metadata cache's questions: whoever asks first leads, and asks the store or the disk; the others
// wait for what that brings. Private to the metadata cache, whose mutex guards all of it.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>

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

class MetadataFlights {
 public:
  // One question under way. The leader fills in the answer without the mutex; nobody else looks before `done`.
  struct Flight {
    Nanos started{};
    uint64_t epoch = 0;
    bool done = false;
    std::optional<Error> error;
    Known known;                             // of a path
    std::shared_ptr<const Listing> listing;  // of a directory
  };
  using FlightPtr = std::shared_ptr<Flight>;

  // The flight of `key` (a letter for the kind of question, then the path): joined, and waited for as long as the
  // context allows (`led` false), or begun by the caller, who ends
  // it with Land.
  Result<FlightPtr> Board(std::unique_lock<std::mutex>& lock, const std::string& key, Nanos now, uint64_t epoch,
                          const store::CallContext& context, bool* led);
  void Land(const std::string& key, const FlightPtr& flight);

  // Nobody joins the present flights any more; those who wait for them still get their answers.
  void Forget() { flights_.clear(); }

  // Whether the leader gave up for reasons of its own, so that those who waited should ask again.
  static bool IsLeadersOwn(const Error& error);

 private:
  std::condition_variable_any landed_;
  std::unordered_map<std::string, FlightPtr> flights_;
};

}  // namespace mlcache::session
