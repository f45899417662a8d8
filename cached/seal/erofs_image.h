// Writes a read-only EROFS image that holds names and attributes alone, as the metadata layer of a sealed view: every
// file is one hole of its size with the two attributes by which overlayfs finds its bytes in another layer.
//
// Format: linux/fs/erofs/erofs_fs.h. Blocks of 4 KiB, extended inodes, inline attributes; a file is "chunk-based" with
// one chunk that has no address, so that a file of any size takes the same space: about 200 bytes and its name.
// Needs Linux 5.15 (chunk-based files). Not thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace mlcache::seal {

struct ImageAttributes {
  uint32_t permissions = 0644;  // st_mode & 07777
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint32_t nlink = 1;
  uint64_t size = 0;     // of files
  int64_t mtime_ns = 0;  // EROFS keeps one time: st_atime and st_ctime are the same
};

class ErofsImage {
 public:
  using Node = uint32_t;
  static constexpr Node kRoot = 0;

  // An opaque directory hides what layers below the image have in its place. `root` and the others: their attributes.
  explicit ErofsImage(const ImageAttributes& root, bool opaque);

  // Each returns the new node. `parent` is a directory; `name` is one component of 1 to 255 bytes, and new there.
  Node AddDirectory(Node parent, std::string_view name, const ImageAttributes& attributes, bool opaque);
  // `redirect`: where the bytes are in the data layer, as in "/name"; "" for a file that has none.
  Node AddFile(Node parent, std::string_view name, const ImageAttributes& attributes, std::string_view redirect);
  // `target` is of 1 to 4095 bytes.
  Node AddSymlink(Node parent, std::string_view name, const ImageAttributes& attributes, std::string_view target);
  // Makes `name` absent, whatever layers below the image have in its place.
  Node AddWhiteout(Node parent, std::string_view name);
  // Another name of a file.
  void AddName(Node parent, std::string_view name, Node node);

  size_t nodes() const { return nodes_.size(); }

  // Writes the image to `fd`, an empty file open for writing; its length in bytes. Called once.
  Result<uint64_t> Write(int fd);

 private:
  struct Child {
    std::string name;
    Node node = 0;
  };
  struct Item {
    ImageAttributes attributes;
    uint32_t type = 0;  // S_IFMT
    bool opaque = false;
    bool inlined = false;         // its data stands behind its inode
    uint64_t position = 0;        // of its inode in the image
    uint64_t data_block = 0;      // of what is not inlined
    uint64_t data_bytes = 0;      // of a directory or a link
    std::string text;             // redirect or target
    std::vector<Child> children;  // of a directory
    Node parent = kRoot;          // of a directory
  };
  class Output;

  Node Add(Node parent, std::string_view name, Item item);
  void Place();
  std::string DataOf(Node node) const;
  static std::string AttributeBytes(const Item& item);
  static uint64_t NodeBytes(const Item& item);
  std::string InodeBytes(Node node) const;

  std::vector<Item> nodes_;
  uint64_t data_begin_ = 0;  // first byte behind the inodes
  uint64_t end_ = 0;
};

}  // namespace mlcache::seal
