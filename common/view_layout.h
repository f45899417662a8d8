// What daemon and keeper agree on about a sealed view (docs/sealed.md): the names within its metadata image and its
// data layers.
#pragma once

namespace mlcache {

// Two directories of the image, two layers of the overlay. The tree is what is shown. The fence stands between it and
// the FUSE mount below, and makes kViewObjects absent there: overlayfs looks for the bytes of a sealed file by their
// place in *every* layer below, and must not ask the FUSE server for each.
inline constexpr char kViewTree[] = "tree";
inline constexpr char kViewFence[] = "fence";

// The directory of a data layer that holds the object files. Below a view no other file of this name is seen at the
// root of the mount.
inline constexpr char kViewObjects[] = ".mlcache-objects";

}  // namespace mlcache
