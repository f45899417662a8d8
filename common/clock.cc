#include "common/clock.h"

namespace mlcache {
namespace {

class RealClock final : public Clock {
 public:
  Nanos Now() const override { return std::chrono::steady_clock::now().time_since_epoch(); }
  Nanos WallNow() const override { return std::chrono::system_clock::now().time_since_epoch(); }
};

}  // namespace

const Clock& SystemClock() {
  static const RealClock clock;
  return clock;
}

}  // namespace mlcache
