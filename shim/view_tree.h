// The metadata of a sealed view as a tree of real files, for kernels that can mount no EROFS image: reads the daemon's
// image (cached/seal/erofs_image.h, and no other EROFS) and makes each file, empty and of the right size, with the
// attributes that overlayfs looks for.
#pragma once

#include "common/status.h"

namespace mlcache::shim {

// Fills `mount`, the root of an empty tmpfs. Needs CAP_SYS_ADMIN. The image is not trusted: kDataLoss for whatever it
// should not hold, and for more names than it has inodes (none has two names), which would cost the kernel memory.
Status CopyImageTree(int image, int mount);

}  // namespace mlcache::shim
