#include "shim/mount_program.h"

int main(int argc, char** argv) { return mlcache::shim::MountMain(argc, argv, {}); }
