// Counts and times every request that reaches the store below: `store_requests`, `store_request_seconds`. Bytes are
// counted by who admits them.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "cached/metrics/metrics.h"
#include "cached/store/forwarding_store.h"
#include "cached/store/object_store.h"

namespace mlcache::store {

class MeteredStore : public ForwardingStore {  // thread-safe
 public:
  MeteredStore(std::shared_ptr<ObjectStore> inner, const std::string& label, Metrics& metrics, const Clock& clock);

  Result<ObjectInfo> Stat(const std::string& path, const CallContext& context) override;
  Result<ListPage> List(const std::string& path, const std::string& token, const CallContext& context) override;
  Status ReadRange(const ObjectRef& ref, uint64_t offset, uint64_t length, const ByteSink& sink,
                   const CallContext& context) override;

 private:
  // One operation's figures; the frequent outcome is looked up once, here.
  struct Operation {
    std::string name;
    prometheus::Counter& ok;
    prometheus::Histogram& seconds;
  };

  Operation MakeOperation(const std::string& name);
  template <typename T>
  T Measured(const Operation& operation, Nanos begin, T result);

  const std::string label_;
  Metrics& metrics_;
  const Clock& clock_;
  const Operation stat_;
  const Operation list_;
  const Operation read_;
};

}  // namespace mlcache::store
