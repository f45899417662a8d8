#include "cached/store/s3_locator.h"

#include <glog/logging.h>

#include <algorithm>
#include <array>
#include <utility>

namespace mlcache::store {
namespace {

constexpr Nanos kMostSkew = std::chrono::minutes(5);  // AWS takes 15

std::string Option(const StoreUrl& url, const std::string& name) {
  const auto found = url.options.find(name);
  return found == url.options.end() ? "" : found->second;
}

// It becomes part of a host name.
bool IsRegion(std::string_view text) {
  return !text.empty() && text.size() <= 32 &&
         std::ranges::all_of(text, [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-'; });
}

bool IsAddress(std::string_view endpoint) {
  const std::string_view host = endpoint.substr(endpoint.find("://") + 3);
  return host.starts_with('[') ||
         std::ranges::all_of(host, [](char c) { return (c >= '0' && c <= '9') || c == '.' || c == ':'; });
}

// AWS wants the bucket in the host name; self-hosted servers are mostly set up without the DNS for it. A dot in the
// bucket's name does not match a wildcard certificate.
bool BeginsInHost(const StoreUrl& url) {
  const std::string addressing = Option(url, "addressing");
  if (!addressing.empty()) return addressing == "host";
  return Option(url, "endpoint").empty() && url.authority.find('.') == std::string::npos;
}

std::string_view Origin(std::string_view url) {
  const size_t host = url.find("://");
  return host == std::string_view::npos ? "" : url.substr(0, std::min(url.find_first_of("/?#", host + 3), url.size()));
}

}  // namespace

S3Locator::S3Locator(const StoreUrl& url, const std::string& region)
    : bucket_(url.authority),
      endpoint_(Option(url, "endpoint")),
      region_given_(url.options.contains("region")),
      addressing_given_(url.options.contains("addressing")),
      in_host_(BeginsInHost(url)),
      target_(Make(region_given_ ? Option(url, "region") : region, in_host_)) {}

std::shared_ptr<const S3Target> S3Locator::Make(const std::string& region, bool in_host) const {
  S3Target target{.region = region, .endpoint = endpoint_, .base = ""};
  if (endpoint_.empty()) {
    target.endpoint = "https://s3." + region + (region.starts_with("cn-") ? ".amazonaws.com.cn" : ".amazonaws.com");
  }
  const size_t host = target.endpoint.find("://") + 3;
  target.base = in_host ? target.endpoint.substr(0, host) + bucket_ + "." + target.endpoint.substr(host) + "/"
                        : target.endpoint + "/" + bucket_ + "/";
  return std::make_shared<const S3Target>(std::move(target));
}

std::shared_ptr<const S3Target> S3Locator::target() const {
  const std::lock_guard lock(mutex_);
  return target_;
}

bool S3Locator::Learn(const HttpResponse& refused, const S3Target& asked, Nanos wall_now) {
  const S3Refusal refusal = ParseS3Refusal(refused);
  return LearnRegion(refused, refusal, asked) || LearnAddressing(refused, refusal, asked) ||
         LearnClock(refused, refusal, wall_now);
}

bool S3Locator::LearnRegion(const HttpResponse& refused, const S3Refusal& refusal, const S3Target& asked) {
  const int status = refused.head.status;
  const bool misdirected = status == 301 || status == 307 || status == 400;
  if (region_given_ || !misdirected || !IsRegion(refusal.region) || refusal.region == asked.region) return false;
  {
    const std::lock_guard lock(mutex_);
    if (target_->region == refusal.region) return true;  // another request has learned it
    target_ = Make(refusal.region, in_host_);
  }
  LOG(INFO) << "s3://" << bucket_ << " is in region " << refusal.region << ", not " << asked.region
            << "; ?region=" << refusal.region << " saves the detour";
  return true;
}

bool S3Locator::LearnAddressing(const HttpResponse& refused, const S3Refusal& refusal, const S3Target& asked) {
  constexpr std::array<std::string_view, 3> kWantsHost = {"SecondLevelDomainForbidden", "PathStyleDomainForbidden",
                                                          "VirtualHostDomainRequired"};
  if (addressing_given_ || IsAddress(asked.endpoint)) return false;
  const std::string host = bucket_ + "." + asked.endpoint.substr(asked.endpoint.find("://") + 3);
  const bool wanted = std::ranges::find(kWantsHost, refusal.code) != kWantsHost.end() ||
                      (refused.head.status == 301 && refusal.endpoint == host);
  if (!wanted) return false;
  {
    const std::lock_guard lock(mutex_);
    if (in_host_) return asked.base != target_->base;
    in_host_ = true;
    target_ = Make(target_->region, true);
  }
  LOG(INFO) << "s3://" << bucket_
            << ": the server wants the bucket in the host name; ?addressing=host saves the detour";
  return true;
}

bool S3Locator::LearnClock(const HttpResponse& refused, const S3Refusal& refusal, Nanos wall_now) {
  // A HEAD has no body that says why.
  const bool may_be = refusal.code == "RequestTimeTooSkewed" || (refused.head.status == 403 && refusal.code.empty());
  const int64_t server_time = may_be ? ParseHttpDate(refused.head.Header("date")) : 0;
  if (server_time == 0) return false;
  const Nanos ahead = Nanos(server_time) - wall_now;
  const Nanos wrong_by = ahead - skew_.load();
  if (wrong_by < kMostSkew && wrong_by > -kMostSkew) return false;
  skew_.store(ahead);
  LOG(WARNING) << "s3://" << bucket_ << ": this host's clock is off by "
               << std::chrono::duration_cast<std::chrono::seconds>(-ahead).count()
               << " s by the server's; requests are signed with the server's time. Synchronise it (timedatectl)";
  return true;
}

std::string S3Locator::Redirect(const HttpResponse& response, const std::string& url) {
  const int status = response.head.status;
  if (status != 301 && status != 302 && status != 307 && status != 308) return "";
  const std::string& location = response.head.Header("location");
  const bool within = !Origin(url).empty() && Origin(location) == Origin(url) && location != url &&
                      location.size() > Origin(url).size() && location[Origin(url).size()] == '/';
  return within ? location : "";
}

}  // namespace mlcache::store
