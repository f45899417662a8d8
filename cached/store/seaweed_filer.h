// A SeaweedFS cluster's filers over gRPC. One is asked until it cannot be reached, then the next one; when none can,
// the call waits a moment for one that is being started again. Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cached/store/object_store.h"
#include "cached/store/seaweed_security.h"
#include "cached/store/store_url.h"
#include "common/clock.h"
#include "common/status.h"
#include "proto/filer.pb.h"

namespace mlcache::store {

struct SeaweedFilerOptions {
  Nanos connect_timeout = std::chrono::seconds(5);  // also how long a call waits when no filer can be reached
  Nanos answer_timeout = std::chrono::seconds(20);  // of one call to one filer; then the next filer is asked
};

class SeaweedFiler {
 public:
  // Of a seaweedfs:// URL; opens no connection yet. kInvalidArgument, … for PEM files that cannot be used.
  static Result<std::unique_ptr<SeaweedFiler>> Make(const StoreUrl& url, const SeaweedSecurity& security,
                                                    const SeaweedFilerOptions& options, const Clock& clock);
  SeaweedFiler(const SeaweedFiler&) = delete;
  SeaweedFiler& operator=(const SeaweedFiler&) = delete;
  ~SeaweedFiler();

  // `path` is absolute in the filer's namespace; "/" is the root. kNotFound if there is nothing. The entry of a reply
  // is always set.
  Result<filer_pb::LookupDirectoryEntryResponse> Lookup(const std::string& path, const CallContext& context);

  // At most `limit` entries of a directory in byte order, from the one after `after` on. Empty also for a path that
  // does not exist or is no directory: the filer does not tell them apart.
  Result<std::vector<filer_pb::Entry>> List(const std::string& directory, const std::string& after, uint32_t limit,
                                            const CallContext& context);

  // Where a volume's servers are; empty when none has it.
  Result<std::vector<filer_pb::Location>> LookupVolume(uint32_t volume_id, const CallContext& context);

  Result<filer_pb::StatisticsResponse> Statistics(const CallContext& context);

  // The entry with chunks of a remote-mounted file, once the cluster has fetched its bytes from where they come from.
  Result<filer_pb::Entry> FetchRemote(const std::string& path, const CallContext& context);

  // Passes on the changes that the filer tells, until context.stop, the end of the stream or `take` returning false.
  Status Subscribe(const filer_pb::SubscribeMetadataRequest& request,
                   const std::function<bool(const filer_pb::SubscribeMetadataResponse&)>& take,
                   const CallContext& context);

  // "http://host:port" of every filer, the one that is being asked first.
  std::vector<std::string> HttpBases() const;

 private:
  struct Endpoint;
  struct Limit {
    Nanos patience;
    bool wait_for_connection;
  };
  template <typename Reply>
  using Call = std::function<Result<Reply>(Endpoint& endpoint, const Limit& limit)>;

  SeaweedFiler(std::vector<std::unique_ptr<Endpoint>> endpoints, const SeaweedFilerOptions& options,
               const Clock& clock);

  template <typename Reply>
  Result<Reply> AskOneAfterAnother(const std::string& what, const CallContext& context, const Call<Reply>& call);

  const std::vector<std::unique_ptr<Endpoint>> endpoints_;
  const SeaweedFilerOptions options_;
  const Clock& clock_;
  std::atomic<size_t> active_{0};  // the filer that answered last
};

// "/a" and "b" of "/a/b"; "/" and "" of "/".
std::pair<std::string, std::string> SplitFilerPath(const std::string& path);

}  // namespace mlcache::store
