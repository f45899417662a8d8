// The part of Worker that answers OPEN: by itself, by the daemon's word, or with what the daemon lends and the keeper
// registers.
#include <glog/logging.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "shim/answers.h"
#include "shim/worker.h"

namespace mlcache::shim {

OpenTable::Open Worker::OpenOf(const Request& request) const {
  return {.node = request.node,
          .unique = request.unique,
          .pid = request.submission.pid,
          .handle = request.submission.handle,
          .waiter = {.worker = options_.index, .request = request.submission.id}};
}

// An open that the kernel can serve by itself since an earlier one takes nobody's help.
bool Worker::Reopen(const Request& asked) {
  Request request = asked;
  request.unique = KernelChannel::CurrentUnique();
  const std::optional<OpenTable::Decision> decision = files_.opens().Reopen(OpenOf(request));
  if (!decision.has_value()) return false;
  Opened(request, *decision);
  if (decision->backing_id != 0) NoteAccess(request.submission.node);
  return true;
}

void Worker::Opened(const Request& request, const OpenTable::Decision& decision) {
  if (ReplyOpened(request.kernel, request.unique, kernel_.device(), decision.file_handle, decision.backing_id)) return;
  const OpenTable::Released released = files_.opens().Release(decision.file_handle);
  if (released.handle != 0) {
    ring::Submission hint;
    hint.op = ring::Op::kRelease;
    hint.node = request.submission.node;
    hint.handle = released.handle;
    Hint(hint);
  }
  CloseBackings(released.closing);
}

void Worker::TakeOpen(Pending::iterator found, const ring::Completion& completion) {
  Request& request = found->second;
  request.answered = true;
  request.submission.handle = completion.handle;
  if ((completion.flags & ring::kLeaseSent) == 0) {
    Decide(found, files_.opens().OpenCached(OpenOf(request)), -1);
    return;
  }
  const UniqueFd lent = session_->leases.Take(completion.lease);
  Owe(ring::Op::kTookLeases, 1);
  Decide(found, lent.valid() ? files_.opens().OpenLent(OpenOf(request)) : files_.opens().OpenCached(OpenOf(request)),
         lent.get());
}

void Worker::Decide(Pending::iterator found, const OpenTable::Decision& decision, int lent) {
  switch (decision.verdict) {
    case OpenTable::Verdict::kOpened:
      Opened(found->second, decision);
      break;
    case OpenTable::Verdict::kStale:
      fuse_reply_err(found->second.kernel, ESTALE);
      break;
    case OpenTable::Verdict::kFull:
      fuse_reply_err(found->second.kernel, ENFILE);
      break;
    case OpenTable::Verdict::kWait:
      return;
    case OpenTable::Verdict::kRegister:
      Register(found, decision.record, lent);
      return;
  }
  Forget(found);
}

void Worker::Register(Pending::iterator found, uint32_t record, int lent) {
  keeper::Request asked;
  asked.mutable_backing_open()->set_node(found->second.node);
  asked.mutable_backing_open()->set_record(record);
  const Result<uint64_t> number = keeper_.Send(std::move(asked), {lent});
  if (number.has_value()) {
    registering_[*number] = {.request = found->first, .node = found->second.node, .record = record};
  } else {
    SettleRegistration(found->first, found->second.node, record, std::unexpected(number.error()));
  }
}

bool Worker::TakeKeeperAnswers() {
  if (registering_.empty()) return false;
  bool any = false;
  while (true) {
    const Result<std::optional<KeeperAnswer>> answer = keeper_.Receive();
    if (!answer.has_value() || !answer->has_value()) return any;
    any = true;
    const keeper::Reply& reply = (*answer)->reply;
    const auto asked = registering_.find(reply.number());
    if (asked == registering_.end()) continue;
    const Registration registration = asked->second;
    registering_.erase(asked);
    Status done;
    if (reply.error() != 0) done = FailErrno(reply.error(), reply.message());
    SettleRegistration(registration.request, registration.node, registration.record, done);
  }
}

// The asker may have given up meanwhile; others may wait for the same file.
void Worker::SettleRegistration(uint64_t request, uint64_t node, uint32_t record, const Status& done) {
  if (!done.has_value()) {
    LOG(WARNING) << "files are read through the daemon from now on: " << done.error();
    files_.serving().SetLending(false, done.error().message());
  }
  const std::vector<OpenTable::Waiter> waiters = files_.opens().Registered(node, record, done.has_value());
  Retry(request);
  if (!waiters.empty()) on_registered_(waiters);
}

void Worker::Retry(uint64_t request) {
  const auto found = pending_.find(request);
  if (found == pending_.end()) return;
  const std::optional<OpenTable::Decision> again = files_.opens().Reopen(OpenOf(found->second));
  Decide(found, again.has_value() ? *again : files_.opens().OpenCached(OpenOf(found->second)), -1);
}

void Worker::CloseBackings(const std::vector<uint32_t>& records) {
  for (const uint32_t record : records) {
    keeper::Request asked;
    asked.mutable_backing_close()->set_record(record);
    if (const Result<uint64_t> sent = keeper_.Send(std::move(asked), {}); !sent) LOG(WARNING) << sent.error();
  }
}

void Worker::NoteAccess(uint64_t node) {
  std::memcpy(accesses_.name.data() + accesses_.name_length, &node, sizeof(node));
  accesses_.name_length += sizeof(node);
  if (accesses_.name_length == ring::kMaxAccessNodes * sizeof(node)) SendAccesses();
}

void Worker::SendAccesses() {
  if (accesses_.name_length == 0) return;
  accesses_.op = ring::Op::kAccess;
  Hint(accesses_);
  accesses_.name_length = 0;
}

}  // namespace mlcache::shim
