// What decorators have in common: a store below, and calls that pass through unchanged unless overridden.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "cached/store/object_store.h"

namespace mlcache::store {

// How a decorator waits: store::Pause, or a test's.
using PauseFunction = std::function<Status(Nanos, const CallContext&)>;

class ForwardingStore : public ObjectStore {
 public:
  explicit ForwardingStore(std::shared_ptr<ObjectStore> inner) : inner_(std::move(inner)) {}

  Result<ObjectInfo> Stat(const std::string& path, const CallContext& context) override {
    return inner_->Stat(path, context);
  }
  Result<ListPage> List(const std::string& path, const std::string& token, const CallContext& context) override {
    return inner_->List(path, token, context);
  }
  Status ReadRange(const ObjectRef& ref, uint64_t offset, uint64_t length, const ByteSink& sink,
                   const CallContext& context) override {
    return inner_->ReadRange(ref, offset, length, sink, context);
  }
  Result<StoreCapacity> Capacity(const CallContext& context) override { return inner_->Capacity(context); }
  Status Watch(const std::string& path, const ChangeSink& sink, const CallContext& context) override {
    return inner_->Watch(path, sink, context);
  }
  bool PinsVersion() const override { return inner_->PinsVersion(); }

 protected:
  const std::shared_ptr<ObjectStore> inner_;
};

}  // namespace mlcache::store
