// Where a bucket is and how it is addressed: asked for in the URL, or found out from the server's replies.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>

#include "cached/store/http_client.h"
#include "cached/store/s3_wire.h"
#include "cached/store/store_url.h"
#include "common/clock.h"

namespace mlcache::store {

// Where requests go. Constant once made.
struct S3Target {
  std::string region;
  std::string endpoint;  // "https://s3.eu-west-1.amazonaws.com"
  std::string base;      // "https://bucket.host/" or "https://host/bucket/": a key follows
};

// Learns the region (unless ?region= asks for one), the addressing (unless ?addressing= does) and the server's clock.
// Nothing that a server says takes requests to another host than ?endpoint= names, but for the bucket's own name in
// front of it; without ?endpoint= they stay with https at amazonaws.com. So credentials go nowhere else. Thread-safe.
class S3Locator {
 public:
  // `region` is where to begin when the URL asks for none.
  S3Locator(const StoreUrl& url, const std::string& region);

  std::shared_ptr<const S3Target> target() const;
  Nanos skew() const { return skew_.load(); }  // of the server's clock before ours

  // Whether `refused`, the reply to a request sent to `asked` by our clock at `wall_now`, tells something new: then the
  // request is worth sending again.
  bool Learn(const HttpResponse& refused, const S3Target& asked, Nanos wall_now);

  // Where a redirect leads if it may be followed: to the scheme, host and port of `url`; empty if it may not.
  static std::string Redirect(const HttpResponse& response, const std::string& url);

 private:
  std::shared_ptr<const S3Target> Make(const std::string& region, bool in_host) const;
  bool LearnRegion(const HttpResponse& refused, const S3Refusal& refusal, const S3Target& asked);
  bool LearnAddressing(const HttpResponse& refused, const S3Refusal& refusal, const S3Target& asked);
  bool LearnClock(const HttpResponse& refused, const S3Refusal& refusal, Nanos wall_now);

  const std::string bucket_;
  const std::string endpoint_;  // as the URL has it; empty: AWS
  const bool region_given_;
  const bool addressing_given_;
  std::atomic<Nanos> skew_{Nanos(0)};

  mutable std::mutex mutex_;  // guards all below; a leaf
  bool in_host_;
  std::shared_ptr<const S3Target> target_;
};

}  // namespace mlcache::store
