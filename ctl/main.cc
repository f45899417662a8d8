// mlcachectl: shows, warms and checks the cache of this host's mlcached.
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "ctl/verb.h"

int main(int argc, char** argv) {
  // gRPC's own log tells a user nothing that our messages do not.
  setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);
  mlcache::ctl::Console console{.out = std::cout,
                                .err = std::cerr,
                                .out_is_terminal = isatty(STDOUT_FILENO) == 1,
                                .err_is_terminal = isatty(STDERR_FILENO) == 1};
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) console.columns = size.ws_col;
  return mlcache::ctl::Main(std::vector<std::string>(argv + 1, argv + argc), console);
}
