// libfuse's low-level API in the one version this project is written against.
#pragma once

#define FUSE_USE_VERSION 312
#include <fuse3/fuse_lowlevel.h>
