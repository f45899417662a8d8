// mlcache-mount from its command line to its exit code.
#pragma once

#include "shim/request.h"

namespace mlcache::shim {

// `fault_hook` is empty in the program that is installed.
int MountMain(int argc, char** argv, FaultHook fault_hook);

}  // namespace mlcache::shim
