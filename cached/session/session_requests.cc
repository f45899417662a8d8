// What each operation of the ring does. Everything in a submission was written by an untrusted shim.
#include <fcntl.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <utility>

#include "cached/session/path.h"
#include "cached/session/request.h"
#include "cached/session/session.h"

namespace mlcache::session {
namespace {

using ring::Op;

constexpr uint64_t kMaxOffset = INT64_MAX;

ring::Completion CompletionOf(const Result<ring::NodeAttributes>& attributes) {
  if (!attributes.has_value()) return {.code = static_cast<int32_t>(attributes.error().code())};
  ring::Completion completion{.attributes = *attributes};
  // Lookup's way to say that there is nothing.
  if (attributes->node == 0) completion.code = static_cast<int32_t>(Code::kNotFound);
  return completion;
}

ring::Completion CompletionOf(const OpenFiles::AddedDirectory& added) {
  return {.flags = added.unchanged ? ring::kListingUnchanged : 0, .handle = added.handle};
}

Tree::Detail DetailOf(const ring::Submission& submission) {
  return (submission.flags & ring::kNamesOnly) != 0 ? Tree::Detail::kNames : Tree::Detail::kAttributes;
}

std::string_view NameOfSubmission(const ring::Submission& submission) {
  return {submission.name.data(), std::min<size_t>(submission.name_length, submission.name.size())};
}

bool IsReadOnly(const ring::Submission& open) { return (open.flags & O_ACCMODE) == O_RDONLY; }

// What can be told from the submission alone.
Status Check(const ring::Submission& submission) {
  const auto op = static_cast<uint32_t>(submission.op);
  if (op == 0 || op > static_cast<uint32_t>(ring::kLastOp))
    return Fail(Code::kUnimplemented, "no operation has the number " + std::to_string(op));
  if (submission.name_length > ring::kMaxNameBytes) return Fail(Code::kInvalidArgument, "a name above 255 bytes");
  if (submission.op == Op::kLookup && !IsValidName(NameOfSubmission(submission)))
    return Fail(Code::kInvalidArgument, "not a file name");
  if (submission.op == Op::kRead || submission.op == Op::kReadDir) {
    if (submission.length > ring::kMaxReadBytes || submission.offset > kMaxOffset)
      return Fail(Code::kInvalidArgument, "a read above 1 MiB or behind all offsets");
  }
  return {};
}

}  // namespace

void Session::Handle(const ring::Submission& submission, uint32_t pair) {
  requests_.fetch_add(1, std::memory_order_relaxed);
  if (HandleUnanswered(submission)) return;
  if (submission.id == 0) {
    End("the shim submitted a request without an id");
    return;
  }
  const Nanos started = SystemClock().Now();
  if (const Status sound = Check(submission); !sound.has_value()) {
    Push(submission, pair, started, {.id = submission.id, .code = static_cast<int32_t>(sound.error().code())});
    return;
  }
  if (std::optional<ring::Completion> completion = AnswerFromMemory(submission)) {
    if (submission.op == Op::kOpen && completion->code == 0) TellPlan(submission.node);
    completion->id = submission.id;
    Push(submission, pair, started, *completion);
    return;
  }
  if (const RequestPtr request = Begin(submission, pair, started)) Dispatch(request);
}

bool Session::HandleUnanswered(const ring::Submission& submission) {
  switch (submission.op) {
    case Op::kRelease:
      files_.Release(submission.handle, submission.node);
      return true;
    case Op::kReleaseDir:
      files_.ReleaseDirectory(submission.handle, submission.node);
      return true;
    case Op::kCancel:
      Cancel(submission.offset);
      return true;
    case Op::kAccess: {
      std::array<uint64_t, ring::kMaxAccessNodes> nodes{};
      const size_t count = submission.name_length / sizeof(uint64_t);
      std::memcpy(nodes.data(), submission.name.data(), count * sizeof(uint64_t));
      lender_.Accessed(std::span(nodes).first(count));
      for (const uint64_t node : std::span(nodes).first(count)) TellPlan(node);
      return true;
    }
    case Op::kTookLeases:
      lender_.Taken(submission.offset);
      return true;
    case Op::kForget:       // rows are dropped by use, ids never
    case Op::kReleaseSlot:  // taken back by the channel
      return true;
    default:
      return false;
  }
}

std::optional<ring::Completion> Session::AnswerFromMemory(const ring::Submission& submission) {
  if (submission.op == Op::kLookup) {
    if (const auto found = tree_->Lookup(submission.node, NameOfSubmission(submission), Effort::kMemoryOnly, {}))
      return CompletionOf(*found);
  } else if (submission.op == Op::kGetAttr) {
    if (const auto found = tree_->GetAttributes(submission.node, Effort::kMemoryOnly, {})) return CompletionOf(*found);
  } else if (submission.op == Op::kOpen && IsReadOnly(submission)) {
    if (auto opened = tree_->Open(submission.node, Effort::kMemoryOnly, {})) {
      if (!opened->has_value()) return ring::Completion{.code = static_cast<int32_t>(opened->error().code())};
      Claim((*opened)->source);
      if (IsLendable(submission, (*opened)->source)) return LendFromMemory(submission, **opened);
      return ring::Completion{.handle = AddFile(submission.node, std::move((*opened)->source)),
                              .attributes = (*opened)->attributes};
    }
  }
  if (submission.op == Op::kOpenDir) {
    if (auto listing = tree_->List(submission.node, Effort::kMemoryOnly, {})) {
      if (!listing->has_value()) return ring::Completion{.code = static_cast<int32_t>(listing->error().code())};
      return CompletionOf(files_.Add(OpenDirectory{.node = submission.node, .listing = **std::move(listing)}));
    }
  }
  return std::nullopt;
}

bool Session::ReadDirFromMemory(const RequestPtr& request) {
  const ring::Submission& submission = request->submission;
  const std::shared_ptr<const Listing> listing = files_.Directory(submission.handle, submission.node).listing;
  if (listing == nullptr) return false;
  auto page = tree_->Page(submission.node, *listing, submission.offset, submission.length, DetailOf(submission),
                          Effort::kMemoryOnly, {});
  if (!page) return false;
  ReplyOrRefuse(request, *std::move(page));
  return true;
}

// What is read through the source is read by this mount's job.
void Session::Claim(fetch::Source& source) const {
  source.observer = pacer_;
  source.hints.job = job_;
  source.hints.plain = !pacer_->optimizes();
  if (!source.hints.plain) source.hints.reader = reader_;
  source.outsized = source.ref.size > largest_tier_bytes_;
}

// A file of the mount is opened; its name is in memory, since it was looked up a moment ago.
void Session::TellPlan(uint64_t node) {
  if (plan_ == nullptr || !plan_->active()) return;
  if (const std::optional<std::string> path = tree_->FilePath(node)) plan_->Use(*path);
}

uint64_t Session::AddFile(uint64_t node, fetch::Source source) {
  Claim(source);
  // What the kernel keeps of the file is read without a word to the daemon: the open has to count.
  source.object->Touch({}, source.hints);
  return files_.Add(std::make_shared<OpenFile>(node, std::move(source), pacer_, parts_.metrics, job_));
}

void Session::Dispatch(const RequestPtr& request) {
  if (request->submission.op == Op::kRead) {
    Read(request);
    return;
  }
  if (request->submission.op == Op::kReadDir && ReadDirFromMemory(request)) return;
  InLane(request, [this, request] { Serve(request); });
}

void Session::Serve(const RequestPtr& request) {
  const ring::Submission& submission = request->submission;
  switch (submission.op) {
    case Op::kLookup:
      LookUp(request);
      return;
    case Op::kGetAttr:
      GetAttributes(request);
      return;
    case Op::kOpen:
      Open(request);
      return;
    case Op::kOpenDir:
      OpenDir(request);
      return;
    case Op::kReadDir:
      ReadDir(request);
      return;
    case Op::kReadLink:
      ReplyOrRefuse(request, tree_->ReadLink(submission.node, ContextOf(*request)));
      return;
    case Op::kGetXattr:
      GetXattr(request);
      return;
    case Op::kListXattr:
      ReplyOrRefuse(request, tree_->ListXattr(submission.node));
      return;
    case Op::kStats:
      Reply(request, describe_());
      return;
    case Op::kStatFs: {
      const Result<ring::StatFsReply> reply = tree_->StatFs(ContextOf(*request));
      if (!reply.has_value()) {
        Refuse(*request, reply.error());
        return;
      }
      std::string bytes(sizeof(*reply), '\0');
      std::memcpy(bytes.data(), &*reply, sizeof(*reply));
      Reply(request, std::move(bytes));
      return;
    }
    default:
      Refuse(*request, Error(Code::kUnimplemented, "no such operation"));
  }
}

void Session::ReplyOrRefuse(const RequestPtr& request, Result<std::string> bytes) {
  if (bytes.has_value()) {
    Reply(request, *std::move(bytes));
  } else {
    Refuse(*request, bytes.error());
  }
}

void Session::LookUp(const RequestPtr& request) {
  const ring::Submission& submission = request->submission;
  const auto found =
      tree_->Lookup(submission.node, NameOfSubmission(submission), Effort::kMayBlock, ContextOf(*request));
  if (!found->has_value()) {
    Refuse(*request, found->error());
  } else {
    Complete(*request, CompletionOf(*found));
  }
}

void Session::GetAttributes(const RequestPtr& request) {
  const auto found = tree_->GetAttributes(request->submission.node, Effort::kMayBlock, ContextOf(*request));
  if (!found->has_value()) {
    Refuse(*request, found->error());
  } else {
    Complete(*request, CompletionOf(*found));
  }
}

void Session::Open(const RequestPtr& request) {
  const ring::Submission& submission = request->submission;
  if (!IsReadOnly(submission)) {
    Refuse(*request, Error(Code::kPermissionDenied, "this mount is read-only"));
    return;
  }
  auto opened = *tree_->Open(submission.node, Effort::kMayBlock, ContextOf(*request));
  if (!opened.has_value()) {
    Refuse(*request, opened.error());
    return;
  }
  Claim(opened->source);
  TellPlan(submission.node);
  if (!IsLendable(submission, opened->source)) return OpenByHandle(request, *std::move(opened));
  if (Lend(request, *opened)) return;
  if (!MayBecomeLendable(opened->source)) return OpenByHandle(request, *std::move(opened));
  FetchAndLend(request, *std::move(opened));
}

void Session::OpenByHandle(const RequestPtr& request, Tree::Opened opened) {
  const uint64_t node = request->submission.node;
  const uint64_t handle = AddFile(node, std::move(opened.source));
  Complete(*request, {.handle = handle, .attributes = opened.attributes});
  // Called off while it was opened: nobody will release the handle.
  if (request->stop.stop_requested()) files_.Release(handle, node);
}

void Session::OpenDir(const RequestPtr& request) {
  const uint64_t node = request->submission.node;
  Result<std::shared_ptr<const Listing>> listing = *tree_->List(node, Effort::kMayBlock, ContextOf(*request));
  if (!listing.has_value()) {
    Refuse(*request, listing.error());
    return;
  }
  const OpenFiles::AddedDirectory added = files_.Add(OpenDirectory{.node = node, .listing = *std::move(listing)});
  Complete(*request, CompletionOf(added));
  if (request->stop.stop_requested()) files_.ReleaseDirectory(added.handle, node);
}

void Session::ReadDir(const RequestPtr& request) {
  const ring::Submission& submission = request->submission;
  std::shared_ptr<const Listing> listing = files_.Directory(submission.handle, submission.node).listing;
  if (listing == nullptr) {
    Result<std::shared_ptr<const Listing>> fresh =
        *tree_->List(submission.node, Effort::kMayBlock, ContextOf(*request));
    if (!fresh.has_value()) {
      Refuse(*request, fresh.error());
      return;
    }
    listing = *std::move(fresh);
  }
  ReplyOrRefuse(request, *tree_->Page(submission.node, *listing, submission.offset, submission.length,
                                      DetailOf(submission), Effort::kMayBlock, ContextOf(*request)));
}

void Session::GetXattr(const RequestPtr& request) {
  const ring::Submission& submission = request->submission;
  Result<std::string> value = tree_->GetXattr(submission.node, NameOfSubmission(submission));
  // Room 0 asks for the length alone; the value tells it.
  if (value.has_value() && submission.length != 0 && value->size() > submission.length)
    value = Fail(Code::kOutOfRange, "the value is longer than the caller's room");
  ReplyOrRefuse(request, std::move(value));
}

void Session::Read(const RequestPtr& request) {
  const ring::Submission& submission = request->submission;
  if (const std::shared_ptr<OpenFile> file = files_.File(submission.handle, submission.node)) {
    StartRead(request, file);
    return;
  }
  if (auto source = tree_->SourceOf(submission.node, Effort::kMemoryOnly)) {
    ReadBySource(request, std::move(*source));
    return;
  }
  InLane(request, [this, request] {
    ReadBySource(request, std::move(*tree_->SourceOf(request->submission.node, Effort::kMayBlock)));
  });
}

void Session::ReadBySource(const RequestPtr& request, Result<fetch::Source> source) {
  if (!source.has_value()) {
    Refuse(*request, source.error());
    return;
  }
  Claim(*source);
  const uint64_t node = request->submission.node;
  StartRead(request,
            files_.KeepByNode(std::make_shared<OpenFile>(node, *std::move(source), pacer_, parts_.metrics, job_)));
}

void Session::StartRead(const RequestPtr& request, const std::shared_ptr<OpenFile>& file) {
  const ring::Submission& submission = request->submission;
  // Without a handle nobody saw the open. Not sooner: what the plan holds of the file is now held by `file` too.
  if (submission.handle == 0 && submission.offset == 0) TellPlan(submission.node);
  const uint64_t left = submission.offset < file->size() ? file->size() - submission.offset : 0;
  const auto length = static_cast<uint32_t>(std::min<uint64_t>(submission.length, left));
  if (length == 0) {
    Complete(*request, {});
    return;
  }
  WithSlot(request, length,
           [this, request, file, length](const ring::Slot& slot) { ReadInto(request, file, slot, length); });
}

void Session::ReadInto(const RequestPtr& request, const std::shared_ptr<OpenFile>& file, const ring::Slot& slot,
                       uint32_t length) {
  if (request->answered) {
    GiveBackSlot(slot.index);
    return;
  }
  const uint64_t offset = request->submission.offset;
  const fetch::Source& source = file->OnRead(offset, length);
  const store::CallContext context = ContextOf(*request);
  parts_.fetcher.Read(source, offset, slot.bytes.first(length), context,
                      [this, request = RequestPtr(request), file = std::shared_ptr<OpenFile>(file), slot,
                       length](const Status& status) mutable {
                        // The request is let go last: with the last one the session may go.
                        const RequestPtr last = std::move(request);
                        const std::shared_ptr<OpenFile> used = std::move(file);
                        if (status.has_value()) {
                          const bool whole = last->submission.offset + length == used->size();
                          // Another mount would have to go to the disk for them.
                          const bool alone = parts_.sessions != nullptr && *parts_.sessions == 1;
                          if (whole && alone && keeps_pages_) used->source().object->LetPagesGo();
                          Complete(*last, {.slot = slot.index, .arena_offset = slot.arena_offset, .length = length});
                          return;
                        }
                        GiveBackSlot(slot.index);
                        if (status.error().code() != Code::kFailedPrecondition) {
                          Refuse(*last, status.error());
                          return;
                        }
                        // What the store no longer has must not be found again by the next lookup.
                        InLane(last, [this, last, error = status.error()] {
                          tree_->Distrust(last->submission.node);
                          Refuse(*last, error);
                        });
                      });
}

}  // namespace mlcache::session
