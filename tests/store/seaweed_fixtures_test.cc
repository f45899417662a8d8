// The fake cluster is held to what a real one said: replies of SeaweedFS 4.44, recorded in seaweed_fixtures.json.
//
// With a real cluster at MLCACHE_TEST_SEAWEEDFS ("HOST:PORT") the recording itself is checked against it, and
// MLCACHE_RECORD_SEAWEEDFS=FILE writes it anew.
#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>

#include "cached/store/http_client.h"
#include "cached/store/seaweed_chunks.h"
#include "cached/store/seaweed_entry.h"
#include "common/units.h"
#include "proto/filer.grpc.pb.h"
#include "tests/fakes/fake_seaweed.h"
#include "tests/store/backend.h"
#include "tests/store/filer_http.h"

namespace mlcache::store {
namespace {

using Replies = std::map<std::string, std::string>;

constexpr char kFixtures[] = MLCACHE_SOURCE_DIR "/tests/store/seaweed_fixtures.json";
const std::string kPlain = [] {
  std::string bytes;
  for (uint32_t i = 0, x = 1; i < 5 * kMiB; ++i) bytes += static_cast<char>((x = x * 1664525 + 1013904223) >> 24);
  return bytes;
}();
const std::string kText(200'000, 't');

// Asks a cluster, real or not, in whose directory /fixtures lie plain.bin, text.txt and empty.
class Asker {
 public:
  explicit Asker(const std::string& filer) : filer_(filer) {
    const size_t colon = filer.find(':');
    const std::string grpc = filer.substr(0, colon + 1) + std::to_string(std::stoi(filer.substr(colon + 1)) + 10'000);
    stub_ = filer_pb::SeaweedFiler::NewStub(grpc::CreateChannel(grpc, grpc::InsecureChannelCredentials()));
  }

  Replies AskAll() {
    for (const char* name : {"plain.bin", "text.txt", "empty", "absent"}) Lookup("/fixtures", name);
    Lookup("/", "fixtures");
    Lookup("/", "");
    List("/fixtures");
    List("/fixtures/absent");
    AskForVolume("99999");
    AskForChunk("plain", Lookup("/fixtures", "plain.bin"));
    AskForChunk("text", Lookup("/fixtures", "text.txt"));
    return std::exchange(replies_, {});
  }

  // What the log says of the changes since `since_ns`, up to `count`.
  Replies AskForChanges(int64_t since_ns, size_t count) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    filer_pb::SubscribeMetadataRequest request;
    request.set_client_name("fixtures");
    request.set_path_prefix("/fixtures/");
    request.set_since_ns(since_ns);
    const auto reader = stub_->SubscribeMetadata(&context, request);
    filer_pb::SubscribeMetadataResponse reply;
    for (size_t i = 0; i < count && reader->Read(&reply); ++i) Keep("change " + std::to_string(i), reply);
    context.TryCancel();
    static_cast<void>(reader->Finish());
    return std::exchange(replies_, {});
  }

  int64_t Now() {
    filer_pb::LookupDirectoryEntryRequest request;
    request.set_directory("/");
    filer_pb::LookupDirectoryEntryResponse reply;
    grpc::ClientContext context;
    EXPECT_TRUE(stub_->LookupDirectoryEntry(&context, request, &reply).ok());
    return reply.log_ts_ns();
  }

 private:
  void Keep(const std::string& name, const google::protobuf::Message& message) {
    google::protobuf::TextFormat::PrintToString(message, &replies_[name]);
  }
  void Keep(const std::string& name, const grpc::Status& status) {
    replies_[name] = "status " + std::to_string(status.error_code()) + " " + status.error_message();
  }

  filer_pb::Entry Lookup(const std::string& directory, const std::string& entry) {
    filer_pb::LookupDirectoryEntryRequest request;
    request.set_directory(directory);
    request.set_name(entry);
    filer_pb::LookupDirectoryEntryResponse reply;
    grpc::ClientContext context;
    const grpc::Status status = stub_->LookupDirectoryEntry(&context, request, &reply);
    const std::string name = "lookup " + directory + " " + entry;
    if (status.ok()) {
      Keep(name, reply);
    } else {
      Keep(name, status);
    }
    return reply.entry();
  }

  void List(const std::string& directory) {
    filer_pb::ListEntriesRequest request;
    request.set_directory(directory);
    request.set_limit(10);
    grpc::ClientContext context;
    const auto reader = stub_->ListEntries(&context, request);
    const std::string prefix = "list " + directory + " ";
    int count = 0;
    for (filer_pb::ListEntriesResponse reply; reader->Read(&reply);) {
      Keep(prefix + std::to_string(count++), reply);
    }
    Keep(prefix + "end", reader->Finish());
  }

  filer_pb::LookupVolumeResponse AskForVolume(const std::string& id) {
    filer_pb::LookupVolumeRequest request;
    request.add_volume_ids(id);
    filer_pb::LookupVolumeResponse reply;
    grpc::ClientContext context;
    static_cast<void>(stub_->LookupVolume(&context, request, &reply));
    return reply;
  }

  void AskForChunk(const std::string& name, const filer_pb::Entry& entry) {
    ASSERT_GT(entry.chunks_size(), 0);
    const SeaweedChunk chunk = *ParseSeaweedChunk(entry.chunks(0));
    const std::string volume = std::to_string(chunk.volume_id);
    const filer_pb::LookupVolumeResponse found = AskForVolume(volume);
    ASSERT_TRUE(found.locations_map().contains(volume));
    const filer_pb::Location& location = found.locations_map().at(volume).locations(0);
    Keep("location of " + name, location);
    const std::string server = "http://" + location.url() + "/";
    const std::string identity = "Accept-Encoding: identity";
    Get(name + " whole", server + chunk.FileId(), {identity});
    Get(name + " piece", server + chunk.FileId(), {identity, "Range: bytes=5-104"});
    Get(name + " past its end", server + chunk.FileId(), {identity, "Range: bytes=99999999-100000000"});
    Get(name + " packed", server + chunk.FileId(), {"Accept-Encoding: gzip", "Range: bytes=0-0"});
    Get(name + " gone", server + chunk.FileId() + "ff", {identity});
    Get(name + " by the filer", "http://" + filer_ + "/?readDeleted=true&proxyChunkId=" + chunk.FileId(), {identity});
  }

  void Get(const std::string& name, const std::string& url, const std::vector<std::string>& headers) {
    const Result<HttpResponse> response = http_.Do({.url = url, .headers = headers}, {});
    ASSERT_TRUE(response) << response.error();
    std::string text = "HTTP " + std::to_string(response->head.status) + "\n";
    for (const auto& [header, value] : response->head.headers)
      text.append(header).append(": ").append(value).append("\n");
    replies_["GET " + name] = text;
  }

  const std::string filer_;
  std::unique_ptr<filer_pb::SeaweedFiler::Stub> stub_;
  HttpClient http_{HttpOptions{}, SystemClock()};
  Replies replies_;
};

// A message's text without the fields that proto/filer.proto leaves out, which appear by number and may nest.
std::string WithoutUnknown(const std::string& text) {
  std::istringstream lines(text);
  std::string known;
  for (std::string line; std::getline(lines, line);) {
    const size_t begin = line.find_first_not_of(' ');
    if (begin == std::string::npos) continue;
    if (std::isdigit(static_cast<unsigned char>(line[begin])) == 0) {
      known += line + "\n";
    } else if (line.ends_with('{')) {
      for (int depth = 1; depth > 0 && std::getline(lines, line);) depth += line.ends_with('{') - line.ends_with('}');
    }
  }
  return known;
}

// A reply without what differs from cluster to cluster and from day to day: of a message its fields that the store
// reads, of an HTTP reply the headers that it checks.
std::string ShapeOf(const std::string& name, const std::string& reply) {
  if (reply.starts_with("status ")) return reply;
  std::istringstream lines(reply);
  std::string shape;
  if (name.starts_with("GET ")) {
    static const std::regex checked("^(HTTP|accept-ranges|content-length|content-range|content-encoding|etag)");
    for (std::string line; std::getline(lines, line);) {
      if (!std::regex_search(line, checked)) continue;
      if (line.find("Transfer") != std::string::npos) continue;
      shape += std::regex_replace(line, std::regex("^etag: \"[0-9a-f]{8}\"$"), "etag: \"CRC-32C\"") + "\n";
    }
    // Of an error the body is of no interest; of what is packed, how well is not.
    if (!shape.starts_with("HTTP 2")) shape = shape.substr(0, shape.find('\n'));
    return std::regex_replace(shape, std::regex("bytes 0-0/[0-9]+"), "bytes 0-0/SIZE");
  }
  lines = std::istringstream(WithoutUnknown(reply));
  for (std::string line; std::getline(lines, line);) {
    static const std::regex kept_value(
        "(is_directory|is_compressed|is_chunk_manifest|size|offset|name|directory|new_parent_path):");
    shape += std::regex_search(line, kept_value) ? line : line.substr(0, line.find(':'));
    shape += '\n';
  }
  return shape;
}

Replies ShapesOf(const Replies& replies) {
  Replies shapes;
  for (const auto& [name, reply] : replies) shapes[name] = ShapeOf(name, reply);
  return shapes;
}

Replies Recorded() {
  std::ifstream file(kFixtures);
  return nlohmann::json::parse(file).get<Replies>();
}

Replies AskFake() {
  testing::FakeSeaweed cluster;
  Asker asker(cluster.filer());
  const int64_t begin = asker.Now();
  cluster.Put("/fixtures/plain.bin", kPlain);
  cluster.Put("/fixtures/text.txt", kText, {.compressed = true});
  cluster.Put("/fixtures/empty", "");
  Replies replies = asker.AskAll();
  cluster.Remove("/fixtures/empty");
  replies.merge(asker.AskForChanges(begin, 4));
  return replies;
}

Replies AskReal() {
  const char* const named = std::getenv("MLCACHE_TEST_SEAWEEDFS");
  const std::string filer = named == nullptr ? "" : named;
  testing::FilerHttp http(filer);
  http.Delete("/fixtures");
  Asker asker(filer);
  const int64_t begin = asker.Now();
  http.Put("/fixtures/plain.bin", kPlain);
  http.Put("/fixtures/text.txt", kText);
  http.Put("/fixtures/empty", "");
  Replies replies = asker.AskAll();
  http.Delete("/fixtures/empty");
  replies.merge(asker.AskForChanges(begin, 4));
  http.Delete("/fixtures");
  return replies;
}

TEST(SeaweedFixtures, TheFakeSaysWhatTheRealOneSaid) {
  const Replies real = ShapesOf(Recorded());
  const Replies fake = ShapesOf(AskFake());
  ASSERT_GE(real.size(), 20U);
  for (const auto& [name, shape] : real) {
    const auto found = fake.find(name);
    ASSERT_NE(found, fake.end()) << name;
    EXPECT_EQ(found->second, shape) << name;
  }
  EXPECT_EQ(fake.size(), real.size());
}

TEST(SeaweedFixtures, ARealClusterStillSaysSo) {
  if (!HasRealSeaweed()) GTEST_SKIP() << "no MLCACHE_TEST_SEAWEEDFS=HOST:PORT: no real SeaweedFS cluster here";
  const Replies replies = AskReal();
  if (const char* path = std::getenv("MLCACHE_RECORD_SEAWEEDFS"); path != nullptr) {
    std::ofstream(path) << nlohmann::json(replies).dump(1) << "\n";
    GTEST_SKIP() << "recorded in " << path;
  }
  EXPECT_EQ(ShapesOf(replies), ShapesOf(Recorded()));
}

TEST(SeaweedFixtures, RecordedEntriesAreUnderstood) {
  const Replies recorded = Recorded();
  const std::map<std::string, uint64_t> files = {
      {"plain.bin", kPlain.size()}, {"text.txt", kText.size()}, {"empty", 0}};
  for (const auto& [name, size] : files) {
    filer_pb::LookupDirectoryEntryResponse reply;
    const std::string text = WithoutUnknown(recorded.at("lookup /fixtures " + name));
    ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &reply)) << name;
    const Result<std::optional<SeaweedEntry>> entry = ParseSeaweedEntry(reply.entry());
    ASSERT_TRUE(entry && *entry) << name;
    EXPECT_EQ((*entry)->info.type, FileType::kRegular);
    EXPECT_EQ((*entry)->info.size, size) << name;
    EXPECT_GT((*entry)->info.mtime_ns, 1'700'000'000'000'000'000) << name;
    EXPECT_GT((*entry)->info.ctime_ns, 0) << name;
    EXPECT_GT(reply.log_ts_ns(), 0);
  }
}

}  // namespace
}  // namespace mlcache::store
