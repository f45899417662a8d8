#include "cached/store/metered_store.h"

#include <chrono>
#include <utility>

namespace mlcache::store {
namespace {

const prometheus::Histogram::BucketBoundaries& Boundaries() {
  static const prometheus::Histogram::BucketBoundaries boundaries = {
      0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60};
  return boundaries;
}

}  // namespace

MeteredStore::Operation MeteredStore::MakeOperation(const std::string& name) {
  return {.name = name,
          .ok = metrics_.store_requests.Add({{"store", label_}, {"op", name}, {"code", "ok"}}),
          .seconds = metrics_.store_request_seconds.Add({{"store", label_}, {"op", name}}, Boundaries())};
}

MeteredStore::MeteredStore(std::shared_ptr<ObjectStore> inner, const std::string& label, Metrics& metrics,
                           const Clock& clock)
    : ForwardingStore(std::move(inner)),
      label_(label),
      metrics_(metrics),
      clock_(clock),
      stat_(MakeOperation("stat")),
      list_(MakeOperation("list")),
      read_(MakeOperation("read")) {}

template <typename T>
T MeteredStore::Measured(const Operation& operation, Nanos begin, T result) {
  operation.seconds.Observe(std::chrono::duration<double>(clock_.Now() - begin).count());
  if (result) {
    operation.ok.Increment();
  } else {
    const std::string code(CodeName(result.error().code()));
    metrics_.store_requests.Add({{"store", label_}, {"op", operation.name}, {"code", code}}).Increment();
  }
  return result;
}

Result<ObjectInfo> MeteredStore::Stat(const std::string& path, const CallContext& context) {
  const Nanos begin = clock_.Now();
  return Measured(stat_, begin, inner_->Stat(path, context));
}

Result<ListPage> MeteredStore::List(const std::string& path, const std::string& token, const CallContext& context) {
  const Nanos begin = clock_.Now();
  return Measured(list_, begin, inner_->List(path, token, context));
}

Status MeteredStore::ReadRange(const ObjectRef& ref, uint64_t offset, uint64_t length, const ByteSink& sink,
                               const CallContext& context) {
  const Nanos begin = clock_.Now();
  return Measured(read_, begin, inner_->ReadRange(ref, offset, length, sink, context));
}

}  // namespace mlcache::store
