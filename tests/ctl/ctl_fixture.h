// mlcachectl run in this process over a control service with canned answers.
#pragma once

#include <gtest/gtest.h>

#include <sstream>
#include <string>
#include <vector>

#include "ctl/verb.h"
#include "tests/fakes/fake_control_server.h"
#include "tests/fakes/temp_directory.h"

namespace mlcache::ctl {

class CtlTest : public ::testing::Test {
 protected:
  // Runs a command with the fake's socket directory; its exit code.
  int Run(std::vector<std::string> args, bool terminal = false) {
    args.insert(args.begin(), "--socket_dir=" + socket_dir_);
    return RunBare(args, terminal);
  }
  int RunBare(const std::vector<std::string>& args, bool terminal = false) {
    out_.str("");
    err_.str("");
    Console console{.out = out_, .err = err_, .out_is_terminal = terminal, .err_is_terminal = terminal};
    return Main(args, console);
  }
  std::string out() const { return out_.str(); }
  std::string err() const { return err_.str(); }

  testing::TempDirectory directory_;
  std::string socket_dir_ = directory_.path() + "/run";
  testing::FakeControlServer server_{socket_dir_};

 private:
  std::ostringstream out_;
  std::ostringstream err_;
};

}  // namespace mlcache::ctl
