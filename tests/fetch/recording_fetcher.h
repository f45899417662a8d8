// A fetcher that fetches nothing: it keeps what it is asked to bring, and the test says when each of these has ended.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "cached/fetch/fetcher.h"

namespace mlcache::prefetch {

class RecordingFetcher final : public fetch::Fetcher {
 public:
  struct Request {
    cache::ByteRange range;
    store::Priority priority;
    std::string job;
    std::stop_token stop;
    fetch::ReadDone done;  // empty once it has ended
  };

  // Every request ends as soon as it is made, after `arrived` (if any) was told of it.
  bool ends_at_once = true;
  std::function<void(const fetch::Source&, cache::ByteRange, const std::stop_token&)> arrived;

  void Read(const fetch::Source& /*source*/, uint64_t /*offset*/, std::span<std::byte> /*out*/,
            const store::CallContext& /*context*/, fetch::ReadDone done) override {
    done(Fail(Code::kUnimplemented, "readahead reads nothing"));
  }
  void Ensure(const fetch::Source& source, cache::ByteRange range, const store::CallContext& context,
              fetch::ReadDone done) override {
    requests.push_back({range, context.priority, std::string(context.job), context.stop, std::move(done)});
    if (!ends_at_once) return;
    if (arrived) arrived(source, range, context.stop);
    End(requests.size() - 1);
  }

  void Used(const fetch::Source& /*source*/, cache::ByteRange /*range*/) override {}

  void End(size_t index, const Status& status = {}) {
    fetch::ReadDone done = std::exchange(requests[index].done, nullptr);
    if (done) done(status);
  }

  std::vector<Request> requests;
};

}  // namespace mlcache::prefetch
