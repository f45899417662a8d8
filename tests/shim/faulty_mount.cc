// mlcache-mount with two faults built in: looking up "poison" crashes the server, looking up "hang" stops the worker.
#include <unistd.h>

#include <cstdlib>

#include "shim/mount_program.h"

int main(int argc, char** argv) {
  return mlcache::shim::MountMain(argc, argv, [](mlcache::ring::Op op, std::string_view name) {
    if (op != mlcache::ring::Op::kLookup) return;
    if (name == "poison") ::_exit(66);
    while (name == "hang") ::pause();
  });
}
