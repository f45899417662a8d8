// What systemd and Prometheus themselves say of the files we ship.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "tests/fakes/temp_directory.h"

namespace mlcache {
namespace {

const std::string kSource = MLCACHE_SOURCE_DIR;

std::string ReadFile(const std::string& path) {
  std::ifstream file(kSource + "/" + path);
  EXPECT_TRUE(file.good()) << path;
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

bool Installed(const std::string& program) {
  return std::system(("command -v " + program + " >/dev/null").c_str()) == 0;
}

struct Ended {
  int status = -1;
  std::string output;
};

Ended RunCommand(const std::string& command) {
  Ended ended;
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return ended;
  std::array<char, 4096> buffer{};
  while (const size_t got = fread(buffer.data(), 1, buffer.size(), pipe)) ended.output.append(buffer.data(), got);
  const int status = pclose(pipe);
  ended.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return ended;
}

// The unit with its programs where they can be found, since systemd looks whether they are there.
std::string CopyOfUnit(const testing::TempDirectory& directory, const std::string& name) {
  std::string text = ReadFile("systemd/" + name);
  for (const char* program : {"mlcached", "mlcache-mount"}) {
    const std::string file = directory.Write(std::string("bin/") + program, "#!/bin/sh\n");
    chmod(file.c_str(), 0755);
    const std::string installed = std::string("=/usr/bin/") + program + " ";
    for (size_t at = 0; (at = text.find(installed)) != std::string::npos;)
      text.replace(at, installed.size(), "=" + file + " ");
  }
  return directory.Write(name, text);
}

TEST(SystemdUnits, AreCleanForSystemdAnalyze) {
  if (!Installed("systemd-analyze")) GTEST_SKIP() << "systemd-analyze is not installed";
  const testing::TempDirectory directory;
  const std::string daemon = CopyOfUnit(directory, "mlcached.service");
  const std::string mount = CopyOfUnit(directory, "mlcache-mount@.service");
  std::filesystem::copy_file(mount, directory.path() + "/mlcache-mount@imagenet.service");
  const Ended ended = RunCommand("SYSTEMD_UNIT_PATH=" + directory.path() + ": systemd-analyze verify --man=no " +
                                 daemon + " " + directory.path() + "/mlcache-mount@imagenet.service");
  EXPECT_EQ(ended.status, 0) << ended.output;
  EXPECT_EQ(ended.output, "");
}

TEST(SystemdUnits, TheDaemonIsSandboxed) {
  if (!Installed("systemd-analyze")) GTEST_SKIP() << "systemd-analyze is not installed";
  const testing::TempDirectory directory;
  const std::string daemon = CopyOfUnit(directory, "mlcached.service");
  const Ended ended = RunCommand("systemd-analyze security --offline=yes --threshold=30 " + daemon);
  EXPECT_EQ(ended.status, 0) << ended.output;
}

TEST(SystemdUnits, TheMountStaysInTheNamespaceOfAll) {
  std::istringstream unit(ReadFile("systemd/mlcache-mount@.service"));
  for (std::string line; std::getline(unit, line);) {
    for (const char* option :
         {"Private", "Protect", "ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths", "BindPaths", "RootDirectory",
          "TemporaryFileSystem", "MountFlags", "DynamicUser", "StateDirectory", "RuntimeDirectory", "LoadCredential"}) {
      EXPECT_FALSE(line.starts_with(option)) << line;
    }
  }
}

TEST(SystemdUnits, TheUserIsMadeBySysusers) {
  if (!Installed("systemd-sysusers")) GTEST_SKIP() << "systemd-sysusers is not installed";
  const testing::TempDirectory directory;
  directory.Write("etc/passwd", "root:x:0:0::/root:/bin/sh\n");
  directory.Write("etc/group", "root:x:0:\n");
  const Ended ended =
      RunCommand("systemd-sysusers --root=" + directory.path() + " " + kSource + "/systemd/sysusers.conf");
  ASSERT_EQ(ended.status, 0) << ended.output;
  std::ifstream passwd(directory.path() + "/etc/passwd");
  std::stringstream text;
  text << passwd.rdbuf();
  EXPECT_NE(text.str().find("\nmlcache:x:"), std::string::npos) << text.str();
}

TEST(Prometheus, ConfigurationAndRulesAreCleanForPromtool) {
  if (!Installed("promtool")) GTEST_SKIP() << "promtool is not installed";
  const Ended config = RunCommand("promtool check config " + kSource + "/deploy/prometheus/scrape.yml");
  EXPECT_EQ(config.status, 0) << config.output;
  const Ended rules = RunCommand("promtool check rules --lint-fatal " + kSource + "/deploy/prometheus/rules.yml");
  EXPECT_EQ(rules.status, 0) << rules.output;
}

}  // namespace
}  // namespace mlcache
