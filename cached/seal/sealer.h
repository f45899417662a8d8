// Decides which mounts are shown as sealed views (docs/sealed.md), makes the views, and takes them back: when another
// job needs the space, by order, or before what they show is evicted or forgotten. One thread does all of it, a step at
// a time; the calls are thread-safe. Views outlive the daemon: the next one adopts those that are still shown.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "cached/cache/object_cache.h"
#include "cached/cache/object_links.h"
#include "cached/seal/seal_plan.h"
#include "cached/seal/view_files.h"
#include "cached/session/session_server.h"
#include "common/clock.h"
#include "common/status.h"

namespace mlcache::seal {

struct SealerOptions {
  std::vector<std::string> tiers;  // directories, in the order of the cache's tiers
  Nanos request_timeout = std::chrono::seconds(60);
  Nanos contention_pause = std::chrono::minutes(5);  // before a view that was in the way may come again
  Nanos renewal_interval = std::chrono::seconds(30);
};

class Sealer {
 public:
  // All borrowed; sessions and cache must outlive it.
  Sealer(SealerOptions options, session::SessionServer& sessions, cache::ObjectCache& cache, cache::ObjectLinks& links,
         const Clock& clock);
  Sealer(const Sealer&) = delete;
  Sealer& operator=(const Sealer&) = delete;
  ~Sealer();

  // Ends the thread's work and every call that waits for it; what is shown stays. Before whoever calls is joined.
  void Stop();

  // For people: "yes: …", "in part: …" or "no: " and why not.
  std::string Describe(uint64_t mount_id) const;

  // Seals what is complete of the mount now, listing what has not been listed, and waits until it is shown; what is
  // then shown. kFailedPrecondition and the like say why not and what to do.
  Result<std::string> Seal(uint64_t mount_id);

  // Unseals the mount, and keeps it so until Seal.
  Status Unseal(uint64_t mount_id);

  // Unseals every mount that may show something of `path` and below, for a minute at least: it is about to be evicted
  // or forgotten. Returns when the keepers have done so, or after a few seconds.
  void Release(const session::Volume& volume, const std::string& path);

 private:
  enum class Phase : uint8_t { kNone, kOffered, kShown, kWithdrawing };
  struct Mount {
    // Guarded by mutex_.
    Phase phase = Phase::kNone;
    std::string text;
    bool asked = false;      // by Seal
    bool off = false;        // by Unseal
    bool withdraw = false;   // the view is to go
    uint64_t calls_off = 0;  // Releases and Unseals so far: what was looked at before one is not shown after it
    bool present = true;     // a session of it is alive
    bool whole = false;      // what is shown
    bool adopted = false;    // it is not known whether that is whole
    std::string identity;    // of its store
    std::string root;        // of the mount below that
    Nanos not_before{};
    // The thread's.
    Nanos met_at{};  // with a session
    std::unique_ptr<ViewFiles> files;
    uint64_t sealed_files = 0;
    Nanos deadline{};
    Nanos shown_at{};
    uint64_t signature = 0;  // of the cache, at the last look
    bool looked = false;
  };
  using Subject = session::SealSubject;

  void Run(const std::stop_token& stop);
  Nanos Step(const std::stop_token& stop);
  void RelieveContention();
  void Advance(const Subject& subject, Mount& mount, const std::stop_token& stop);
  void Adopt(const Subject& subject, Mount& mount);
  void Withdraw(const Subject& subject, Mount& mount);
  bool IsToGo(const Mount& mount) const;
  bool MayTry(const Subject& subject, Mount& mount);
  void Try(const Subject& subject, Mount& mount, const std::stop_token& stop);
  SealPlan Look(const Subject& subject, bool ask_store, const std::stop_token& stop);
  Status Offer(const Subject& subject, Mount& mount, const SealPlan& plan, uint64_t calls_off,
               const std::stop_token& stop);
  bool IsOutgrown(const Subject& subject, Mount& mount, const std::stop_token& stop);
  void Shown(Mount& mount);
  void End(Mount& mount, const std::string& text, Nanos pause);
  void Sweep();
  uint64_t Signature() const;
  store::CallContext Context(const std::stop_token& stop) const;

  const SealerOptions options_;
  session::SessionServer& sessions_;
  cache::ObjectCache& cache_;
  cache::ObjectLinks& links_;
  const Clock& clock_;
  const std::shared_ptr<std::atomic<bool>> contended_ = std::make_shared<std::atomic<bool>>(false);

  mutable std::mutex mutex_;
  std::condition_variable_any changed_;
  bool poked_ = false;                // guarded by mutex_
  bool stopping_ = false;             // guarded by mutex_
  std::map<uint64_t, Mount> mounts_;  // the map is the thread's to change, under mutex_

  std::vector<std::unique_ptr<ViewFiles>> leaving_;  // the thread's: views that nobody we know of shows
  Nanos swept_at_{};
  std::jthread thread_;  // last: joins first
};

}  // namespace mlcache::seal
