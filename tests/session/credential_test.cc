// Named credential profiles: the file, who may use which, and that cached bytes stay with the rights they came by.
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "cached/session/credential_table.h"
#include "cached/session/handshake.h"
#include "tests/session/harness.h"

namespace mlcache::session {
namespace {

using testing::SessionClient;
using testing::SessionTest;

constexpr char kGood[] =
    "# who may mount with which keys\n"
    "[team-a]\n"
    "uids = 1001, 1002\n"
    "aws_profile = datasets-a\n"
    "\n"
    "[open]   ; for everybody\n"
    "uids=all\n"
    "[nobody]\n";

TEST(CredentialTableTest, NamesChooseKeysForListedUsers) {
  const CredentialTable table = CredentialTable::Parse(kGood, "/etc/c").value();
  EXPECT_EQ(table.Choose("team-a", 1002, false)->aws_profile, "datasets-a");
  EXPECT_EQ(table.Choose("open", 77, false)->aws_profile, "open");
  EXPECT_EQ(table.Choose("nobody", 0, true)->name, "nobody");
  const auto refused = table.Choose("team-a", 1003, false);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), Code::kPermissionDenied);
  for (const char* part : {"1003", "team-a", "/etc/c"})
    EXPECT_NE(refused.error().message().find(part), std::string::npos) << refused.error();
  EXPECT_EQ(table.Choose("nobody", 1001, false).error().code(), Code::kPermissionDenied);
  const auto unknown = table.Choose("team-b", 1003, false);
  ASSERT_FALSE(unknown.has_value());
  EXPECT_EQ(unknown.error().code(), Code::kNotFound);
  EXPECT_NE(unknown.error().message().find("'team-b'"), std::string::npos);
  EXPECT_NE(unknown.error().message().find("may use: open"), std::string::npos) << unknown.error();
}

TEST(CredentialTableTest, BadLinesAreNamedAndNeverShown) {
  for (const char* text : {"uids = 1\n", "[a\nuids=1\n", "[a b]\n", "[]\n", "[a]\n[a]\n", "[a]\nuids = alice\n",
                           "[a]\nuids =\n", "[a]\nuids = 1,,2\n", "[a]\nuids = 4294967296\n", "[a]\naws_profile =\n",
                           "[a]\naws_secret_access_key = hunter2\n", "[a]\nhunter2\n"}) {
    const auto table = CredentialTable::Parse(text, "/etc/c");
    ASSERT_FALSE(table.has_value()) << text;
    EXPECT_EQ(table.error().code(), Code::kInvalidArgument);
    EXPECT_NE(table.error().message().find("/etc/c:"), std::string::npos) << table.error();
    EXPECT_EQ(table.error().message().find("hunter2"), std::string::npos) << table.error();
  }
}

class CredentialTest : public SessionTest {
 protected:
  static constexpr char kS3Url[] = "s3://bucket/data/sets";

  void Write(const std::string& text) {
    options_.credentials_file = socket_dir_ + "/credentials";
    std::ofstream(options_.credentials_file) << text;
  }

  static Hello HelloWith(const std::string& credential, const std::string& url = kS3Url) {
    Hello hello = SessionClient::HelloFor(url);
    hello.mutable_options()->set_credential(credential);
    return hello;
  }

  // Nothing when the mount is let in.
  std::optional<Code> CodeFor(uid_t uid, const Hello& hello) {
    const auto credential = CredentialOf(hello, {.pid = 1, .uid = uid, .gid = uid}, options_);
    if (credential.has_value()) return std::nullopt;
    return credential.error().code();
  }
};

TEST_F(CredentialTest, WhoMayMountWithWhat) {
  options_.allowed_uids = std::vector<uid_t>{2000};
  EXPECT_EQ(CodeFor(1001, HelloWith("team-a")), Code::kNotFound);  // no file
  Write(kGood);
  // The daemon's own keys are for its allowed users, a profile for those it lists.
  EXPECT_EQ(CodeFor(2000, HelloWith("")), std::nullopt);
  EXPECT_EQ(CodeFor(1001, HelloWith("")), Code::kPermissionDenied);
  EXPECT_EQ(CodeFor(1001, HelloWith("team-a")), std::nullopt);
  EXPECT_EQ(CodeFor(2000, HelloWith("team-a")), Code::kPermissionDenied);
  EXPECT_EQ(CodeFor(0, HelloWith("team-a")), std::nullopt);
  EXPECT_EQ(CodeFor(1001, HelloWith("team-a", "file:///data/sets")), Code::kInvalidArgument);
  EXPECT_EQ(CodeFor(0, HelloWith("team-a", "s3://bucket?profile=x")), Code::kInvalidArgument);
  EXPECT_EQ(CodeFor(0, HelloWith("", "s3://bucket?profile=x")), std::nullopt);
  EXPECT_EQ(CodeFor(2000, HelloWith("", "s3://bucket?profile=x")), Code::kPermissionDenied);
  // The next mount sees a change.
  Write("[team-a]\nuids = 2000\n");
  EXPECT_EQ(CodeFor(2000, HelloWith("team-a")), std::nullopt);
  ASSERT_EQ(chmod(options_.credentials_file.c_str(), 0666), 0);
  EXPECT_EQ(CodeFor(2000, HelloWith("team-a")), Code::kPermissionDenied);
  ASSERT_EQ(unlink(options_.credentials_file.c_str()), 0);
  EXPECT_EQ(CodeFor(2000, HelloWith("team-a")), Code::kNotFound);
}

TEST_F(CredentialTest, CachedBytesAreSharedByOneProfileAndNotWithOthers) {
  store_->Put("file", "content");
  Write("[team-a]\nuids = all\n[team-b]\nuids = all\n");
  Start();
  const auto read = [this](const std::string& credential) {
    auto client = Mount(HelloWith(credential));
    ASSERT_NE(client, nullptr);
    EXPECT_EQ(client->ReadAll(client->Lookup(ring::kRootNode, "file").attributes().node), "content");
    client.reset();
    EXPECT_TRUE(AllIdle());
  };
  read("team-a");
  read("team-a");
  EXPECT_EQ(store_->reads(), 1U);
  read("team-b");
  EXPECT_EQ(store_->reads(), 2U);
  read("");
  EXPECT_EQ(store_->reads(), 3U);
  read("team-b");
  EXPECT_EQ(store_->reads(), 3U);
}

TEST_F(CredentialTest, ANodeOfAnotherProfileIsNone) {
  store_->Put("file", "content");
  Write("[team-a]\nuids = all\n[team-b]\nuids = all\n");
  Start();
  auto one = Mount(HelloWith("team-a"));
  auto other = Mount(HelloWith("team-b"));
  const uint64_t node = one->Lookup(ring::kRootNode, "file").attributes().node;
  ASSERT_NE(node, 0U);
  EXPECT_TRUE(one->GetAttr(node).ok());
  EXPECT_FALSE(other->GetAttr(node).ok());
}

}  // namespace
}  // namespace mlcache::session
